"""What is measured: Prometheus metrics, and KAITO's JSON about processors and GPUs."""

from collections.abc import Callable
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from inference_server.engines.engine import Engine, Ready
from inference_server.gpus import Gpu, Gpus
from inference_server.limits import Admission

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(
        self,
        engine: Engine,
        *,
        admission: Admission,
        gpus: Gpus | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._registry = registry or CollectorRegistry()
        self._gpus = gpus or Gpus()
        self.requests = self._counter("requests", "Requests by the HTTP status of their reply", "status")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts that were answered")
        self.generated_tokens = self._counter("generated_tokens", "Tokens of answers, also of those cut short")
        self.first_token_seconds = self._histogram("first_token_seconds", "From the request to its first token")
        self.request_seconds = self._histogram("request_seconds", "From the request to its whole answer")
        self.tasks = Gauge("python_asyncio_tasks", "Tasks of the event loop", registry=self._registry)
        running = Gauge("kaito_inference_requests_inside", "Requests answered now or waiting", registry=self._registry)
        running.set_function(lambda: admission.inside)
        ready = Gauge("kaito_inference_ready", "1 if requests are answered", registry=self._registry)
        ready.set_function(lambda: isinstance(engine.state, Ready) and not admission.closed)
        for prefix in ("kaito_inference_", "vllm:num_"):  # the second for KAITO's scaler
            self._gauge(f"{prefix}requests_running", "Sequences being computed", lambda: engine.load.running)
            self._gauge(f"{prefix}requests_waiting", "Sequences not begun yet", lambda: engine.load.waiting)
        blocks, used = (f"kaito_inference_cache_blocks{which}" for which in ("", "_used"))
        self._gauge(blocks, "Blocks of the KV cache, 0 without one", lambda: engine.load.cache_blocks or 0)
        self._gauge(used, "Blocks of the KV cache that requests hold", lambda: engine.load.cache_blocks_used)
        self._cards = {
            "used_bytes": self._card("gpu_memory_used_bytes", "Memory in use on the card, by NVML"),
            "total_bytes": self._card("gpu_memory_bytes", "Memory of the card"),
            "load_percent": self._card("gpu_utilization_percent", "Share of time in which the card computed"),
            "celsius": self._card("gpu_temperature_celsius", "Temperature of the card"),
        }

    def _gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        Gauge(name, help_text, registry=self._registry).set_function(value)

    def _card(self, name: str, help_text: str) -> Gauge:
        return Gauge(f"kaito_inference_{name}", help_text, ("gpu", "name"), registry=self._registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"kaito_inference_{name}", help_text, labels, registry=self._registry)

    def _histogram(self, name: str, help_text: str) -> Histogram:
        return Histogram(f"kaito_inference_{name}", help_text, registry=self._registry, buckets=SECONDS)

    def text(self) -> bytes:
        """All of them in Prometheus' text format. Asks the driver: call it off the event loop."""
        cards = self._gpus.read()
        for name, gauge in self._cards.items():
            gauge.clear()
            for card in cards:
                if (value := getattr(card, name)) is not None:
                    gauge.labels(card.index, card.name).set(value)
        return generate_latest(self._registry)

    def hardware(self) -> dict[str, Any]:
        """KAITO's JSON: ``gpu_info`` where there are GPUs, else ``cpu_info``; the other is null."""
        cards = [_as_kaito(card) for card in self._gpus.read()]
        return {"gpu_info": cards or None, "cpu_info": None if cards else _processors()}


def _processors() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    return {
        "load_percentage": psutil.cpu_percent(interval=None),  # since the last call; KAITO blocks for a second instead
        "physical_cores": psutil.cpu_count(logical=False),
        "total_cores": psutil.cpu_count(logical=True),
        "memory": {"used": _gigabytes(memory.used), "total": _gigabytes(memory.total)},
    }


def _as_kaito(card: Gpu) -> dict[str, Any]:
    return {
        "id": str(card.index),
        "name": card.name,
        "load": "N/A" if card.load_percent is None else f"{card.load_percent:.2f}%",
        "temperature": "N/A" if card.celsius is None else f"{card.celsius:.0f} C",
        "memory": {"used": _gigabytes(card.used_bytes), "total": _gigabytes(card.total_bytes)},
    }


def _gigabytes(size: float) -> str:
    return f"{size / 2**30:.2f} GB"
