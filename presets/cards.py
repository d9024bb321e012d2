"""What a card computes with, by its compute capability: known of the catalogue's cards, asked of those that are there.

NVIDIA's CUDA C++ Programming Guide, "Compute Capabilities": bfloat16 in hardware since 8.0. Older cards take it, and
compute it several times slower than float16.
"""

from collections.abc import Iterable

Capability = tuple[int, int]
"""Major and minor."""
BFLOAT16_SINCE: Capability = (8, 0)
OLDEST: Capability = (7, 5)
"""That torch of the lock has code for: the least of its ``torch.cuda.get_arch_list()``, which a test compares. CUDA 13
compiles for nothing older (pytorch/pytorch#157517)."""
OVERFLOWING = ("gemma2", "gemma3", "gemma3_text", "glm4", "plamo2")
"""Families (``model_type`` of config.json) whose activations leave float16's range: vLLM refuses float16 for them."""


def computed_in(wanted: str, capability: Capability | None, *, family: str) -> str:
    """The dtype to compute in where ``wanted`` is asked for: float16 for bfloat16 on a card that has none.

    ``capability``: of the card; None without one.
    """
    if wanted != "bfloat16" or capability is None or capability >= BFLOAT16_SINCE or family in OVERFLOWING:
        return wanted
    return "float16"


def outdated(capability: Capability | None, *, oldest: Capability) -> bool:
    """Whether a card has no code in a torch whose oldest card is ``oldest``. ``capability``: None is not judged."""
    return capability is not None and capability < oldest


def capability(text: str) -> Capability | None:
    """Of "7.5"; None for what NVIDIA does not make."""
    major, dot, minor = text.partition(".")
    return (int(major), int(minor)) if dot and major.isdecimal() and minor.isdecimal() else None


def too_old(capability: Capability, built_for: Iterable[str]) -> str:
    """Why torch has no code for a card, in words; "" if it has.

    ``built_for``: ``torch.cuda.get_arch_list()``, such as sm_75 and compute_120.
    """
    known = [_capability(name) for name in built_for if name.startswith(("sm_", "compute_"))]
    if not known or not outdated(capability, oldest=min(known)):
        return ""
    return (
        f"the card's compute capability is {words(capability)}, and torch here is built for {words(min(known))} and"
        " newer: take an instanceType with newer cards, or an image with an older torch"
    )


def _capability(name: str) -> Capability:
    """sm_90a is 9.0."""
    digits = "".join(filter(str.isdecimal, name))
    return int(digits[:-1]), int(digits[-1])


def words(capability: Capability) -> str:
    """7.5."""
    return ".".join(map(str, capability))
