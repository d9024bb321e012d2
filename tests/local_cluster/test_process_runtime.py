"""The container runtime as the kubelet meets it: over its socket, in a namespace like the local cluster's."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from local_cluster.cri import api_pb2 as cri
from local_cluster.images import NON_ROOT, OPERATOR, image_id
from tests.support.cri_client import Cri, security, sh
from tests.support.runtime_host import runtimes

KINDS = ("user namespace", "root") if os.geteuid() == 0 else ("user namespace",)
"""As an ordinary user has the runtime, and as root without a user namespace, which only root can try."""


@pytest.fixture(scope="module", params=KINDS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where two runtimes serve."""
    place = tmp_path_factory.mktemp("cri")
    with runtimes(place, user_namespace=request.param == "user namespace"):
        yield place


@pytest_asyncio.fixture
async def node(directory: Path, tmp_path: Path) -> AsyncIterator[Cri]:
    async with Cri(directory / "1.sock", logs=tmp_path / "logs-1") as client:
        yield client


@pytest_asyncio.fixture
async def other_node(directory: Path, tmp_path: Path) -> AsyncIterator[Cri]:
    async with Cri(directory / "2.sock", logs=tmp_path / "logs-2") as client:
        yield client


def fetch(address: str) -> tuple[str, ...]:
    """A command for the operator's image that says what a web server answers, once it does."""
    script = f"""
import time, urllib.request
while True:
    try:
        print(urllib.request.urlopen("http://{address}/", timeout=2).read().decode())
        break
    except OSError:
        time.sleep(0.05)
"""
    return ("python", "-c", script)


def serve(answer: str, *, port: int) -> tuple[str, ...]:
    """A command for the operator's image: a web server that always answers the same."""
    script = f"""
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{answer}")
http.server.HTTPServer(("0.0.0.0", {port}), Answer).serve_forever()
"""
    return ("python", "-c", script)


def rotate(log: str) -> None:
    Path(log).rename(f"{log}.1")


# What a container finds.


async def test_the_environment_is_the_images_and_the_pods_and_nothing_of_the_machines(node: Cri) -> None:
    pod = await node.pod(hostname="web-0")
    lines = await node.output(pod, "/usr/bin/env", image="local/full:1", env={"a.dotted-name": "1", "COLOUR": "red"})
    assert sorted(lines) == [
        "COLOUR=red",
        "HOME=/",
        "HOSTNAME=web-0",
        "PATH=/usr/bin:/bin",
        "a.dotted-name=1",
    ]


async def test_the_image_says_what_runs_when_the_pod_does_not(node: Cri) -> None:
    pod = await node.pod()
    assert await node.output(pod, image="local/full:1") == ["hello"]
    assert await node.output(pod, image="local/full:1", args=["bye"]) == ["bye"]


async def test_a_working_directory_that_does_not_exist_is_made(node: Cri) -> None:
    pod = await node.pod()
    assert await node.output(pod, "pwd", image="local/full:1") == ["/made"]
    assert await node.output(pod, "pwd", working_dir="/a/b") == ["/a/b"]


async def test_nobody_is_root_unless_the_pod_says_so_and_root_has_no_capabilities(node: Cri) -> None:
    pod = await node.pod()
    identity = sh("id -u; id -g; grep CapEff /proc/self/status")
    none = "CapEff:\t0000000000000000"
    as_1000 = security(run_as_user={"value": 1000}, run_as_group={"value": 2000})
    assert await node.output(pod, *identity) == [str(NON_ROOT), str(NON_ROOT), none]
    assert await node.output(pod, *identity, linux=as_1000) == ["1000", "2000", none]
    assert await node.output(pod, *identity, linux=security(run_as_user={"value": 0})) == ["0", "0", none]


async def test_the_machine_is_not_there(node: Cri) -> None:
    pod = await node.pod()
    lines = await node.output(pod, *sh("ls -d /root /home /work /srv /opt /etc/shadow /etc/ssh 2>/dev/null; ls /tmp"))
    assert lines == []


async def test_only_its_own_processes_are_there(node: Cri) -> None:
    pod = await node.pod()
    await node.start(pod, "sleep", "1000")
    lines = await node.output(pod, *sh("for p in /proc/[0-9]*; do cat $p/comm; done"))
    assert sorted(lines) == ["bwrap", "sh"]


async def test_its_name_is_the_pods(node: Cri) -> None:
    pod = await node.pod(hostname="web-0")
    assert await node.output(pod, *sh("hostname; cat /etc/hostname")) == ["web-0", "web-0"]


async def test_volumes_are_seen_as_the_kubelet_sees_them(node: Cri, directory: Path) -> None:
    pod = await node.pod()
    mounts = [{"container_path": "/var/run/secrets/token", "host_path": str(directory / "secret/token")}]
    assert not (directory / "secret/token").exists()
    assert await node.output(pod, "cat", "/var/run/secrets/token", mounts=mounts) == ["s3cret"]


async def test_a_volume_in_a_volume_is_seen_whatever_their_order(node: Cri, tmp_path: Path) -> None:
    pod = await node.pod()
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    mounts = [
        {"container_path": "/data/in", "host_path": str(tmp_path / "inner")},
        {"container_path": "/data", "host_path": str(tmp_path / "outer")},
    ]
    (tmp_path / "outer" / "in").mkdir()
    assert await node.output(pod, *sh("cat /data/name; echo; cat /data/in/name"), mounts=mounts) == ["outer", "inner"]


async def test_the_kubelets_files_are_in_their_places(node: Cri, tmp_path: Path) -> None:
    pod = await node.pod(dns_config={"servers": ["10.96.0.10"], "searches": ["svc.cluster.local"]})
    (tmp_path / "hosts").write_text("10.0.0.1 other\n")
    (tmp_path / "log").touch()
    (tmp_path / "shm").mkdir()
    mounts = [
        {"container_path": "/etc/hosts", "host_path": str(tmp_path / "hosts")},
        {"container_path": "/dev/termination-log", "host_path": str(tmp_path / "log")},
        {"container_path": "/dev/shm", "host_path": str(tmp_path / "shm")},
    ]
    script = sh("cat /etc/hosts /etc/resolv.conf; echo over > /dev/termination-log; touch /dev/shm/seen")
    assert await node.output(pod, *script, mounts=mounts) == [
        "10.0.0.1 other",
        "nameserver 10.96.0.10",
        "search svc.cluster.local",
    ]
    assert (tmp_path / "log").read_text() == "over\n"
    assert (tmp_path / "shm/seen").exists()


async def test_what_is_read_only_cannot_be_written(node: Cri, tmp_path: Path) -> None:
    pod = await node.pod()
    (tmp_path / "ro").mkdir()
    (tmp_path / "rw").mkdir()
    mounts = [
        {"container_path": "/ro", "host_path": str(tmp_path / "ro"), "readonly": True},
        {"container_path": "/rw", "host_path": str(tmp_path / "rw")},
    ]
    tries = sh("for f in /x /tmp/x /usr/x /ro/x /rw/x; do touch $f 2>/dev/null && echo $f; done")
    assert await node.output(pod, *tries, mounts=mounts) == ["/x", "/tmp/x", "/rw/x"]
    assert await node.output(pod, *tries, mounts=mounts, linux=security(readonly_rootfs=True)) == ["/rw/x"]


async def test_the_python_of_the_operators_image_is_this_one(node: Cri) -> None:
    pod = await node.pod()
    script = "import os, kopf, presets, kaito_operator; print(os.getcwd(), presets.__file__)"
    assert await node.output(pod, "python", "-c", script, image=OPERATOR) == ["/app /app/presets/__init__.py"]


# How it starts and ends.


async def test_how_a_container_ends_is_told_with_code_and_reason(node: Cri) -> None:
    pod = await node.pod()
    ends = {"exit 0": (0, "Completed"), "exit 3": (3, "Error"), "kill -KILL $$": (137, "Error")}
    for script, expected in ends.items():
        status = await node.ended(await node.start(pod, *sh(script)))
        assert (status.exit_code, status.reason) == expected
        assert status.created_at <= status.started_at <= status.finished_at


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (("nosuch", "x"), 'exec: "nosuch": executable file not found in $PATH'),
        (("/bin/nosuch",), 'exec: "/bin/nosuch": stat /bin/nosuch: no such file or directory'),
    ],
)
async def test_a_command_that_is_not_there_fails_the_start_in_runcs_words(
    node: Cri, command: tuple[str, ...], why: str
) -> None:
    container = await node.create(await node.pod(), *command)
    with pytest.raises(grpc.aio.AioRpcError, match=re.escape(why)):
        await node.call("StartContainer", container_id=container)
    status = await node.status(container)
    assert (status.state, status.exit_code, status.reason) == (cri.CONTAINER_EXITED, 128, "StartError")
    assert status.message == f"unable to start container process: {why}"


async def test_a_volume_that_is_not_there_fails_the_start(node: Cri) -> None:
    mounts = [{"container_path": "/x", "host_path": "/nowhere"}]
    container = await node.create(await node.pod(), "true", mounts=mounts)
    with pytest.raises(grpc.aio.AioRpcError, match="/nowhere"):
        await node.call("StartContainer", container_id=container)


async def test_nothing_to_run_is_refused(node: Cri) -> None:
    pod = await node.pod()
    with pytest.raises(grpc.aio.AioRpcError, match="not found"):
        await node.create(pod, "true", image="local/none:1")


async def test_stopping_asks_first(node: Cri) -> None:
    script = "trap 'echo asked; exit 5' TERM; echo up; while :; do sleep 0.05; done"
    container = await node.start(await node.pod(), *sh(script))
    await node.speaks(container)
    await node.call("StopContainer", container_id=container, timeout=30)
    status = await node.status(container)
    assert (status.state, status.exit_code) == (cri.CONTAINER_EXITED, 5)
    assert [text for _, _, text in await node.log(container)] == ["up", "asked"]


async def test_the_pod_chooses_the_signal_to_stop_by(node: Cri) -> None:
    script = "trap 'exit 6' USR1; echo up; while :; do sleep 0.05; done"
    container = await node.start(await node.pod(), *sh(script), stop_signal=cri.SIGNAL_SIGUSR1)
    await node.speaks(container)
    await node.call("StopContainer", container_id=container, timeout=30)
    assert (await node.status(container)).exit_code == 6


async def test_who_does_not_listen_is_killed_with_all_its_children(node: Cri, tmp_path: Path) -> None:
    mounts = [{"container_path": "/out", "host_path": str(tmp_path)}]
    deaf = """
trap '' TERM
while :; do date > /out/beat; sleep 0.01; done &
while [ ! -e /out/beat ]; do sleep 0.01; done
echo up
while :; do sleep 1; done
"""
    container = await node.start(await node.pod(), *sh(deaf), mounts=mounts)
    await node.speaks(container)
    await node.call("StopContainer", container_id=container, timeout=1)
    status, last = await node.status(container), (tmp_path / "beat").stat().st_mtime_ns
    assert (status.exit_code, status.reason) == (137, "Error")
    await asyncio.sleep(0.1)  # ten beats, if there were any
    assert (tmp_path / "beat").stat().st_mtime_ns == last


async def test_stopping_and_removing_twice_is_no_error(node: Cri) -> None:
    pod = await node.pod()
    container = await node.start(pod, "sleep", "1000")
    for _ in range(2):
        await node.call("StopContainer", container_id=container, timeout=0)
        await node.call("StopPodSandbox", pod_sandbox_id=pod)
        await node.call("RemoveContainer", container_id=container)
        await node.call("RemovePodSandbox", pod_sandbox_id=pod)
    for lost in (node.status(container), node.address(pod)):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await lost
        assert error.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_stopped_sandbox_has_no_running_container(node: Cri) -> None:
    pod = await node.pod()
    containers = [await node.start(pod, "sleep", "1000") for _ in range(3)]
    await node.call("StopPodSandbox", pod_sandbox_id=pod)
    assert [(await node.status(c)).state for c in containers] == [cri.CONTAINER_EXITED] * 3
    found = await node.call("ListPodSandbox", filter={"id": pod})
    assert [item.state for item in found.items] == [cri.SANDBOX_NOTREADY]


async def test_lists_are_filtered(node: Cri) -> None:
    pod = await node.pod(labels={"app": "a"})
    running = await node.start(pod, "sleep", "1000", labels={"part": "x"})
    ended = await node.start(pod, "true", labels={"part": "y"})
    await node.ended(ended)

    async def containers(**wanted: object) -> set[str]:
        answer = await node.call("ListContainers", filter={"pod_sandbox_id": pod, **wanted})
        return {item.id for item in answer.containers}

    assert await containers() == {running, ended}
    assert await containers(state={"state": cri.CONTAINER_RUNNING}) == {running}
    assert await containers(label_selector={"part": "y"}) == {ended}
    assert [item.id for item in (await node.call("ListPodSandbox", filter={"label_selector": {"app": "a"}})).items] == [
        pod
    ]


# Logs and commands.


async def test_log_lines_have_time_stream_and_text(node: Cri) -> None:
    container = await node.start(await node.pod(), *sh("echo out; echo err >&2; printf 'no end'"))
    await node.ended(container)
    assert sorted(await node.log(container)) == [
        ("stderr", "F", "err"),
        ("stdout", "F", "no end"),
        ("stdout", "F", "out"),
    ]


async def test_after_rotation_the_log_goes_on_in_a_new_file(node: Cri, tmp_path: Path) -> None:
    mounts = [{"container_path": "/in", "host_path": str(tmp_path)}]
    script = "echo before; while [ ! -e /in/go ]; do sleep 0.01; done; echo after"
    container = await node.start(await node.pod(), *sh(script), mounts=mounts)
    await node.speaks(container)
    rotate((await node.status(container)).log_path)
    await node.call("ReopenContainerLog", container_id=container)
    (tmp_path / "go").touch()
    await node.ended(container)
    assert [text for _, _, text in await node.log(container)] == ["after"]


async def test_a_command_in_a_container_sees_what_the_container_sees(node: Cri) -> None:
    pod = await node.pod(hostname="web-0")
    container = await node.start(pod, *sh("touch /tmp/mark; echo up; sleep 1000"), env={"COLOUR": "red"})
    await node.speaks(container)
    script = "ls /tmp; hostname; id -u; echo $COLOUR; cat /proc/1/comm; echo no >&2; exit 7"
    stdout, stderr, code = await node.execute(container, *sh(script))
    assert (stdout.split(), stderr, code) == (["mark", "web-0", str(NON_ROOT), "red", "bwrap"], "no\n", 7)


async def test_a_command_has_no_more_power_than_its_container(node: Cri) -> None:
    container = await node.start(await node.pod(), "sleep", "1000", linux=security(run_as_user={"value": 0}))
    stdout, _, _ = await node.execute(container, "grep", "-E", "CapEff|NoNewPrivs", "/proc/self/status")
    assert stdout == "CapEff:\t0000000000000000\nNoNewPrivs:\t1\n"


async def test_a_command_that_is_not_there_has_exit_code_127(node: Cri) -> None:
    container = await node.start(await node.pod(), "sleep", "1000")
    assert await node.execute(container, "nosuch") == ("", 'exec: "nosuch": executable file not found in $PATH\n', 127)


async def test_a_command_that_takes_too_long_is_ended(node: Cri) -> None:
    container = await node.start(await node.pod(), "sleep", "1000")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await node.execute(container, "sleep", "2000", timeout=1)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    stdout, _, _ = await node.execute(container, *sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '"))
    assert "sleep 2000" not in stdout


async def test_no_command_runs_in_a_container_that_has_ended(node: Cri) -> None:
    container = await node.start(await node.pod(), "true")
    await node.ended(container)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await node.execute(container, "true")
    assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION


async def test_what_a_container_takes_is_counted(node: Cri) -> None:
    script = "import time; held = bytearray(50_000_000); sum(range(3_000_000)); print('up'); time.sleep(1000)"
    container = await node.start(await node.pod(), "python", "-c", script, image=OPERATOR)
    await node.speaks(container)
    stats = (await node.call("ContainerStats", container_id=container)).stats
    assert 50_000_000 < stats.memory.working_set_bytes.value < 200_000_000
    assert stats.cpu.usage_core_nano_seconds.value > 0


def limited(memory: int) -> dict[str, object]:
    return {"linux": {"resources": {"memory_limit_in_bytes": memory}}}


async def test_a_container_that_takes_more_memory_than_it_may_is_ended_as_the_kernel_would(node: Cri) -> None:
    held = "import os, time; held = bytearray(1) * 60_000_000; {}; time.sleep({})"
    pod, within = await node.pod(), limited(100_000_000)
    alone = ("python", "-c", held.format("pass", 1))
    status = await node.ended(await node.start(pod, *alone, image=OPERATOR, **within))
    assert (status.exit_code, status.reason) == (0, "Completed")
    shared = ("python", "-c", held.format("os.fork()", 1))  # twice as much, if what is shared counted twice
    status = await node.ended(await node.start(pod, *shared, image=OPERATOR, **within))
    assert (status.exit_code, status.reason) == (0, "Completed")
    children = (
        "sh",
        "-c",
        f'python -c "{held.format("pass", 1000)}" & python -c "{held.format("pass", 1000)}"; echo over',
    )
    status = await node.ended(await node.start(pod, *children, image=OPERATOR, **within))
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


async def test_what_a_container_writes_beside_its_volumes_is_counted(node: Cri) -> None:
    container = await node.start(await node.pod(), *sh("head -c 3000000 /dev/zero > /tmp/x; echo up; sleep 1000"))
    await node.speaks(container)
    stats = (await node.call("ContainerStats", container_id=container)).stats
    assert 3_000_000 <= stats.writable_layer.used_bytes.value < 4_000_000


# The network.


async def test_pods_listen_on_the_same_port_and_reach_each_other_across_nodes(node: Cri, other_node: Cri) -> None:
    here, there = await node.pod(), await other_node.pod()
    await node.start(here, *serve("here", port=5000), image=OPERATOR)
    await other_node.start(there, *serve("there", port=5000), image=OPERATOR)
    assert (await node.address(here)).startswith("10.244.1.")
    assert (await other_node.address(there)).startswith("10.244.2.")
    for address, answer in {
        f"{await other_node.address(there)}:5000": "there",
        f"{await node.address(here)}:5000": "here",
        "127.0.0.1:5000": "here",
    }.items():
        assert await node.output(here, *fetch(address), image=OPERATOR) == [answer]


async def test_port_80_needs_no_root(node: Cri) -> None:
    pod = await node.pod()
    await node.start(pod, *serve("low", port=80), image=OPERATOR)
    assert await node.output(pod, *fetch(await node.address(pod)), image=OPERATOR) == ["low"]


async def test_a_pod_on_the_nodes_network_has_the_nodes_address_and_reaches_pods(node: Cri) -> None:
    on_node = {"security_context": {"namespace_options": {"network": cri.NODE}}}
    pod, host = await node.pod(), await node.pod(linux=on_node)
    await node.start(pod, *serve("pod", port=5000), image=OPERATOR)
    assert await node.address(host) == "10.244.255.1"
    assert await node.output(host, *fetch(f"{await node.address(pod)}:5000"), image=OPERATOR) == ["pod"]
    await node.start(host, *serve("node", port=5001), image=OPERATOR)
    assert await node.output(pod, *fetch("10.244.255.1:5001"), image=OPERATOR) == ["node"]


async def test_a_pod_keeps_its_network_while_containers_come_and_go(node: Cri) -> None:
    pod = await node.pod()
    links = [await node.output(pod, "readlink", "/proc/self/ns/net") for _ in range(2)]
    assert links[0] == links[1]


async def test_addresses_are_lent_and_come_back(other_node: Cri) -> None:
    pods = [await other_node.pod() for _ in range(6)]
    with pytest.raises(grpc.aio.AioRpcError, match="all 6 pod addresses of the node are taken"):
        await other_node.pod()
    addresses = {pod: await other_node.address(pod) for pod in pods}
    assert set(addresses.values()) == {f"10.244.2.{n}" for n in range(1, 7)}
    await other_node.call("RemovePodSandbox", pod_sandbox_id=pods[0])
    assert await other_node.address(await other_node.pod()) == addresses[pods[0]]


async def test_a_removed_pod_leaves_no_device(node: Cri) -> None:
    host = await node.pod(linux={"security_context": {"namespace_options": {"network": cri.NODE}}})
    pod = await node.pod()
    device = f"pod1.{(await node.address(pod)).rpartition('.')[2]}"
    assert any(device in line for line in await node.output(host, "cat", "/proc/net/dev"))
    await node.call("RemovePodSandbox", pod_sandbox_id=pod)
    assert not any(device in line for line in await node.output(host, "cat", "/proc/net/dev"))


# Images, and what is asked of the runtime itself.


async def test_images_are_found_by_name_and_by_id_and_nowhere_else(node: Cri) -> None:
    for reference in (OPERATOR, image_id(OPERATOR)):
        image = (await node.call("ImageStatus", image={"image": reference})).image
        assert (image.id, list(image.repo_tags), image.uid.value) == (image_id(OPERATOR), [OPERATOR], NON_ROOT)
        assert (await node.call("PullImage", image={"image": reference})).image_ref == image_id(OPERATOR)
    assert not (await node.call("ImageStatus", image={"image": "local/none:1"})).HasField("image")
    with pytest.raises(grpc.aio.AioRpcError, match="local/none:1: not found") as error:
        await node.call("PullImage", image={"image": "local/none:1"})
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


async def test_the_kubelet_finds_a_runtime_that_is_ready(node: Cri) -> None:
    assert (await node.call("Version")).runtime_api_version == "v1"
    conditions = (await node.call("Status")).status.conditions
    assert {condition.type: condition.status for condition in conditions} == {
        "RuntimeReady": True,
        "NetworkReady": True,
    }
    assert (await node.call("RuntimeConfig")).linux.cgroup_driver == cri.CGROUPFS


async def test_what_is_not_supported_says_so(node: Cri) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await node.call("CheckpointContainer", container_id="x")
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
