"""What AKS refuses about an agent pool before anything begins, with its codes and wording. Pure.

Wording from answers that people quote (Azure/AKS #2866, terraform-provider-azurerm #18567) and the REST reference.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

LINUX_NAME, WINDOWS_NAME = re.compile(r"[a-z][a-z0-9]{0,11}"), re.compile(r"[a-z][a-z0-9]{0,5}")
IMMUTABLE = (
    "vmSize",
    "osDiskSizeGB",
    "osDiskType",
    "osType",
    "type",
    "scaleSetPriority",
    "scaleSetEvictionPolicy",
    "spotMaxPrice",
    "availabilityZones",
    "vnetSubnetID",
    "podSubnetID",
    "maxPods",
    "gpuInstanceProfile",
)
"""Properties that a PUT on an existing pool may not change (AKS REST reference, Agent Pools)."""
RANGES = {"count": (0, 1000), "osDiskSizeGB": (0, 2048), "maxPods": (10, 250)}
TAINT = re.compile(r"[^=:\s]+(=[^=:\s]*)?:(NoSchedule|PreferNoSchedule|NoExecute)")
OWN_LABEL_DOMAIN = "kubernetes.azure.com"
KUBERNETES_DOMAINS = ("kubernetes.io", "k8s.io")
KUBERNETES_ALLOWED = ("kubelet.kubernetes.io", "node.kubernetes.io")
SYSTEM_LABELS = ("node.kubernetes.io/instance-type",)


class NotAllowed(NamedTuple):
    """An answer of 4xx."""

    status: int
    code: str
    message: str


def mistakes(name: str, wanted: Mapping[str, Any]) -> Iterator[NotAllowed]:
    """What is wrong with a pool of this name and these properties, whether it is there or not."""
    windows = wanted.get("osType") == "Windows"
    if not (WINDOWS_NAME if windows else LINUX_NAME).fullmatch(name):
        rule = f"^[a-z][a-z0-9]{{0,{5 if windows else 11}}}$"
        yield _parameter("agentPool.name", name, f"It must match {rule}.")
    for key, (least, most) in RANGES.items():
        value = wanted.get(key)
        if value is not None and (not isinstance(value, int) or not least <= value <= most):
            yield _parameter(f"agentPoolProfile.{key}", value, f"It must be between {least} and {most}.")
    for key in ("nodeLabels", "tags"):
        if not isinstance(wanted.get(key, {}), Mapping):
            yield _parameter(f"agentPoolProfile.{key}", wanted[key], "It must be an object.")
            return
    yield from _label_mistakes(wanted.get("nodeLabels") or {})
    yield from _taint_mistakes(wanted)
    yield from _spot_mistakes(wanted)


def _taint_mistakes(wanted: Mapping[str, Any]) -> Iterator[NotAllowed]:
    for taint in wanted.get("nodeTaints") or ():
        if not TAINT.fullmatch(str(taint)):
            yield _parameter("agentPoolProfile.nodeTaints", taint, "It must be key=value:effect.")
    if wanted.get("nodeInitializationTaints"):
        told = "Node initialization taints can only be set by operations on a managed cluster, not on an agent pool."
        yield NotAllowed(400, "NodeInitializationTaintsFeatureNotSupported", told)


def changes(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> NotAllowed | None:
    """What a PUT may not change on an existing pool."""
    for key in IMMUTABLE:
        if key in wanted and wanted[key] != before.get(key):
            told = f"Changing property 'properties.{key}' is not allowed."
            return NotAllowed(400, "PropertyChangeNotAllowed", told)
    return None


def _label_mistakes(labels: Mapping[str, Any]) -> Iterator[NotAllowed]:
    for label in labels:
        domain, slash, _ = label.rpartition("/")
        if _within(domain, (OWN_LABEL_DOMAIN,)) or label in SYSTEM_LABELS:
            reserved = (
                f"The '{OWN_LABEL_DOMAIN}' prefix is preserved by aks system labels" if slash else "It is reserved"
            )
            yield NotAllowed(400, "BadRequest", f"Invalid node label key {label}. {reserved}")
        elif _within(domain, KUBERNETES_DOMAINS) and not _within(domain, KUBERNETES_ALLOWED):
            yield NotAllowed(
                400,
                "BadRequest",
                "For Kubernetes version greater than or equal to 1.16, node label keys in the 'kubernetes.io' or "
                "'k8s.io' namespace must begin with an allowed prefix (kubelet.kubernetes.io, node.kubernetes.io). "
                f"For more information, please check https://aka.ms/aks-node-labels-116. Target: {label}",
            )


def _within(domain: str, domains: tuple[str, ...]) -> bool:
    return any(domain == each or domain.endswith(f".{each}") for each in domains)


def _spot_mistakes(wanted: Mapping[str, Any]) -> Iterator[NotAllowed]:
    spot, price = wanted.get("scaleSetPriority") == "Spot", wanted.get("spotMaxPrice")
    if not spot and (price is not None or "scaleSetEvictionPolicy" in wanted):
        told = "It can only be set where scaleSetPriority is Spot."
        yield _parameter("agentPoolProfile.spotMaxPrice", price, told)
    if spot and wanted.get("mode") == "System":
        yield _parameter("agentPoolProfile.scaleSetPriority", "Spot", "A system pool cannot be a spot pool.")
    if spot and price is not None and (price != -1 and (price <= 0 or round(price, 5) != price)):
        told = "It must be -1 or greater than 0 with at most five decimal places."
        yield _parameter("agentPoolProfile.spotMaxPrice", price, told)


def _parameter(name: str, value: object, rule: str) -> NotAllowed:
    return NotAllowed(400, "InvalidParameter", f"The value of parameter {name} is invalid: {value}. {rule}")
