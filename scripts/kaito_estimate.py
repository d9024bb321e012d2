"""KAITO 0.12's estimate of machines, on our data: what docs/reference/estimates.md compares with."""

from presets.architecture import kv_elements
from presets.catalog import InstanceType, Model
from presets.estimate import GIB

USED_SHARE, RESERVED_GIB, CONTEXT = 0.84, 2.3, 2048
WEIGHTS_FACTOR, ROOM_FACTOR = 1.02, 1.05


def nodes(model: Model, size: InstanceType) -> int:
    """How many machines it would buy; 0 where it says that the GPU is too small.

    Of each GPU's memory, in whole GiB as the name says, it uses 84 %, less 2.3 GiB and the KV cache of 2048 tokens.
    """
    usable = USED_SHARE * (size.gpu_memory_gib // size.gpus)
    reserved = RESERVED_GIB + CONTEXT * 2 * kv_elements(model.architecture, 1) / size.gpus / GIB
    if usable <= reserved:
        return 0
    room = (usable - reserved) / ROOM_FACTOR
    gpus = int(model.file_bytes * WEIGHTS_FACTOR / GIB / room) + 1
    return -(-gpus // size.gpus)
