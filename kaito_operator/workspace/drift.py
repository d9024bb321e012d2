"""Whether an object still says everything that we want it to say; what others added to it is theirs."""

from collections.abc import Mapping
from typing import Any


def holds(seen: Any, wanted: Any) -> bool:
    """Whether ``wanted`` is contained in ``seen``: all keys of maps, all items of lists in their order."""
    if isinstance(wanted, Mapping):
        return isinstance(seen, Mapping) and all(
            key in seen and holds(seen[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(seen, list | tuple)
            and len(seen) == len(wanted)
            and all(holds(a, b) for a, b in zip(seen, wanted, strict=True))
        )
    return bool(seen == wanted)
