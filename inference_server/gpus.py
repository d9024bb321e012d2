"""What the NVIDIA driver says about the GPUs of this machine: the one door to NVML."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Gpu:
    """One card, now. None is what the card does not tell (a slice of a MIG card has no load of its own)."""

    index: int
    name: str
    load_percent: float | None
    celsius: float | None
    used_bytes: int
    total_bytes: int


class Gpus:
    """The cards, asked anew each time: none where there is no driver, or no nvidia-ml-py (``nvml`` is its module)."""

    def __init__(self, nvml: Any = None) -> None:
        self._nvml = nvml if nvml is not None else _nvml()
        self._connected = False

    def read(self) -> list[Gpu]:
        """Takes some milliseconds: call it off the event loop."""
        if self._nvml is None:
            return []
        try:
            self._connect()
            return [self._card(index) for index in range(self._nvml.nvmlDeviceGetCount())]
        except self._nvml.NVMLError:  # no driver, or one that was replaced while this process runs
            self._connected = False
            return []

    def _connect(self) -> None:
        if not self._connected:
            self._nvml.nvmlInit()
            self._connected = True

    def _card(self, index: int) -> Gpu:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        name = nvml.nvmlDeviceGetName(handle)
        return Gpu(
            index=index,
            name=name.decode() if isinstance(name, bytes) else name,
            load_percent=self._told(lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            celsius=self._told(lambda: float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
            used_bytes=int(memory.used),
            total_bytes=int(memory.total),
        )

    def _told(self, ask: Callable[[], Value]) -> Value | None:
        with suppress(self._nvml.NVMLError):
            return ask()
        return None


def _nvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml
