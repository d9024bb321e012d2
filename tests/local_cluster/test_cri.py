"""The generated code is what the proto says, and every call finds its method."""

import subprocess
import sys
from pathlib import Path

import pytest

from local_cluster import cri_server
from local_cluster.cri import api_pb2 as cri
from local_cluster.image_service import ImageService
from local_cluster.process_runtime import ProcessRuntime

ROOT = Path(__file__).parent.parent.parent
NEEDED = {
    "RuntimeService": (
        "Version Status RuntimeConfig UpdateRuntimeConfig RunPodSandbox StopPodSandbox RemovePodSandbox "
        "PodSandboxStatus ListPodSandbox CreateContainer StartContainer StopContainer RemoveContainer ListContainers "
        "ContainerStatus UpdateContainerResources ReopenContainerLog ExecSync ContainerStats ListContainerStats "
        "PodSandboxStats ListPodSandboxStats ListMetricDescriptors ListPodSandboxMetrics"
    ),
    "ImageService": "ListImages ImageStatus PullImage RemoveImage ImageFsInfo",
}
"""What a kubelet 1.37 calls with its default feature gates."""


def test_the_generated_code_is_made_from_the_proto(tmp_path: Path) -> None:
    command = ["-m", "grpc_tools.protoc", "--proto_path=.", f"--python_out={tmp_path}", "local_cluster/cri/api.proto"]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
    made = (tmp_path / "local_cluster/cri/api_pb2.py").read_text()
    assert made == (ROOT / "local_cluster/cri/api_pb2.py").read_text()


@pytest.mark.parametrize(
    ("service", "implementation"), [("RuntimeService", ProcessRuntime), ("ImageService", ImageService)]
)
def test_every_method_answers_a_call_of_cri_and_no_needed_call_is_without(service: str, implementation: type) -> None:
    calls = {cri_server.snake_case(name) for name in cri.DESCRIPTOR.services_by_name[service].methods_by_name}
    methods = {name for name in vars(implementation) if not name.startswith("_")} - {"serve"}
    assert methods <= calls
    assert {cri_server.snake_case(name) for name in NEEDED[service].split()} <= methods
