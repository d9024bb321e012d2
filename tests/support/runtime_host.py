"""Two nodes' container runtimes in a namespace of their own, as the local cluster has them; run by ``runtimes``.

``python -m tests.support.runtime_host DIRECTORY`` serves DIRECTORY/1.sock and DIRECTORY/2.sock. The nodes' "kubelet" is
a process with mounts of its own: a tmpfs on DIRECTORY/secret, which only it sees, holds the file ``token``.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import IPRoute

from local_cluster.images import Image, Images, local_images
from local_cluster.pod_network import PodNetwork
from local_cluster.process_runtime import ProcessRuntime
from tests.support.cri_client import eventually

UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
USER = ("--user", "--map-root-user")
KUBELET = 'mount -t tmpfs tmpfs "$0" && echo s3cret > "$0/token" && echo ready && exec sleep infinity'


@contextmanager
def runtimes(directory: Path, *, user_namespace: bool) -> Iterator[None]:
    """The runtimes, from their first readiness until the block ends; their namespace goes with them."""
    (directory / "secret").mkdir()
    command = [
        *UNSHARE,
        *(USER if user_namespace else ()),
        sys.executable,
        "-W",
        "error",
        "-m",
        "tests.support.runtime_host",
        str(directory),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        try:
            if host.stdout is None or host.stdout.readline() != "ready\n":
                raise RuntimeError("the runtimes did not start")
            yield
        finally:
            host.kill()


def images() -> Images:
    """The table of the local cluster, and an image with what an image can have."""
    table = local_images("0.1.0", None)
    full = Image(
        entrypoint=("/bin/echo",), cmd=("hello",), env={"COLOUR": "green", "PATH": "/usr/bin:/bin"}, working_dir="/made"
    )
    return Images({**{name: table[name] for name in table.names}, "local/full:1": full})


def furnish() -> None:
    """What the local cluster does to its namespace before anything runs in it."""
    with IPRoute() as network:
        network.link("set", index=network.link_lookup(ifname="lo")[0], state="up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


async def serve(directory: Path) -> None:
    """Serves until killed."""
    kubelet = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c", KUBELET, str(directory / "secret")), stdout=asyncio.subprocess.PIPE
    )
    if kubelet.stdout is None or await kubelet.stdout.readline() != b"ready\n":
        raise RuntimeError("no mounts of its own for the kubelet")
    nodes = [
        ProcessRuntime(
            f"node-{index}",
            images(),
            PodNetwork(node_address=f"10.244.255.{index}", pod_range=f"10.244.{index}.0/29"),
            lambda: kubelet.pid,
        )
        for index in (1, 2)
    ]
    serving = [asyncio.create_task(node.serve(directory / f"{index}.sock")) for index, node in enumerate(nodes, 1)]
    await eventually(lambda: _both_listen(directory))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.gather(*serving)


async def _both_listen(directory: Path) -> bool:
    return all((directory / f"{index}.sock").exists() for index in (1, 2))


if __name__ == "__main__":
    furnish()
    asyncio.run(serve(Path(sys.argv[1])))
