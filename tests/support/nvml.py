"""NVML as nvidia-ml-py has it, for machines without a card: two cards, the second a slice that tells less."""

from types import SimpleNamespace
from typing import Any

GIB = 2**30


class NVMLError(Exception):
    """What every function raises."""


class Driver:
    """The functions of the module ``pynvml`` that are used. ``there`` says whether a driver is."""

    NVML_TEMPERATURE_GPU = 0
    NVMLError = NVMLError

    def __init__(self, *, there: bool = True) -> None:
        self.there = there
        self.opened = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.there:
            raise NVMLError("NVML Shared Library Not Found")
        self.opened += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        if not self.there:
            raise NVMLError("Driver/library version mismatch")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:  # noqa: N802
        return "NVIDIA A100 80GB PCIe" if handle == 0 else b"NVIDIA A100 MIG 1g.10gb"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        used, total = ((20, 80), (1, 10))[handle]
        return SimpleNamespace(used=used * GIB, total=total * GIB, free=(total - used) * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        if handle == 1:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=25, memory=3)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        if handle == 1:
            raise NVMLError("Not Supported")
        return 55
