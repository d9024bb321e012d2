"""Azure's errors, classified once: from status and code, nested details, and only then the text."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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


class Meaning(NamedTuple):
    """What a code stands for."""

    reason: str
    retry_after: float
    terminal: bool = False
    todo: str = ""
    unavailable: bool = False
    """Whether it is what KAITO calls unavailable."""
    scope: str = ""
    """What a role is missing on, where the answer does not say."""


MINUTES, HOURS = 60.0, 3600.0
LONGEST_WAIT = 1 * HOURS
"""A server may wish for any Retry-After, and gets this much at most."""
LONGEST_TEXT = 1000
"""Characters of what the cloud says that reach a condition and an Event."""

QUOTA = Meaning(
    "QuotaExceeded", 10 * MINUTES, True, "ask Azure for more quota, or take another instanceType", unavailable=True
)
SKU = Meaning("SkuNotAvailable", 1 * HOURS, True, "take another instanceType or region", unavailable=True)
ALLOCATION = Meaning("AllocationFailed", 10 * MINUTES, True, "Azure has no such machine free now", unavailable=True)
SUBNET = Meaning("SubnetFull", 10 * MINUTES, True, "the subnet has no addresses left")
UNREGISTERED = Meaning("ProviderNotRegistered", 1 * HOURS, True, "register the provider in the subscription")
NO_ROLE = Meaning(
    "AuthorizationFailed", 5 * MINUTES, todo="the identity needs the role Contributor on {scope}", scope="the cluster"
)
NO_SUBNET_ROLE = Meaning(
    "AuthorizationFailed",
    5 * MINUTES,
    todo="the identity needs the role Network Contributor on {scope}",
    scope="the subnet",
)
NO_TOKEN = Meaning("AuthorizationFailed", 1 * MINUTES, todo="see that the identity exists and is federated")
NO_CLUSTER = Meaning(
    "ClusterNotFound", 5 * MINUTES, todo="see subscription, resource group and cluster in the settings"
)
INVALID = Meaning("InvalidRequest", 10 * MINUTES, True)
IN_PROGRESS = Meaning("OperationInProgress", 20.0)
THROTTLED = Meaning("Throttled", 1 * MINUTES)
QUEUED = Meaning("Queued", 1.0, todo="many requests at once: this one waits for its turn")
CHANGED = Meaning("Changed", 1.0)
NO_ANSWER = Meaning("CloudUnavailable", 10.0)
UNKNOWN = Meaning("LaunchFailed", 1 * MINUTES)

CODES = {
    "QuotaExceeded": QUOTA,
    "InsufficientVCPUQuota": QUOTA,
    "ErrCode_InsufficientVCPUQuota": QUOTA,
    "SkuNotAvailable": SKU,
    "VMSizeNotSupported": SKU,
    "AllocationFailed": ALLOCATION,
    "ZonalAllocationFailed": ALLOCATION,
    "OverconstrainedAllocationRequest": ALLOCATION,
    "OverconstrainedZonalAllocationRequest": ALLOCATION,
    "InsufficientSubnetSize": SUBNET,
    "MissingSubscriptionRegistration": UNREGISTERED,
    "AuthorizationFailed": NO_ROLE,
    "LinkedAuthorizationFailed": NO_SUBNET_ROLE,
    "SubscriptionNotFound": NO_CLUSTER,
    "ResourceGroupNotFound": NO_CLUSTER,
    "ResourceNotFound": NO_CLUSTER,
    "Throttled": THROTTLED,
    "InvalidParameter": INVALID,
}
SCOPES = (re.compile(r"linked scope\(s\) '([^']+)'"), re.compile(r"over scope '([^']+?)(?:/agentPools/[^']*)?'"))
"""How Azure says on what a right is missing. A role on one agent pool would not do: it is for the cluster."""
QUOTA_WORDS = ("quota", "Current Limit", "LowPriorityCores")
SKU_WORDS = ("is not supported for subscription", "is not allowed in your subscription in location")


def classified(status: int, body: Mapping[str, Any] | None, *, retry_after: float | None = None) -> Refusal:
    """What an error of Azure Resource Manager means.

    ``status``: of HTTP; 0 if there was no answer. ``body``: the ``error`` object, if there was one.
    ``retry_after``: the seconds that the server asked for.
    """
    told = list(_flattened(body or {}))
    text = _one_line("; ".join(message for _, message in told if message)) or f"HTTP {status}"
    # The innermost detail is the cause, the outer ones only wrap it.
    meanings = (_by_code(code, message) for code, message in reversed(told))
    meaning = next((found for found in meanings if found is not None), None) or _by_status(status)
    return _refusal(meaning, text, retry_after)


def _by_code(code: str, message: str) -> Meaning | None:
    if code == "OperationNotAllowed":
        # The same code is used for "no quota" and for "another operation is in progress": the text decides.
        return QUOTA if any(word in message for word in QUOTA_WORDS) else IN_PROGRESS
    if code == "BadRequest" and any(words in message for words in SKU_WORDS):
        return SKU
    return CODES.get(code)


def _by_status(status: int) -> Meaning:
    if status == 0 or status >= 500:
        return NO_ANSWER
    return {401: NO_TOKEN, 403: NO_ROLE, 409: IN_PROGRESS, 412: CHANGED, 429: THROTTLED}.get(status, UNKNOWN)


def _refusal(meaning: Meaning, text: str, retry_after: float | None) -> Refusal:
    """What only a person can change is not asked again sooner because a server says so."""
    lead = f"{UNAVAILABLE}: " if meaning.unavailable else ""
    named = next((found[1] for scope in SCOPES if (found := scope.search(text))), meaning.scope)
    todo = meaning.todo.replace("{scope}", named)
    message = f"{lead}{text}{f' ({todo})' if todo else ''}"
    wish = meaning.retry_after if retry_after is None else retry_after
    wait = max(wish, meaning.retry_after) if meaning.terminal else wish
    return Refusal(meaning.reason, message, min(wait, LONGEST_WAIT), meaning.terminal)


def _one_line(text: str) -> str:
    """Something between us and Azure may answer with a whole page."""
    return " ".join(text.split())[:LONGEST_TEXT]


def _flattened(error: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Code and message of an error and of everything nested in it, outermost first."""
    yield str(error.get("code") or ""), str(error.get("message") or "")
    for detail in error.get("details") or ():
        yield from _flattened(detail)
