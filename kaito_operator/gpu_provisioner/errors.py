"""Azure's errors, classified once: from status and code, nested details, and only then the text."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

UNAVAILABLE = "all requested instance types were unavailable during launch"
"""KAITO's controllers look for exactly these words to stop asking (facts: contract with KAITO 0.2 to 0.12)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the cloud said no: a reason of one word, a message for people, seconds until it is worth asking again."""

    reason: str
    message: str
    retry_after: float
    terminal: bool = False
    """Whether asking again for the same is hopeless until somebody changes something."""


MINUTES, HOURS = 60.0, 3600.0

CODES: dict[str, tuple[str, float, bool, str]] = {
    "QuotaExceeded": ("QuotaExceeded", 10 * MINUTES, True, "ask Azure for more quota, or take another instanceType"),
    "SkuNotAvailable": ("SkuNotAvailable", 23 * HOURS, True, "take another instanceType or region"),
    "VMSizeNotSupported": ("SkuNotAvailable", 23 * HOURS, True, "take another instanceType or region"),
    "AllocationFailed": ("AllocationFailed", 1 * HOURS, True, "Azure has no such machine free now"),
    "ZonalAllocationFailed": ("AllocationFailed", 1 * HOURS, True, "Azure has no such machine free now"),
    "OverconstrainedAllocationRequest": ("AllocationFailed", 1 * HOURS, True, "Azure has no such machine free now"),
    "InsufficientSubnetSize": ("SubnetFull", 10 * MINUTES, True, "the subnet has no addresses left"),
    "MissingSubscriptionRegistration": (
        "ProviderNotRegistered", 1 * HOURS, True, "register Microsoft.ContainerService in the subscription",
    ),
    "AuthorizationFailed": (
        "AuthorizationFailed", 5 * MINUTES, False, "the identity needs the role Contributor on the cluster",
    ),
    "LinkedAuthorizationFailed": (
        "AuthorizationFailed", 5 * MINUTES, False, "the identity needs the role Network Contributor on the subnet",
    ),
    "Throttled": ("Throttled", 1 * MINUTES, False, ""),
    "InvalidParameter": ("InvalidRequest", 10 * MINUTES, True, ""),
}  # fmt: skip
"""Code → reason, seconds, terminal, what to do. The times are those of Karpenter's unavailable-offerings cache."""

QUOTA_WORDS = ("quota", "Current Limit", "LowPriorityCores")
SKU_WORDS = ("is not supported for subscription", "is not allowed in your subscription in location")


def classified(status: int, body: Mapping[str, Any] | None, *, retry_after: float | None = None) -> Refusal:
    """What an error of Azure Resource Manager means. ``body`` is the ``error`` object, if there was one."""
    codes = list(_flattened(body or {}))
    text = "; ".join(message for _, message in codes if message) or f"HTTP {status}"
    for code, message in reversed(codes):  # the innermost detail is the cause, the outer ones only wrap it
        known = _known(code, message)
        if known is not None:
            return _refusal(known, text, retry_after)
    return _by_status(status, text, retry_after)


def _known(code: str, message: str) -> tuple[str, float, bool, str] | None:
    if code == "OperationNotAllowed":
        # The same code is used for "no quota" and for "another operation is in progress": the text decides.
        return CODES["QuotaExceeded"] if any(word in message for word in QUOTA_WORDS) else IN_PROGRESS
    if code == "BadRequest" and any(words in message for words in SKU_WORDS):
        return CODES["SkuNotAvailable"]
    return CODES.get(code)


IN_PROGRESS = ("OperationInProgress", 15.0, False, "")


def _refusal(known: tuple[str, float, bool, str], text: str, retry_after: float | None) -> Refusal:
    reason, seconds, terminal, todo = known
    lead = f"{UNAVAILABLE}: " if terminal and reason in ("QuotaExceeded", "SkuNotAvailable", "AllocationFailed") else ""
    message = f"{lead}{text}{f' ({todo})' if todo else ''}"
    return Refusal(reason, message, min(retry_after if retry_after is not None else seconds, 1 * HOURS), terminal)


def _by_status(status: int, text: str, retry_after: float | None) -> Refusal:
    if status in (401, 403):
        return _refusal(CODES["AuthorizationFailed"], text, retry_after)
    if status == 429:
        return _refusal(CODES["Throttled"], text, retry_after)
    if status == 412:
        return Refusal("Changed", text, 1.0)
    if status == 409:
        return _refusal(IN_PROGRESS, text, retry_after)
    if status == 0 or status >= 500:
        return Refusal("CloudUnavailable", text, retry_after or 10.0)
    return Refusal("LaunchFailed", text, retry_after or 60.0)


def _flattened(error: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Code and message of an error and of everything nested in it, outermost first."""
    yield str(error.get("code") or ""), str(error.get("message") or "")
    for detail in error.get("details") or ():
        yield from _flattened(detail)
