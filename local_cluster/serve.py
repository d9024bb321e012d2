"""Outside the namespace: one process per cluster, which holds its lock, makes its namespace and relays into it.

Whatever ends this process ends the cluster: the namespace's first process dies with it, and everything else with that.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from local_cluster import binaries, cgroups, containerd, namespace
from local_cluster.control_plane import API_PORT
from local_cluster.errors import LocalClusterError
from local_cluster.relay import local_port, relay
from local_cluster.state import ClusterDirectory, ContainerRuntime, Outcome, Record

NEEDS_MB = 300
"""etcd allocates 2 x 64 MB before its first write; logs and volumes take the rest."""


def main(name: str, *, bare: bool, runtime: ContainerRuntime) -> int:
    """Takes the lock, goes into the background and serves until SIGTERM. Returns at once where another holds it.

    Raises LocalClusterError if the directory cannot be set up; what goes wrong later is told as progress.
    """
    directory = ClusterDirectory.of(name)
    try:
        if directory.lock() is None:
            return 0
        directory.empty()
        directory.logs.mkdir()
        if os.fork():  # the child keeps the lock
            return 0
        record = Record(pid=os.getpid(), started=time.time(), bare=bare, runtime=runtime)
        directory.write_record(record)
        _detach(directory.logs / "serve.log")
    except OSError as error:
        raise LocalClusterError(f"{error.filename or directory.path}: {error.strerror}") from error
    return _serve_to_the_end(directory, record, name=name)


def _serve_to_the_end(directory: ClusterDirectory, record: Record, *, name: str) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _check_space(directory)
        _link_programs(directory)
        if record.runtime is ContainerRuntime.CONTAINERD:
            _check_containers()
        else:
            if not record.bare:
                _fetch_model(directory)
            record = replace(record, user_namespace=namespace.needs_user_namespace())
        return asyncio.run(_hold(directory, record, name=name))
    except LocalClusterError as error:
        directory.report(Outcome.FAILED, str(error))
    except OSError as error:  # the disk is full, most likely
        directory.report(Outcome.FAILED, f"{error.filename or directory.path}: {error.strerror}")
    return 1


def _detach(log: Path) -> None:
    """Leaves the terminal: a session of its own, output to a file."""
    os.setsid()
    with log.open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)


def _check_space(directory: ClusterDirectory) -> None:
    free = shutil.disk_usage(directory.path).free >> 20
    if free < NEEDS_MB:
        raise LocalClusterError(f"only {free} MB are free in {directory.path}; a cluster needs {NEEDS_MB} MB")


def _check_containers() -> None:
    """Whether containers can run here. Their control groups are the machine's: no user namespace could hide them."""
    if os.geteuid() != 0:
        raise LocalClusterError("containerd needs root: run this with sudo, or leave --runtime out for processes")
    containerd.check()


def _link_programs(directory: ClusterDirectory) -> None:
    found = binaries.find(*binaries.CLUSTER, say=lambda line: directory.report(Outcome.BEGUN, line))
    directory.programs.mkdir()
    for program, path in found.items():
        (directory.programs / program).symlink_to(path.absolute())


def _fetch_model(directory: ClusterDirectory) -> None:
    """The embedded model, converted once. A cluster without it can still do everything but serve it."""
    # A process of its own, because this one stays, and converting takes memory.
    argv, line = [sys.executable, "-m", "local_cluster.model"], ""
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as making:
        for line in making.stderr or ():
            directory.report(Outcome.BEGUN, line.strip("· \n"))
    if making.returncode:
        directory.report(Outcome.NOTED, f"without the embedded model: {line.strip()}")


async def _hold(directory: ClusterDirectory, record: Record, *, name: str) -> int:
    """Makes the namespace and waits for its end, or for ours."""
    server = await relay(directory.socket, address=namespace.SYSTEM_ADDRESS, port=API_PORT)
    argv = [*namespace.make(user_namespace=record.user_namespace), sys.executable, "-m", "local_cluster", "inside"]
    argv += [name, str(local_port(server)), f"--runtime={record.runtime}", *(["--bare"] if record.bare else [])]
    argv += ["--user-namespace"] if record.user_namespace else []
    with (directory.logs / "supervisor.log").open("ab") as out:
        unshare = await asyncio.create_subprocess_exec(*argv, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        init_pid = await _first_process(unshare)
        directory.write_record(replace(record, api_port=local_port(server), init_pid=init_pid))
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        stopping, ended = asyncio.create_task(stop.wait()), asyncio.create_task(unshare.wait())
        await asyncio.wait({stopping, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            _report_end(directory)
            return 1
        os.kill(init_pid, signal.SIGKILL)
        await ended  # unshare waits for the first process, and that for every other in the namespace
        return 0
    finally:
        server.close()
        if record.runtime is ContainerRuntime.CONTAINERD:
            cgroups.remove(cgroups.of_cluster(name))


async def _first_process(unshare: asyncio.subprocess.Process) -> int:
    while unshare.returncode is None:
        pid = namespace.first_process(unshare.pid)
        if pid is not None:
            return pid
        await asyncio.sleep(0.01)  # between unshare's start and its fork there is nothing to wait on
    raise LocalClusterError("the namespace could not be made; see supervisor.log")


def _report_end(directory: ClusterDirectory) -> None:
    """The last word, if those inside had none."""
    lines = directory.progress()
    if not lines or lines[-1].outcome is not Outcome.FAILED:
        words = (directory.logs / "supervisor.log").read_text(errors="replace").splitlines()
        directory.report(Outcome.FAILED, words[-1] if words else "the namespace ended without a word")
