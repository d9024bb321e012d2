"""What is measured: Prometheus metrics, and KAITO's JSON about processors and GPUs."""

import asyncio
import csv
import shutil
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from inference_server.engines.engine import Engine, Ready
from inference_server.limits import Admission

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
GPU_FIELDS = ("index", "name", "utilization.gpu", "temperature.gpu", "memory.used", "memory.total")


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, engine: Engine, *, admission: Admission, registry: CollectorRegistry | None = None) -> None:
        self._registry = registry or CollectorRegistry()
        self.requests = self._counter("requests", "Requests by the HTTP status of their reply", "status")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts that were answered")
        self.generated_tokens = self._counter("generated_tokens", "Tokens of answers, also of those cut short")
        self.first_token_seconds = self._histogram("first_token_seconds", "From the request to its first token")
        self.request_seconds = self._histogram("request_seconds", "From the request to its whole answer")
        running = Gauge("kaito_inference_requests_inside", "Requests answered now or waiting", registry=self._registry)
        running.set_function(lambda: admission.inside)
        ready = Gauge("kaito_inference_ready", "1 if requests are answered", registry=self._registry)
        ready.set_function(lambda: isinstance(engine.state, Ready) and not admission.closed)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"kaito_inference_{name}", help_text, labels, registry=self._registry)

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(f"kaito_inference_{name}", help_text, registry=self._registry, buckets=SECONDS)

    def text(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self._registry)


async def hardware() -> dict[str, Any]:
    """KAITO's JSON: ``gpu_info`` where there are GPUs, else ``cpu_info``; the other is null."""
    gpus = await _gpus()
    return {"gpu_info": gpus or None, "cpu_info": None if gpus else _processors()}


def _processors() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    return {
        "load_percentage": psutil.cpu_percent(interval=None),  # since the last call; KAITO blocks for a second instead
        "physical_cores": psutil.cpu_count(logical=False),
        "total_cores": psutil.cpu_count(logical=True),
        "memory": {"used": _gigabytes(memory.used / 2**20), "total": _gigabytes(memory.total / 2**20)},
    }


async def _gpus() -> list[dict[str, Any]]:
    """What nvidia-smi says; NVIDIA's container runtime puts it into every container that gets a GPU."""
    program = shutil.which("nvidia-smi")
    if not program:
        return []
    query = [f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    asked = await asyncio.create_subprocess_exec(program, *query, stdout=asyncio.subprocess.PIPE)
    answer, _ = await asked.communicate()
    rows = csv.reader(answer.decode().splitlines(), skipinitialspace=True)
    return [_gpu(*row) for row in rows if asked.returncode == 0 and len(row) == len(GPU_FIELDS)]


def _gpu(index: str, name: str, load: str, temperature: str, used: str, total: str) -> dict[str, Any]:
    return {
        "id": index,
        "name": name,
        "load": f"{float(load):.2f}%" if load.isdecimal() else load,
        "temperature": f"{temperature} C",
        "memory": {"used": _gigabytes(float(used)), "total": _gigabytes(float(total))},
    }


def _gigabytes(mebibytes: float) -> str:
    return f"{mebibytes / 1024:.2f} GB"
