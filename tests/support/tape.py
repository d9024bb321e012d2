"""What a CUDA graph does, on a processor: operations are recorded once, and replayed at the addresses they had.

Python is not asked again at a replay, so whatever a step reads outside the tensors that it was recorded with stays as
it was, as in a graph.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override


class Tape(TorchDispatchMode):  # type: ignore[misc]  # torch has no types for it
    """Records every operation of torch within it."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """The same operations on the same tensors."""
        for func, args, kwargs, out in self._calls:
            given = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs)) if not t.is_mkldnn}
            for old, new in zip(tensors(out), tensors(func(*args, **kwargs)), strict=True):
                if new.untyped_storage().data_ptr() not in given:  # views and what is written in place are up to date
                    old.copy_(new)


def record(step: Callable[[], None]) -> Callable[[], None]:
    """As a graph is recorded. It is replayed in ``torch.inference_mode``, too."""
    with Tape() as tape:
        step()
    replay: Callable[[], None] = tape.replay
    return replay


def tensors(nested: Any) -> Iterator[Tensor]:
    """All within lists, tuples and dictionaries."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict):
        for value in nested.values():
            yield from tensors(value)
    elif isinstance(nested, list | tuple):
        for value in nested:
            yield from tensors(value)
