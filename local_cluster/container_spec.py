"""What a container is to be: read once from what the kubelet says and what the image says. Pure."""

import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local_cluster.cri import api_pb2 as cri
from local_cluster.images import Image

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""What Docker and containerd set where neither image nor pod does."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory, ``source``, that appears in the container at ``target``."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything that decides how a container starts. ``files``: path → content of small files it finds."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str
    user: int
    group: int
    hostname: str
    read_only_root: bool
    binds: tuple[Bind, ...]
    devices: tuple[Bind, ...]
    files: Mapping[str, str]
    stop_signal: signal.Signals = signal.SIGTERM
    memory_limit: int = 0
    """Bytes; 0 is none."""


def container_spec(config: Any, *, sandbox: Any, image: Image, devices: Iterable[Path] = ()) -> ContainerSpec:
    """The container that a ContainerConfig and a PodSandboxConfig of CRI describe, with more ``devices`` if any."""
    security = config.linux.security_context
    user, group = _identity(security, image)
    return ContainerSpec(
        argv=_argv(config, image),
        environment=_environment(config, hostname=sandbox.hostname, image=image, user=user),
        directory=config.working_dir or image.working_dir,
        user=user,
        group=group,
        hostname=sandbox.hostname,
        read_only_root=security.readonly_rootfs,
        binds=_binds(config, image),
        devices=(
            *(Bind(device.host_path, device.container_path) for device in config.devices),
            *(Bind(str(device), str(device)) for device in devices),
        ),
        files={
            "/etc/group": _group(group),
            "/etc/hostname": f"{sandbox.hostname}\n",
            "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
            "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",  # as in most images, the user itself has no name
            "/etc/resolv.conf": _resolv_conf(sandbox.dns_config),
        },
        stop_signal=_stop_signal(config.stop_signal),
        memory_limit=max(0, config.linux.resources.memory_limit_in_bytes),
    )


def _argv(config: Any, image: Image) -> tuple[str, ...]:
    """A pod's command replaces the image's entrypoint and its arguments; a pod's args only the arguments."""
    entrypoint = tuple(config.command) or image.entrypoint
    arguments = tuple(config.args) or (() if config.command else image.cmd)
    return entrypoint + arguments


def _environment(config: Any, *, hostname: str, image: Image, user: int) -> dict[str, str]:
    return {
        "PATH": DEFAULT_PATH,
        "HOME": "/root" if user == 0 else "/",
        "HOSTNAME": hostname,
        **image.env,
        **{variable.key: variable.value.decode(errors="surrogateescape") for variable in config.envs},
    }


def _identity(security: Any, image: Image) -> tuple[int, int]:
    """User and group. A user without a group, and without an entry in the image's /etc/passwd, has group 0."""
    user = security.run_as_user.value if security.HasField("run_as_user") else image.user
    if security.HasField("run_as_group"):
        return user, security.run_as_group.value
    return user, user if user == image.user else 0


def _binds(config: Any, image: Image) -> tuple[Bind, ...]:
    """The image's directories and the pod's volumes, outer before inner, so that a volume in a volume is seen."""
    of_image = [Bind(str(source), target, read_only=True) for target, source in image.binds.items()]
    of_pod = [Bind(mount.host_path, mount.container_path, read_only=mount.readonly) for mount in config.mounts]
    return tuple(sorted(of_image + of_pod, key=lambda bind: len(Path(bind.target).parts)))


def _group(group: int) -> str:
    return "root:x:0:\n" + (f"nonroot:x:{group}:\n" if group else "")


def _resolv_conf(dns: Any) -> str:
    lines = [f"nameserver {server}" for server in dns.servers]
    lines += [f"search {' '.join(dns.searches)}"] if dns.searches else []
    lines += [f"options {' '.join(dns.options)}"] if dns.options else []
    return "".join(f"{line}\n" for line in lines)


def _stop_signal(number: int) -> signal.Signals:
    name = cri.Signal.Name(number).removeprefix("SIGNAL_")
    return signal.Signals.__members__.get(name, signal.SIGTERM)
