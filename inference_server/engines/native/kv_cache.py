"""The paged KV cache: blocks of tokens, counted references, and prefixes that requests share.

A block is full or being filled by one request. Full blocks are known by a hash over all tokens up to their end, so a
request whose prompt begins like an earlier one takes its blocks instead of computing them (vLLM's prefix caching).
"""

import contextlib
import math
import mmap
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor

BLOCK = 16
"""Tokens in a block: small enough that the last one wastes little, large enough that gathering copies long rows."""


class KVCache:
    """Keys and values of all layers: [2·kv_heads, blocks, BLOCK, size], so that each head is gathered in one piece."""

    def __init__(
        self, *, layers: int, kv_heads: int, head_dim: int, blocks: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.blocks, self._kv_heads, self._head_dim = blocks, kv_heads, head_dim
        self._layers = [_zeros((2 * kv_heads, blocks * BLOCK, head_dim), dtype, device) for _ in range(layers)]
        self._pages = [slots.view(2 * kv_heads * blocks, BLOCK * head_dim) for slots in self._layers]

    def __getitem__(self, layer: int) -> Tensor:
        """A layer's keys and values, [2·kv_heads, tokens, head_dim]."""
        return self._layers[layer]

    def write(self, layer: int, slots: Tensor, keys_and_values: Tensor) -> None:
        """Stores [tokens, 2·kv_heads, head_dim] at ``slots`` [tokens]."""
        self._layers[layer].index_copy_(1, slots, keys_and_values.transpose(0, 1))

    def pages(self, tables: Tensor) -> Tensor:
        """Where the pages of block ``tables`` [requests, blocks] lie, in every layer; for ``gather``."""
        heads = torch.arange(2 * self._kv_heads, device=tables.device).view(2, 1, self._kv_heads, 1)
        return (heads * self.blocks + tables[None, :, None]).flatten()

    def gather(self, layer: int, pages: Tensor) -> Tensor:
        """Copies of ``pages``, one after the other: [2·requests·kv_heads·blocks, BLOCK·head_dim]."""
        return self._pages[layer].index_select(0, pages)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros. On a CPU their memory is taken as they are written, a small page at a time: torch writes all of them at
    once, and numpy asks for huge pages, of which the first token of each head would take one."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages knows no such advice
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


@dataclass(slots=True)
class Table:
    """The blocks of one request, in order, and how many of its tokens are computed."""

    blocks: list[int] = field(default_factory=list)
    computed: int = 0
    hashed: int = 0
    """Full blocks that are registered for sharing."""
    chain: bytes = b""
    """Hash over the tokens of the registered blocks."""


class NoBlocks(Exception):
    """The cache is full of blocks in use."""


class BlockAllocator:
    """Which blocks are free, in use (by how many), or only kept because somebody may share them."""

    def __init__(self, blocks: int, *, share: bool = True) -> None:
        self.blocks = blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._references = [0] * blocks
        self._by_hash: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._share = share

    @property
    def available(self) -> int:
        """Blocks that can be had, kept ones included."""
        return len(self._free) + len(self._kept)

    def match(self, tokens: Sequence[int], *, kind: bytes = b"") -> Table:
        """A table that begins with what is already computed of ``tokens``; the last token is always left to compute.

        Only texts of the same ``kind`` share: with another adapter the same tokens have other keys and values.
        """
        table = Table(chain=kind)
        if not self._share:
            return table
        for end in range(BLOCK, len(tokens), BLOCK):
            key = _chained(table.chain, tokens[end - BLOCK : end])
            block = self._by_hash.get(key)
            if block is None:
                break
            self._take(block)
            table.blocks.append(block)
            table.chain, table.hashed, table.computed = key, table.hashed + 1, end
        return table

    def grow(self, table: Table, tokens: int) -> None:
        """Gives ``table`` room for ``tokens`` tokens in all. Raises NoBlocks, with the table as it was."""
        wanted = -(-tokens // BLOCK) - len(table.blocks)
        if wanted > self.available:
            raise NoBlocks
        for _ in range(wanted):
            table.blocks.append(self._new())

    def register(self, table: Table, tokens: Sequence[int]) -> None:
        """Makes the full, computed blocks of ``table`` findable by later requests."""
        if not self._share:
            return
        for index in range(table.hashed, table.computed // BLOCK):
            key = _chained(table.chain, tokens[index * BLOCK : (index + 1) * BLOCK])
            block = table.blocks[index]
            if key not in self._by_hash and block not in self._hash_of:
                self._by_hash[key] = block
                self._hash_of[block] = key
            table.chain, table.hashed = key, index + 1

    def release(self, table: Table) -> None:
        """Gives all blocks back; shared ones stay findable until their room is needed."""
        for block in reversed(table.blocks):
            self._references[block] -= 1
            if self._references[block] == 0:
                if block in self._hash_of:
                    self._kept[block] = None
                else:
                    self._free.append(block)
        table.blocks.clear()
        table.computed = table.hashed = 0
        table.chain = b""

    def _take(self, block: int) -> None:
        self._kept.pop(block, None)
        self._references[block] += 1

    def _new(self) -> int:
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._kept.popitem(last=False)  # the one unused for longest
            del self._by_hash[self._hash_of.pop(block)]
        self._references[block] = 1
        return block


def _chained(before: bytes, tokens: Sequence[int]) -> bytes:
    """Cryptographic, so that no prompt can be made to collide with another user's."""
    return blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()
