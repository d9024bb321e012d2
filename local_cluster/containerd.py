"""The other container runtime of a node: containerd and runc, as on a real one. For root on Linux alone.

Images come from the cluster's own registry, to which the nodes have access by themselves, as those of AKS have to an
attached one. A machine that is switched off takes its containers along: they are in its process namespace.
"""

import asyncio
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from local_cluster import cgroups, linux, registry
from local_cluster.errors import LocalClusterError
from local_cluster.kubelet import Node
from local_cluster.pod_network import PodNetwork
from local_cluster.processes import Program

log = logging.getLogger(__name__)

PROGRAMS = ("containerd", "containerd-shim-runc-v2", "runc")
PLUGIN_PLACES = ("/usr/lib/cni", "/opt/cni/bin")
"""Where Debian and everybody else keep the plugins of CNI."""
A_MACHINE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "unchanged", "--")
"""A process table of its own; mounts go on being shared with the kubelet."""


class Containerd:
    """One node's containerd. ``host``: the registry's address; ``pause``: the image that holds a pod's namespaces."""

    def __init__(self, node: Node, *, host: str, pause: str, logs: Path, environment: Mapping[str, str]) -> None:
        self._node = node
        self._host = host
        self._pause = pause
        self._place = node.directory / "containerd"
        self._state = Path("/run") / f"containerd-{node.index}"
        self._log_file = logs / f"containerd-{node.name}.log"
        self._environment = environment

    async def serve(self, socket_path: Path) -> None:
        """Runs it until cancelled; then all containers have ended and the node's mounts and groups are gone."""
        plugins = check()
        await PodNetwork(node_address=self._node.address, pod_range=self._node.pod_range).open()
        cgroups.make(self._node.cgroup)
        # What the kubelet mounts, such as a Secret, has to be seen by containerd, which has mounts of its own.
        linux.share(self._node.directory)
        self._write_configuration(socket_path, plugins=plugins)
        argv = [*A_MACHINE, "containerd", "--config", str(self._place / "config.toml")]
        program = Program("containerd", argv, log_file=self._log_file, environment=self._environment)
        await program.start()
        try:
            await asyncio.Event().wait()
        finally:
            await program.stop()
            await asyncio.to_thread(self._clear)

    def _write_configuration(self, socket_path: Path, *, plugins: Path) -> None:
        self._place.mkdir(parents=True, exist_ok=True)
        certificates, networks = self._place / "certs.d", self._place / "net.d"
        (certificates / self._host).mkdir(parents=True, exist_ok=True)
        networks.mkdir(exist_ok=True)
        (certificates / self._host / "hosts.toml").write_text(f'[host."http://{self._host}"]\n')
        (networks / "10-local.conflist").write_text(json.dumps(network(self._node, state=self._state)))
        cri = {
            "sandbox_image": self._pause,
            "restrict_oom_score_adj": True,  # to lower it takes a capability that root in a container may lack
            "enable_unprivileged_ports": True,
            "cni": {"bin_dir": str(plugins), "conf_dir": str(networks)},
            "containerd": {"snapshotter": snapshotter(self._place), "discard_unpacked_layers": True},
            "registry": {
                "config_path": str(certificates),
                "configs": {self._host: {"auth": {"username": registry.USER, "password": registry.PASSWORD}}},
            },
        }
        configuration = {
            "version": 2,
            "root": str(self._place / "root"),
            "state": str(self._state),
            "grpc": {"address": str(socket_path)},
            "plugins": {"io.containerd.grpc.v1.cri": cri},
        }
        (self._place / "config.toml").write_text(toml(configuration))

    def _clear(self) -> None:
        linux.unmount_below(self._node.directory)
        shutil.rmtree(self._state, ignore_errors=True)
        cgroups.remove(self._node.cgroup)


def check() -> Path:
    """The directory of the CNI plugins. Raises LocalClusterError that says what to install."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    plugins = next((Path(place) for place in PLUGIN_PLACES if (Path(place) / "ptp").exists()), None)
    if missing or plugins is None:
        lacking = ", ".join([*missing, *([] if plugins else ["the CNI plugin ptp"])])
        raise LocalClusterError(
            f"containers need {lacking} (Debian: apt-get install containerd runc containernetworking-plugins)"
        )
    return plugins


def network(node: Node, *, state: Path) -> dict[str, Any]:
    """The CNI configuration: a pair of devices joins each pod with the cluster's namespace, which routes."""
    addresses = {"type": "host-local", "ranges": [[{"subnet": node.pod_range}]], "routes": [{"dst": "0.0.0.0/0"}]}
    return {
        "cniVersion": "0.4.0",
        "name": "local",
        "plugins": [{"type": "ptp", "ipam": {**addresses, "dataDir": str(state / "addresses")}}],
    }


def snapshotter(place: Path) -> str:
    """overlayfs where a file system can be laid over ``place``, else copies."""
    layers = [place / "try" / layer for layer in ("lower", "upper", "work", "merged")]
    for layer in layers:
        layer.mkdir(parents=True, exist_ok=True)
    lower, upper, work, merged = layers
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    try:
        linux.mount("overlay", merged, kind="overlay", data=options)
    except OSError:
        return "native"
    linux.unmount(merged)
    return "overlayfs"


def toml(table: Mapping[str, Any]) -> str:
    """A table of strings, numbers, booleans and tables as TOML, which Python reads and does not write."""
    lines: list[str] = []
    _write_table(lines, (), table)
    return "\n".join(lines) + "\n"


def _write_table(lines: list[str], path: tuple[str, ...], table: Mapping[str, Any]) -> None:
    if path:
        lines.append(f"[{'.'.join(json.dumps(key) for key in path)}]")
    # A string of JSON is one of TOML, and so are true, false and numbers.
    lines += [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            _write_table(lines, (*path, key), value)
