"""KAITO's own images: their server, started by its own command and flags, as root, which the baseline profile allows.

What a user names (adapters, their paths) is never part of a command: it comes as environment.
"""

from typing import Any

from kaito_operator.api.workspace import Workspace
from kaito_operator.workspace import pods, services
from kaito_operator.workspace.adapters import ADAPTERS, ServedAdapter
from kaito_operator.workspace.model_files import KaitoImage
from presets.catalog import Model

LLAMA = "/workspace/llama/llama-2"
"""Where the images that torchrun starts have their server."""
RANK = "apps.kubernetes.io/pod-index"
COPY = 'mkdir -p "$TARGET" && cp -r /data/. "$TARGET"'


def container(
    workspace: Workspace,
    model: Model,
    files: KaitoImage,
    *,
    machines: int,
    name: str,
    adapters: tuple[ServedAdapter, ...],
) -> dict[str, Any]:
    """What of the server's container is KAITO's; the probes, ports and resources are as everywhere."""
    by_torchrun = model.image_launcher == "torchrun"
    command = _torchrun(workspace, model, machines=machines) if by_torchrun else _accelerate()
    rank = [{"name": "POD_INDEX", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{RANK}']"}}}]
    strengths = [{"name": each.name, "value": each.strength or "1.0"} for each in adapters]
    env = [*(rank if model.distributed else []), *strengths]
    return {
        "name": name,
        "image": files.image,
        "command": command[:1],
        "args": [*command[1:], "inference_api.py", *_flags(dict(model.image_arguments or model.arguments))],
        **({"env": env} if env else {}),
        **({"workingDir": LLAMA} if by_torchrun else {}),
        "securityContext": pods.baseline_container_security(),
        "volumeMounts": [
            {"name": "dshm", "mountPath": pods.SHARED_MEMORY},
            *([{"name": "adapters", "mountPath": ADAPTERS, "readOnly": True}] if adapters else []),
        ],
    }


def fetching(adapters: tuple[ServedAdapter, ...]) -> list[dict[str, Any]]:
    """An adapter's image copies its own ``/data``, as KAITO has it do: the runtime image has no program of ours."""
    return [
        {
            "name": f"adapter-{index}",
            "image": each.image,
            "command": ["/bin/sh", "-c", COPY],
            "env": [{"name": "TARGET", "value": f"{ADAPTERS}/{each.name}"}],
            "securityContext": pods.baseline_container_security(),
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [{"name": "adapters", "mountPath": ADAPTERS}],
        }
        for index, each in enumerate(adapters)
    ]


def volumes(adapters: tuple[ServedAdapter, ...]) -> list[dict[str, Any]]:
    """Shared memory, and room for the adapters."""
    shared = {"name": "dshm", "emptyDir": {"medium": "Memory"}}
    return [shared, *([{"name": "adapters", "emptyDir": {}}] if adapters else [])]


def _accelerate() -> list[str]:
    return [
        "accelerate",
        "launch",
        *_flags({"gpu_ids": "all", "machine_rank": "0", "num_machines": "1", "num_processes": "1"}),
    ]


def _torchrun(workspace: Workspace, model: Model, *, machines: int) -> list[str]:
    """One process for each part of the model. Those of several machines meet at the first pod's name."""
    alone = {
        "master_addr": "localhost",
        "master_port": str(services.TORCH_PORT),
        "nnodes": "1",
        "node_rank": "0",
        "nproc_per_node": str(model.gpus),
    }
    if not model.distributed:
        return ["torchrun", *_flags(alone)]
    first = services.first_pod(workspace)
    together = {
        "max_restarts": "3",
        "rdzv_backend": "c10d",
        "rdzv_endpoint": f"{first}:{services.TORCH_PORT}",
        "rdzv_id": "job",
    }
    if machines > 1:
        several = {"master_addr": first, "nnodes": str(machines), "node_rank": "$(POD_INDEX)"}
        together |= {**several, "nproc_per_node": str(model.gpus // machines)}
    return ["torchrun", *_flags({**alone, **together})]


def _flags(values: dict[str, str]) -> list[str]:
    return [f"--{key}={value}" if value else f"--{key}" for key, value in sorted(values.items())]
