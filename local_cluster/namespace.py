"""The namespace that holds a whole cluster: its own network, mounts and process table, and how to enter it.

Killing its first process removes every process, mount and address in it. Everything happens in a user namespace, for
root too, so that nothing inside can change a setting of the machine.
"""

import os
import subprocess
from pathlib import Path

from local_cluster import linux
from local_cluster.control_plane import SERVICE_RANGE
from local_cluster.errors import LocalClusterError
from local_cluster.state import ClusterDirectory

INSIDE = Path("/run/kaito")
"""Where the cluster's directory is from inside: a short place, so that every socket's path fits."""
SYSTEM_ADDRESS = "10.244.255.1"
AZURE_PORT = 10443
"""Where Azure's stand-in listens on SYSTEM_ADDRESS."""
_UNSHARE = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_AS_ROOT_OF_ITS_OWN = ("--user", "--map-root-user")


def needs_user_namespace() -> bool:
    """Whether to make a user namespace: always, unless it is forbidden to root.

    Raises LocalClusterError where no namespace can be made at all.
    """
    if _works(*_UNSHARE, *_AS_ROOT_OF_ITS_OWN):
        return True
    if os.geteuid() == 0 and _works(*_UNSHARE):
        return False
    raise LocalClusterError(
        "this kernel lets you make neither user namespaces nor others: run as root, or allow them "
        "(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
    )


def _works(*command: str) -> bool:
    try:
        return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        raise LocalClusterError("unshare is missing: install util-linux") from None


def make(*, user_namespace: bool) -> list[str]:
    """The command that starts its arguments as the first process of a new namespace, and dies with its parent."""
    flags = _AS_ROOT_OF_ITS_OWN if user_namespace else ()
    return ["setpriv", "--pdeathsig", "KILL", *_UNSHARE, *flags, "--"]


def enter(init_pid: int, *, user_namespace: bool, directory: Path) -> list[str]:
    """The command that runs its arguments inside, in ``directory``."""
    flags = ("--user", "--preserve-credentials") if user_namespace else ()
    return ["nsenter", f"--target={init_pid}", *flags, "--net", "--mount", "--pid", f"--wdns={directory}", "--"]


def environment() -> dict[str, str]:
    """For every program inside: our own environment, the cluster's programs first, and where its API server is."""
    own = ClusterDirectory(INSIDE)
    # A proxy cannot be reached from inside, and what is inside needs none.
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    # Debian keeps nft in /usr/sbin, and that out of an ordinary user's PATH.
    path = f"{own.programs}:{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return {**kept, "PATH": path, "KUBECONFIG": str(own.inside_kubeconfig)}


def first_process(unshare_pid: int) -> int | None:
    """The process id, as seen from outside, of a namespace's first process; None while unshare has not forked."""
    children = Path(f"/proc/{unshare_pid}/task/{unshare_pid}/children").read_text().split()
    return int(children[0]) if children else None


def furnish(directory: Path, *, user_namespace: bool) -> None:
    """Puts mounts and addresses in place; the first thing to happen inside."""
    _mount(directory)
    if not user_namespace:
        _protect_sysctls()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    _connect()


def _mount(directory: Path) -> None:
    """A /run of our own with the cluster's directory in it, and mount points for kubelets."""
    held = os.open(directory, os.O_PATH)
    linux.tmpfs("/run")
    INSIDE.mkdir()
    linux.bind(f"/proc/self/fd/{held}", INSIDE)
    os.close(held)
    if not Path("/var/lib/kubelet").is_dir():
        _add_directory(Path("/var/lib"), "kubelet")


def _add_directory(parent: Path, name: str) -> None:
    """Makes ``parent`` seem to have one more directory, without touching the machine's."""
    held = os.open(parent, os.O_PATH)
    below = sorted(os.scandir(f"/proc/self/fd/{held}"), key=lambda entry: entry.name)
    linux.tmpfs(parent)
    for entry in below:
        place = parent / entry.name
        if entry.is_symlink():
            place.symlink_to(Path(entry.path).readlink())
            continue
        if entry.is_dir():
            place.mkdir()
        else:
            place.touch()
        linux.bind(entry.path, place)
    os.close(held)
    (parent / name).mkdir()


def _protect_sysctls() -> None:
    """Root without a user namespace could change the machine's settings; only those of our own network stay open."""
    linux.bind("/proc/sys/net", "/proc/sys/net")
    linux.bind("/proc/sys", "/proc/sys")
    flags = linux.Mount.BIND | linux.Mount.REMOUNT | linux.Mount.READ_ONLY
    linux.mount("proc", "/proc/sys", flags=flags)


def _connect() -> None:
    """Loopback up, the system node's address on it, and the services' range routed so that kube-proxy sees it."""
    from pyroute2 import IPRoute  # a third of a second to import, which no command outside the namespace needs

    with IPRoute() as network:
        loopback = network.link_lookup(ifname="lo")[0]
        network.link("set", index=loopback, state="up")
        network.addr("add", index=loopback, address=SYSTEM_ADDRESS, prefixlen=32)
        network.route("add", dst=SERVICE_RANGE, oif=loopback, prefsrc=SYSTEM_ADDRESS)
