"""Matrix products, each with its weight packed once for the hardware it runs on, and what adapters add to them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from inference_server.engines import kernels
from inference_server.engines.kernels import Kernels

Product = Callable[[Tensor], Tensor]
"""x [tokens, in] → [tokens, out], both in the engine's dtype; logits may be float32."""
ROWS_PACKED_FOR = 16
"""Tokens in a step that oneDNN lays the weights out for; other numbers work as well."""
INT4_GROUP = kernels.GROUP
"""Weights that share a scale and an offset, as in the Q4_1 format of GGUF."""
INT4_ROWS = 8
"""Up to so many tokens a step reading weights takes longest, and a quarter of the bytes is worth unpacking by torch."""
INT4_ROWS_OF_OURS = 64
"""The same by our kernel: all that decode, so that a text is the same whoever is beside it, and small prompts."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """All adapters at one product, side by side: ``down`` is [in, ranks], ``up`` is [ranks, out], both float32."""

    down: Tensor
    up: Tensor
    owners: Tensor
    """[ranks]: which adapter each belongs to."""

    def add(self, y: Tensor, x: Tensor, mix: Tensor) -> Tensor:
        """y plus what the adapters of each token add; ``mix`` [tokens, adapters] weighs them."""
        narrow = (x.float() @ self.down).mul_(mix.index_select(1, self.owners))
        return torch.addmm(y.float(), narrow, self.up).to(y.dtype)


@dataclass(frozen=True, slots=True)
class Linear:
    """A product, with or without adapters."""

    product: Product
    adapters: LowRank | None = None

    def __call__(self, x: Tensor, mix: Tensor | None) -> Tensor:
        """x [tokens, in] → [tokens, out]; ``mix`` is None where no token has an adapter."""
        y = self.product(x)
        return y if mix is None or self.adapters is None else self.adapters.add(y, x, mix)


def packed(weight: Tensor, bias: Tensor | None) -> Product:
    """oneDNN with the weight reordered: 1.3 to 2.5 times F.linear."""
    weights = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_PACKED_FOR)
    multiply = torch.ops.mkldnn._linear_pointwise

    def product(x: Tensor) -> Tensor:
        rows = x.shape[0]
        if missing := filled(rows) - rows:
            x = functional.pad(x, (0, 0, 0, missing))
        y: Tensor = multiply(x, weights, bias, "none", [], "")
        return y[:rows] if missing else y

    return product


def filled(rows: int) -> int:
    """So many rows, or a few more where there are many: oneDNN keeps kernels for each number of rows that it has met,
    and for all of 1 to 512 they take half a gigabyte (decision 0078)."""
    if rows <= ROWS_PACKED_FOR:
        return rows
    step = 8 if rows <= 64 else 32
    return -(-rows // step) * step


def packed_twice(weight: Tensor, bias: Tensor | None, *, own: Kernels | None = None) -> Product:
    """A second time in 4 bits, for steps of few tokens. Only for bfloat16 and whole groups; else as ``packed``."""
    many = packed(weight, bias)
    if weight.shape[1] % INT4_GROUP or weight.dtype != torch.bfloat16:
        return many
    integers, scales = int4(weight)
    few, rows = _in_four_bits(integers, scales, own=own)

    def product(x: Tensor) -> Tensor:
        if x.shape[0] > rows:
            return many(x)
        y = few(x)
        return y if bias is None else y.add_(bias)

    return product


def _in_four_bits(integers: Tensor, scales: Tensor, *, own: Kernels | None) -> tuple[Product, int]:
    """The product by our kernel or else by torch's, and for how many tokens it is worth it."""
    if own and own.has_products and integers.shape[0] % kernels.OUTPUTS == 0:
        tiles = kernels.tiled(integers, scales)
        return lambda x: own.four_bits(x, tiles), INT4_ROWS_OF_OURS
    by_torch = torch.ops.aten._weight_int4pack_mm_for_cpu
    converted = torch.ops.aten._convert_weight_to_int4pack_for_cpu(integers, 1)
    return lambda x: by_torch(x, converted, INT4_GROUP, scales), INT4_ROWS


def int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers 0 to 15 [out, in], and scale and middle of each group [groups, out, 2], rounding to the nearest.

    The weight is about ``(integer - 8) · scale + middle``.
    """
    outputs, inputs = weight.shape
    groups = weight.float().view(outputs, inputs // INT4_GROUP, INT4_GROUP)
    least, most = groups.aminmax(dim=2)
    scale = (most - least).clamp_min(1e-8) / 15
    integers = ((groups - least[..., None]) / scale[..., None]).round_().clamp_(0, 15).to(torch.int32)
    scales = torch.stack((scale, least + 8 * scale), dim=2).transpose(0, 1).contiguous().bfloat16()
    return integers.view(outputs, inputs), scales


def plain(weight: Tensor, bias: Tensor | None) -> Product:
    """The ordinary product, in the dtype and on the device of the weight."""
    return lambda x: functional.linear(x, weight, bias)


def packing(
    device: torch.device, *, twice: bool, own: Kernels | None = None
) -> Callable[[Tensor, Tensor | None], Product]:
    """The way to pack weights on this device; ``twice`` adds the copy in 4 bits."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return plain
    return partial(packed_twice, own=own) if twice else packed


def last(weight: Tensor, *, own: Kernels | None) -> Product:
    """The product whose results are logits. Our kernel leaves them in float32: at a height of 25, where likeliest
    tokens often are, bfloat16 has steps of an eighth, and near ones become equal."""
    if not own or not own.has_products:
        return packing(weight.device, twice=False)(weight, None)
    outputs, pairs = weight.shape[0], kernels.paired(weight)
    return lambda x: own.in_float(x, pairs)[:, :outputs]


def cpu_has_bf16() -> bool:
    """Whether bfloat16 products run in hardware here (AVX512_BF16 or AMX); elsewhere they are slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
