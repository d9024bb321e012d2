"""A card that is not there: torch follows shapes and devices through the operations and computes nothing.

Under it, whatever would wait for the card's numbers, or reach for the memory of its tensors, is an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from inference_server.engines.native import weights
from tests.support.tape import tensors

CUDA = torch.device("cuda:0")


class _Opened:
    """A file of safetensors, which cannot be read as fake tensors and is therefore read before they are."""

    def __init__(self, path: Path, *, framework: str) -> None:
        self._real = safetensors.safe_open(path, framework=framework)

    def __enter__(self) -> "_Opened":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def keys(self) -> list[str]:
        return list(self._real.keys())  # type: ignore[no-untyped-call]

    def get_tensor(self, name: str) -> torch.Tensor:
        with unset_fake_temporarily():
            read: torch.Tensor = self._real.get_tensor(name)  # type: ignore[no-untyped-call]
        return read


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Within it tensors are fake, and may be on CUDA."""
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True):
        patch.setattr(weights, "safe_open", _Opened)
        yield


class Devices(TorchDispatchMode):  # type: ignore[misc]  # torch has no types for it
    """Which operations were called within it, and between which kinds of device each."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, frozenset[str]]] = []

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen.append((str(func), frozenset(t.device.type for t in tensors((args, kwargs, out)))))
        return out
