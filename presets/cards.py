"""What a card computes with, by its compute capability: known of the catalogue's cards, asked of those that are there.

NVIDIA's CUDA C++ Programming Guide, "Compute Capabilities": bfloat16 in hardware since 8.0. Older cards take it, and
compute it several times slower than float16.
"""

from collections.abc import Iterable

Capability = tuple[int, int]
"""Major and minor."""
BFLOAT16_SINCE: Capability = (8, 0)
OVERFLOWING = ("gemma2", "gemma3", "gemma3_text", "glm4", "plamo2")
"""Families (``model_type`` of config.json) whose activations leave float16's range: vLLM refuses float16 for them."""


def computed_in(wanted: str, capability: Capability | None, *, family: str) -> str:
    """The dtype to compute in where ``wanted`` is asked for: float16 for bfloat16 on a card that has none.

    ``capability``: of the card; None without one.
    """
    if wanted != "bfloat16" or capability is None or capability >= BFLOAT16_SINCE or family in OVERFLOWING:
        return wanted
    return "float16"


def too_old(capability: Capability, built_for: Iterable[str]) -> str:
    """Why torch has no code for a card, in words; "" if it has.

    ``built_for``: ``torch.cuda.get_arch_list()``, such as sm_75 and compute_120.
    """
    known = [_capability(name) for name in built_for if name.startswith(("sm_", "compute_"))]
    if not known or capability >= min(known):
        return ""
    return (
        f"the card's compute capability is {_words(capability)}, and torch here is built for {_words(min(known))} and"
        " newer: take an instanceType with newer cards, or an image with an older torch"
    )


def _capability(name: str) -> Capability:
    """sm_90a is 9.0."""
    digits = "".join(filter(str.isdecimal, name))
    return int(digits[:-1]), int(digits[-1])


def _words(capability: Capability) -> str:
    return ".".join(map(str, capability))
