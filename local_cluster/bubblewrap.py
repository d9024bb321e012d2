"""The command lines that make a container and enter one: bubblewrap, nsenter and a line of shell. Pure."""

from collections.abc import Mapping
from pathlib import Path

from local_cluster.container_spec import Bind, ContainerSpec

FROM_MACHINE = (
    "/etc/alternatives",
    "/etc/ca-certificates.conf",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
)
"""What /usr needs of /etc, where it exists. Not all of /etc: a container's user is the machine's under another name."""
TOP_LEVEL = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
"""Links into /usr, or directories on a machine of the older kind."""

_FIND = """
PATH=$1 program=$2; shift 2
if ! command -v -- "$program" >/dev/null; then
  case $program in
    */*) why="stat $program: no such file or directory";;
    *) why='executable file not found in $PATH';;
  esac
  echo "exec: \\"$program\\": $why" >&3
  exit 127
fi
"""
"""Says what runc says. Descriptor 3 is where to."""
_START = f'exec 3>&0 </dev/null{_FIND}echo started >&3\nexec /usr/bin/env -i -- "$@" 3>&-'
"""Standard input is the pipe by which the container's start is reported; the container itself gets none."""
_ENTER = f'exec 3>&2{_FIND}exec 3>&-\nexec /usr/bin/env -i -- "$@"'

STARTED = b"started\n"
"""What comes through the pipe of standard input when the container's own program is about to run."""


def run(spec: ContainerSpec, *, mounts_of: int, network: str | None, files: Mapping[str, int]) -> list[str]:
    """The command that is the container; standard input is a pipe for its report.

    ``mounts_of``: the process whose mounts are seen; ``network``: the pod's network namespace, None for the node's own;
    ``files``: path → descriptor of the content, for each of ``spec.files``.
    """
    return [
        "nsenter",
        f"--mount=/proc/{mounts_of}/ns/mnt",
        *([f"--net={network}"] if network else []),
        "--",
        "bwrap",
        *_namespaces(spec),
        *_system(),
        *(part for path, descriptor in files.items() for part in ("--perms", "0644", "--file", str(descriptor), path)),
        *(part for bind in spec.binds for part in _bind(bind)),
        *(part for device in spec.devices for part in ("--dev-bind-try", device.source, device.target)),
        # A working directory that does not exist is made, as runc does.
        *("--dir", spec.directory, "--chdir", spec.directory),
        *(("--remount-ro", "/") if spec.read_only_root else ()),
        "--",
        *_shell(_START, spec, spec.argv),
    ]


def enter(spec: ContainerSpec, *, target: int, command: tuple[str, ...], tty: bool = False) -> list[str]:
    """The command that runs another ``command`` in the container whose main process is ``target``.

    With ``tty``, standard input is a terminal, which becomes the one that controls it.
    """
    # Whoever enters a user namespace has every capability there; root would keep them, unlike root in the container.
    powerless = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--") if spec.user == 0 else ()
    return [
        "nsenter",
        f"--target={target}",
        *("--user", "--preserve-credentials", "--mount", "--uts", "--ipc", "--net", "--pid"),
        f"--wdns={spec.directory}",
        "--",
        *powerless,
        *(("setsid", "--ctty", "--") if tty else ()),
        *_shell(_ENTER, spec, command, **({"TERM": "xterm"} if tty else {})),
    ]


def _namespaces(spec: ContainerSpec) -> list[str]:
    return [
        *("--unshare-user", "--uid", str(spec.user), "--gid", str(spec.group)),
        *("--unshare-pid", "--unshare-ipc", "--unshare-uts"),
        *(("--hostname", spec.hostname) if spec.hostname else ()),
        *("--cap-drop", "ALL", "--die-with-parent"),
    ]


def _system() -> list[str]:
    """A root of its own in memory, with the machine's programs and libraries."""
    return [
        *("--ro-bind", "/usr", "/usr"),
        *(part for name in TOP_LEVEL for part in _top_level(Path("/") / name)),
        *("--dir", "/etc"),
        *(part for path in FROM_MACHINE for part in ("--ro-bind-try", path, path)),
        *("--ro-bind", "/sys", "/sys", "--proc", "/proc", "--dev", "/dev"),
        *("--perms", "1777", "--dir", "/tmp", "--perms", "1777", "--dir", "/var/tmp", "--dir", "/run"),  # noqa: S108
    ]


def _top_level(path: Path) -> tuple[str, ...]:
    if path.is_symlink():
        return ("--symlink", str(path.readlink()), str(path))
    return ("--ro-bind-try", str(path), str(path))


def _bind(bind: Bind) -> tuple[str, str, str]:
    return ("--ro-bind" if bind.read_only else "--bind", bind.source, bind.target)


def _shell(script: str, spec: ContainerSpec, command: tuple[str, ...], **more: str) -> list[str]:
    """env gives the environment to the letter; a shell would drop variables whose names have dots."""
    variables = [f"{name}={value}" for name, value in {**more, **spec.environment}.items()]
    return ["/bin/sh", "-c", script, "sh", spec.environment["PATH"], command[0], *variables, *command]
