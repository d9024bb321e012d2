"""What a container is to be, from the kubelet's words and the image's."""

import signal
from pathlib import Path
from typing import Any

import pytest

from local_cluster.container_spec import DEFAULT_PATH, Bind, ContainerSpec, container_spec
from local_cluster.cri import api_pb2 as cri
from local_cluster.images import Image

IMAGE = Image(entrypoint=("serve",), cmd=("--port=1",), env={"A": "image", "B": "image"}, working_dir="/app")


def spec(*, image: Image = IMAGE, **config: Any) -> ContainerSpec:
    sandbox = cri.PodSandboxConfig(hostname="web-0", dns_config={"servers": ["10.0.0.1"], "options": ["ndots:5"]})
    return container_spec(cri.ContainerConfig(**config), sandbox=sandbox, image=image)


@pytest.mark.parametrize(
    ("pod", "argv"),
    [
        ({}, ("serve", "--port=1")),
        ({"args": ["--port=2"]}, ("serve", "--port=2")),
        ({"command": ["sh"]}, ("sh",)),
        ({"command": ["sh"], "args": ["-c", "true"]}, ("sh", "-c", "true")),
    ],
)
def test_command_and_args_replace_entrypoint_and_cmd(pod: dict[str, Any], argv: tuple[str, ...]) -> None:
    # The table of "Define a Command and Arguments for a Container" in the Kubernetes documentation.
    assert spec(**pod).argv == argv


def test_the_pods_variables_win_over_the_images() -> None:
    assert spec(envs=[{"key": "B", "value": b"pod"}, {"key": "c.d-e", "value": b"1"}]).environment == {
        "PATH": DEFAULT_PATH,
        "HOME": "/",
        "HOSTNAME": "web-0",
        "A": "image",
        "B": "pod",
        "c.d-e": "1",
    }


@pytest.mark.parametrize(
    ("security", "user", "group"),
    [
        ({}, 65532, 65532),
        ({"run_as_user": {"value": 1000}}, 1000, 0),
        ({"run_as_user": {"value": 0}}, 0, 0),
        ({"run_as_user": {"value": 65532}}, 65532, 65532),
        ({"run_as_group": {"value": 7}}, 65532, 7),
    ],
)
def test_user_and_group(security: dict[str, Any], user: int, group: int) -> None:
    read = spec(linux={"security_context": security})
    assert (read.user, read.group) == (user, group)


def test_outer_mounts_come_before_inner_ones_and_the_images_are_read_only() -> None:
    image = Image(binds={"/app/code": Path("/checkout")})
    mounts = [
        {"container_path": "/app/code/data", "host_path": "/pods/data"},
        {"container_path": "/app", "host_path": "/pods/app", "readonly": True},
    ]
    assert spec(image=image, mounts=mounts).binds == (
        Bind("/pods/app", "/app", read_only=True),
        Bind("/checkout", "/app/code", read_only=True),
        Bind("/pods/data", "/app/code/data"),
    )


def test_small_files_say_who_and_where_it_is() -> None:
    read = spec(linux={"security_context": {"run_as_user": {"value": 1000}}})
    assert read.files == {
        "/etc/group": "root:x:0:\n",
        "/etc/hostname": "web-0\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
        "/etc/resolv.conf": "nameserver 10.0.0.1\noptions ndots:5\n",
    }


def test_devices_are_those_of_the_pod_and_those_of_the_node() -> None:
    config = cri.ContainerConfig(devices=[{"host_path": "/dev/fuse", "container_path": "/dev/f"}])
    read = container_spec(config, sandbox=cri.PodSandboxConfig(), image=IMAGE, devices=[Path("/dev/nvidia0")])
    assert read.devices == (Bind("/dev/fuse", "/dev/f"), Bind("/dev/nvidia0", "/dev/nvidia0"))


def test_the_stop_signal_is_sigterm_unless_the_pod_chooses_another() -> None:
    assert spec().stop_signal == signal.SIGTERM
    assert spec(stop_signal=cri.SIGNAL_SIGQUIT).stop_signal == signal.SIGQUIT
