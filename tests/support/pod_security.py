"""The restricted Pod Security profile, evaluated on a pod's spec (kubernetes.io: Pod Security Standards)."""

from collections.abc import Iterator, Mapping
from typing import Any

Spec = Mapping[str, Any]
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
"""The kinds of volumes that a restricted pod may have."""


def violations(pod: Spec) -> list[str]:
    """What the profile would object to; empty for a restricted pod."""
    return [*_of_pod(pod), *(said for container in _containers(pod) for said in _of_container(container, pod))]


ONLY_RESTRICTED = ("allowPrivilegeEscalation", "runAsNonRoot", "seccompProfile", "capabilities")
"""What the restricted profile asks for beyond the baseline profile."""


def baseline_violations(pod: Spec) -> list[str]:
    """What the baseline profile would object to: less, and of capabilities and seccomp only what is added."""
    added = [
        f"container {each['name']}: capabilities"
        for each in _containers(pod)
        if each.get("securityContext", {}).get("capabilities", {}).get("add")
    ]
    return [*(said for said in violations(pod) if not said.endswith(ONLY_RESTRICTED)), *added]


def _containers(pod: Spec) -> list[Spec]:
    return [*pod.get("initContainers", []), *pod.get("containers", []), *pod.get("ephemeralContainers", [])]


def _of_pod(pod: Spec) -> Iterator[str]:
    yield from (name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name))
    for volume in pod.get("volumes", []):
        yield from (f"volume {volume['name']}: {kind}" for kind in volume.keys() - VOLUMES - {"name"})
    if pod.get("securityContext", {}).get("sysctls"):
        yield "sysctls"


def _of_container(container: Spec, pod: Spec) -> Iterator[str]:
    own = container.get("securityContext", {})
    both = {**pod.get("securityContext", {}), **own}
    wrong = {
        "hostPort": any("hostPort" in port for port in container.get("ports", [])),
        "privileged": own.get("privileged", False),
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation", True),
        "capabilities": not _drops_all(own.get("capabilities", {})),
        "runAsNonRoot": both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0,
        "seccompProfile": both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"),
        "procMount": own.get("procMount", "Default") != "Default",
        "seLinuxOptions": bool(both.get("seLinuxOptions")),
    }
    yield from (f"container {container['name']}: {name}" for name, is_wrong in wrong.items() if is_wrong)


def _drops_all(capabilities: Spec) -> bool:
    return "ALL" in capabilities.get("drop", []) and set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}
