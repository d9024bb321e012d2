"""The steps between a model's matrix products, on tensors, by the C beside this file; ``make kernels`` compiles it.

For bfloat16 on processors, where torch calls dozens of small operations a layer. Every function here rounds where the
torch operations beside it in this package do, and tests compare the two.
"""

import ctypes
import hashlib
import logging
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

SOURCE = Path(__file__).parent
LIBRARY = SOURCE / "libkernels.so"
LANES = 16
HEADS = range(LANES, 32 * LANES + 1, LANES)
"""Head sizes that attention takes; attention.c has room for no wider one (WIDEST)."""
GROUP, OUTPUTS = 32, 32
"""Products in 4 bits take groups of so many inputs, and multiples of so many outputs."""
WIDE = 64
"""The last product's weights lie together for so many outputs."""

P, N, F = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
SIGNATURES = {
    "add_norm": (P, P, P, P, N, N, F),
    "gated": (P, P, N, N),
    "turn_and_store": (P, P, P, N, N, N, N, N, P, N, P),
    "attend": (P, P, N, P, N, P, N, P, N, N, N, N, N, F),
}
PRODUCTS = {
    "four_bits": (P, P, P, P, N, N, N),
    "in_float": (P, P, P, N, N, N),
    "attend_many": (P, P, N, P, N, P, N, P, P, N, N, N, N, N, F),
}
"""For processors that have products of bfloat16."""


def find(device: torch.device, dtype: torch.dtype, *, library: Path = LIBRARY) -> "Kernels | None":
    """The kernels, if they are compiled from the source beside this file, and for such numbers and this processor."""
    if device.type != "cpu" or dtype != torch.bfloat16 or not library.exists():
        return None
    if "AVX512" not in torch.backends.cpu.get_cpu_capability() and platform.machine() in ("x86_64", "AMD64"):
        return None
    try:
        loaded = ctypes.CDLL(str(library))
    except OSError as error:  # of another machine, or compiled by a newer C library than is here
        log.warning("%s cannot be loaded and is not used: %s", library.name, error)
        return None
    if not _is_of(loaded, SOURCE):
        log.warning("%s is of another version and is not used: `make kernels` compiles it anew", library.name)
        return None
    return Kernels(loaded)


def _is_of(loaded: ctypes.CDLL, source: Path) -> bool:
    files = (path.read_bytes() for path in sorted(source.iterdir()) if path.suffix in (".c", ".h"))
    digest = hashlib.sha256(b"".join(files)).hexdigest().encode()
    named = hasattr(loaded, "source_digest")
    return named and (ctypes.c_char * len(digest)).in_dll(loaded, "source_digest").value == digest


class Kernels:
    """The compiled library. Tensors are bfloat16, and dense unless it says otherwise; indices are int64."""

    def __init__(self, loaded: ctypes.CDLL) -> None:
        self._add_norm, self._gated, self._turn_and_store, self._attend = (
            _function(loaded, name, types) for name, types in SIGNATURES.items()
        )
        self.has_products = torch.cpu._is_avx512_bf16_supported() and all(hasattr(loaded, name) for name in PRODUCTS)
        if self.has_products:
            self._four_bits, self._in_float, self._attend_many = (
                _function(loaded, name, types) for name, types in PRODUCTS.items()
            )

    def add_norm(self, hidden: Tensor, added: Tensor | None, gain: Tensor, *, eps: float) -> Tensor:
        """``hidden`` [..., n], to which ``added`` is summed in place, over its RMS and times ``gain`` [n]."""
        hidden = hidden.contiguous()
        out, n = torch.empty_like(hidden), gain.shape[0]
        more = None if added is None else added.data_ptr()
        self._add_norm(out.data_ptr(), hidden.data_ptr(), more, gain.data_ptr(), hidden.numel() // n, n, eps)
        return out

    def gated(self, gate_up: Tensor) -> Tensor:
        """silu(gate) · up of [tokens, 2·n], which has both side by side."""
        rows, n = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, n)
        self._gated(out.data_ptr(), gate_up.data_ptr(), rows, n)
        return out

    def turn_and_store(self, heads: Tensor, cos: Tensor, sin: Tensor, cache: Tensor, slots: Tensor) -> None:
        """Turns queries and keys of ``heads`` [tokens, heads + 2·kv_heads, d] in place by cosines and sines
        [tokens, pairs], and stores keys and values in ``cache`` [2·kv_heads, capacity, d] at ``slots`` [tokens]."""
        (tokens, count, d), (stored, capacity, _) = heads.shape, cache.shape
        sizes = tokens, count - stored, stored // 2, d, cos.shape[1]
        at = heads.data_ptr(), cos.data_ptr(), sin.data_ptr()
        self._turn_and_store(*at, *sizes, cache.data_ptr(), capacity, slots.data_ptr())

    def attend(
        self, queries: Tensor, cache: Tensor, tables: Tensor, ends: Tensor, *, window: int, scale: float
    ) -> Tensor:
        """What single queries [requests, heads, d], rows of them apart, see of their pages in ``cache``, as [requests,
        heads·d]: of ``ends`` [requests] tokens the last ``window``, or all if it is 0. ``tables`` [requests, pages]."""
        (requests, heads, d), (stored, capacity, _) = queries.shape, cache.shape
        out = queries.new_empty(requests, heads * d)
        asked = out.data_ptr(), queries.data_ptr(), queries.stride(0)
        pages = cache.data_ptr(), capacity, tables.data_ptr(), tables.shape[1], ends.data_ptr()
        self._attend(*asked, *pages, requests, heads, stored // 2, d, window, scale)
        return out

    def attend_many(
        self,
        queries: Tensor,
        cache: Tensor,
        tables: Tensor,
        ends: Tensor,
        counts: Tensor,
        *,
        window: int,
        scale: float,
    ) -> Tensor:
        """The same of several queries a request, ``counts`` [requests] of them one after the other: the first of each
        sees ``ends`` tokens, each other one more than the one before it."""
        (tokens, heads, d), (stored, capacity, _) = queries.shape, cache.shape
        out = queries.new_empty(tokens, heads * d)
        asked = out.data_ptr(), queries.data_ptr(), queries.stride(0)
        pages = cache.data_ptr(), capacity, tables.data_ptr(), tables.shape[1], ends.data_ptr(), counts.data_ptr()
        self._attend_many(*asked, *pages, len(counts), heads, stored // 2, d, window, scale)
        return out

    def four_bits(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [tokens, in] times a weight of ``tiled``, as [tokens, out]. Only where ``has_products``."""
        (tokens, inputs), outputs = x.shape, weight.shape[0] * OUTPUTS
        out, sums = x.new_empty(tokens, outputs), x.new_empty(tokens * inputs // GROUP, dtype=torch.float32)
        at = out.data_ptr(), x.data_ptr(), sums.data_ptr(), weight.data_ptr()
        self._four_bits(*at, tokens, outputs, inputs)
        return out

    def in_float(self, x: Tensor, weight: Tensor) -> Tensor:
        """x [tokens, in] times a weight of ``paired``, as [tokens, out] in float32. Only where ``has_products``."""
        (tokens, inputs), outputs = x.shape, weight.shape[0] * WIDE
        out = x.new_empty(tokens, outputs, dtype=torch.float32)
        self._in_float(out.data_ptr(), x.data_ptr(), weight.data_ptr(), tokens, outputs, inputs)
        return out


def paired(weight: Tensor) -> Tensor:
    """A weight [out, in] as products.c takes it for sums in float: [out / WIDE, in / 2, WIDE, 2]; outputs of 0 fill its
    end up to a multiple of WIDE."""
    outputs, inputs = weight.shape
    whole = torch.nn.functional.pad(weight, (0, 0, 0, -outputs % WIDE))
    return whole.view(-1, WIDE, inputs // 2, 2).transpose(1, 2).contiguous()


def tiled(integers: Tensor, scales: Tensor) -> Tensor:
    """Weights of ``linear.int4`` as products.c takes them: bytes [pairs of tiles, groups, 2, integers and scales]."""
    outputs, inputs = integers.shape
    tiles, groups = outputs // LANES, inputs // GROUP
    halves = integers.view(tiles, LANES, groups, 2, GROUP // 4, 2).permute(0, 2, 3, 4, 1, 5).to(torch.uint8)
    both = (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(2)
    sides = scales.view(groups, tiles, LANES, 2).permute(1, 0, 3, 2).flatten(2).contiguous()
    whole = torch.cat((both, sides.view(torch.uint8)), dim=2)
    return whole.view(tiles // 2, 2, groups, -1).transpose(1, 2).contiguous()


def _function(library: ctypes.CDLL, name: str, types: tuple[Any, ...]) -> Callable[..., None]:
    function = library[name]
    function.argtypes, function.restype = types, None
    return function
