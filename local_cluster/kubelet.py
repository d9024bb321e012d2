"""One kubelet: its configuration, its command line, and the mounts it must find.

``python -m local_cluster.kubelet with-one-user|with-all-users PROGRAM …`` is how it starts: in a mount namespace of its
own, because it writes to fixed places of which every node needs its own.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local_cluster import linux

KEPT_FREE = "local.kaito.sh/disk-kept-free-percent"
"""A label: how much of its disk a node's kubelet keeps free. With less the node has disk pressure."""
MEASURABLE = ("ext2", "ext3", "ext4", "overlay", "xfs")
"""File systems that cadvisor knows. A kubelet that is to measure another does not start."""
PRIVATE = ("/var/lib/kubelet", "/var/log")
"""Where the kubelet writes whatever its flags say: the device-plugin socket and links to container logs."""


@dataclass(frozen=True, slots=True)
class Taint:
    """What keeps pods away that do not tolerate it."""

    key: str
    value: str = ""
    effect: str = "NoSchedule"


@dataclass(frozen=True, slots=True)
class Node:
    """A node to be: ``index`` (1 to 254) decides its address 10.244.255.index and pod range 10.244.index.0/24."""

    name: str
    index: int
    directory: Path
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    provider_id: str = ""
    gpus: int = 0
    cgroup: str = ""
    """Where the control groups of its pods are; "" if it limits no pods."""
    measured: bool = True
    """Whether a kubelet can tell how full its disk is."""

    @property
    def address(self) -> str:
        """The node's InternalIP."""
        return f"10.244.255.{self.index}"

    @property
    def pod_range(self) -> str:
        """Where its pods' addresses come from."""
        return f"10.244.{self.index}.0/24"

    @property
    def runtime_socket(self) -> Path:
        """Where its container runtime listens."""
        return self.directory / "cri.sock"


def configuration(node: Node) -> dict[str, Any]:
    """The KubeletConfiguration: a pod that takes more than it may is evicted, and nobody else, for the machine is not
    the kubelet's. A node with the label KEPT_FREE is the exception."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.address,
        # Reached from inside the namespace only, by the API server, which has no client certificate to show.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "cgroupsPerQOS": bool(node.cgroup),
        "containerRuntimeEndpoint": f"unix://{node.runtime_socket}",
        "enforceNodeAllocatable": [],
        "evictionHard": {
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
            "memory.available": "0%",
            "nodefs.available": f"{node.labels.get(KEPT_FREE, 0)}%",
            "nodefs.inodesFree": "0%",
        },
        "failCgroupV1": False,
        "failSwapOn": False,
        "featureGates": {"KubeletInUserNamespace": True},
        "healthzPort": 0,
        "imageGCHighThresholdPercent": 100,  # none is ever thrown away, however full the machine's disk is
        "localStorageCapacityIsolation": node.measured,
        "makeIPTablesUtilChains": False,
        "podLogsDir": str(node.directory / "pods"),
        "providerID": node.provider_id,
        "readOnlyPort": 0,
        "registerWithTaints": [{"key": t.key, "value": t.value, "effect": t.effect} for t in node.taints],
        "resolvConf": "",
        "serializeImagePulls": False,
        "volumeStatsAggPeriod": "10s" if node.measured else "-1s",
    }


def command(node: Node, *, program: Path, kubeconfig: Path, config: Path) -> list[str]:
    """The command line that starts it among its own mounts."""
    labels = ",".join(f"{key}={value}" for key, value in sorted(node.labels.items()))
    return [
        sys.executable,
        "-m",
        "local_cluster.kubelet",
        "with-one-user" if not node.cgroup else "with-all-users",
        str(program),
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.address}",
        f"--root-dir={node.directory / 'kubelet'}",
        f"--cert-dir={node.directory / 'pki'}",
        *([f"--node-labels={labels}"] if labels else []),
    ]


def main() -> None:
    """Becomes the kubelet."""
    linux.leave_mount_namespace()
    for place in PRIVATE:
        linux.tmpfs(place)
    users, program = sys.argv[1:3]
    if users == "with-one-user":
        linux.make_chown_succeed_without_effect()
    os.execv(program, sys.argv[2:])  # noqa: S606 - no shell is meant


if __name__ == "__main__":
    main()
