"""Memory or disk that does not suffice: known by what the libraries say, told by what to lower."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError

from presets.tuning_steps import ExitCode
from tuning_runner.transfer_ending import StepFailed

NO_MEMORY = ("can't allocate memory", "not enough memory", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""In a RuntimeError of torch, where it has no type of its own for it."""
NO_ROOM = ("No space left on device", "Disk quota exceeded", "file write failed", "unexpected pos", "iostream error")
"""Of safetensors, and the last three of torch's writer, which says no more."""


@contextmanager
def explained(arguments: Any = None) -> Iterator[None]:
    """Turns shortage within the block into StepFailed. ``arguments``: trl's, once the model itself is in memory."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise _out_of_memory(arguments) from error
    except (RuntimeError, SafetensorError) as error:
        if any(words in str(error) for words in NO_MEMORY):
            raise _out_of_memory(arguments) from error
        if any(words in str(error) for words in NO_ROOM):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise


def _out_of_memory(arguments: Any) -> StepFailed:
    if arguments is None:
        told = "the model alone does not fit: take method qlora, LoraConfig.r smaller, or a larger instanceType"
    else:
        told = "; or ".join(_lower(arguments))
    return StepFailed(ExitCode.OUT_OF_MEMORY, told)


def _lower(arguments: Any) -> Iterator[str]:
    """What helps, the cheapest first."""
    batch, longest = arguments.per_device_train_batch_size, arguments.max_length
    if batch > 1:
        yield f"lower TrainingArguments.per_device_train_batch_size, which is {batch}"
    if not (arguments.gradient_checkpointing or arguments.activation_checkpointing):
        yield "set TrainingArguments.gradient_checkpointing: true"
    yield f"lower TrainingArguments.max_length, which is {longest}" if longest else "set TrainingArguments.max_length"
    yield "take method qlora or a larger instanceType"
