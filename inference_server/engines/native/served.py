"""A checkpoint loaded for the native engine: network, cache, scheduler and tokenizer, stepped by one thread."""

import json
import logging
import time
from collections.abc import Callable
from collections.abc import Sequence as Sequence_
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inference_server.engines import kernels, memory, placement
from inference_server.engines.adapters import COMBINED, Found
from inference_server.engines.decode_graphs import recorded
from inference_server.engines.engine import Load, ServedModel
from inference_server.engines.fast_tokenizer import FastTokenizer
from inference_server.engines.native import architecture, weights
from inference_server.engines.native.architecture import Architecture
from inference_server.engines.native.kv_cache import BLOCK, BlockAllocator, KVCache
from inference_server.engines.native.model import Model
from inference_server.engines.native.runner import Runner
from inference_server.engines.native.scheduler import Scheduler, Sequence
from inference_server.engines.sampler import Chooser
from inference_server.engines.threads import threads
from inference_server.engines.tokenizer import HuggingFaceTokenizer, chat_template
from inference_server.schemas import GenerateKwargs
from inference_server.settings import Settings

log = logging.getLogger(__name__)

CACHED_TOKENS = 16384
"""Room of the cache in tokens where the context is not longer; its memory is taken as tokens come."""
SHARE_FOR_CACHE = 0.8
"""Of the memory that is free once the weights are loaded; the rest is for what a step computes."""
STEP_TOKENS = 512
"""Tokens computed in a step at most: longer prompts come in chunks, so that decoding requests are not held up."""
MOST_RUNNING = {"cpu": 32, "cuda": 64}
"""Requests in a step: what a processor is busy with, and the most that is recorded for a GPU (decode_graphs.SIZES)."""
MAY_WAIT = {"cpu": 0, "cuda": 32}
"""Behind them. A processor's answers take so long that waiting for one and getting it is twice as long."""


class NativeModel:
    """A loaded model; ``served`` is what its users see, ``ends`` the tokens that end a text."""

    def __init__(self, of: Architecture, runner: Runner, scheduler: Scheduler, served: ServedModel) -> None:
        self.ends, self.served = of.eos, served
        self._rope, self._runner, self._scheduler = of.rope, runner, scheduler

    def sequence(self, prompt: Sequence_[int], limit: int, chooser: Chooser, *, adapter: str | None = None) -> Sequence:
        """A request of this model: ``limit`` new tokens at most, answered with one of its adapters if named."""
        return Sequence(
            list(prompt),
            limit,
            chooser,
            adapter=self.served.adapters.index(adapter) + 1 if adapter else 0,
            rope_variant=self._rope.variant(len(prompt) + limit),
        )

    @classmethod
    def load(cls, settings: Settings, *, say: Callable[[str], None]) -> "NativeModel":
        """Reads the directory named by the settings. Raises Unsupported, OSError, ValueError."""
        began, directory = time.monotonic(), Path(settings.pretrained_model_name_or_path)
        torch.set_num_threads(threads())
        say("reading the tokenizer")
        tokenizer = _tokenizer(directory)
        if settings.chat_template:
            tokenizer.chat_template = chat_template(settings.chat_template)
        of = architecture.read(directory)
        device = placement.device(settings)
        dtype = placement.dtype(settings, device, family=of.family)
        say("packing the weights")
        strengths = dict(settings.adapter_strength)
        adapters = Found(Path(settings.adapters_dir), sizes=weights.sizes(of), strengths=strengths)
        compiled = kernels.find(device, dtype)
        packed = weights.load(
            directory,
            of,
            dtype=dtype,
            device=device,
            adapters=list(adapters.layers.values()),
            int4=settings.int4_small_batches,
            kernels=compiled,
            progress=lambda share: say(f"packing the weights, {share:.0%}"),
        )
        blocks = _blocks(of, dtype, device)
        context = min(of.context, blocks * BLOCK)
        if context < of.context:
            log.warning("memory is there for a context of %d tokens, not for the model's %d", context, of.context)
        most, recording = MOST_RUNNING[device.type], device.type == "cuda" and settings.cuda_graphs == "auto"
        sizes = {"layers": of.layers, "kv_heads": of.kv_heads, "head_dim": of.head_dim, "blocks": blocks + recording}
        network = Model(of, packed, KVCache(**sizes, dtype=dtype, device=device), compiled)
        where = {"spare": blocks, "dtype": dtype, "device": device}
        graphs = recorded(network, of, most=most, context=context, **where) if recording else None
        mix, allocator = _mix(adapters) if adapters.names else None, BlockAllocator(blocks)
        runner = Runner(network, allocator, device=device, adapters=mix, graphs=graphs)
        scheduler = Scheduler(allocator, token_budget=STEP_TOKENS, most_running=most)
        steps = "kernels of its own" if compiled else "torch's operations"
        log.info("%s packed on %s as %s, %s, in %.1f s", directory, device, dtype, steps, time.monotonic() - began)
        served = _served(settings, directory, tokenizer, of, adapters, context=context, on=device.type)
        return cls(of, runner, scheduler, served)

    def add(self, sequence: Sequence) -> None:
        """Takes a request in."""
        self._scheduler.add(sequence)

    def finish(self, sequence: Sequence) -> None:
        """Gives its room back; harmless if it is not there."""
        self._scheduler.finish(sequence)

    @property
    def busy(self) -> bool:
        """Whether there is anything to compute."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    @property
    def work(self) -> Load:
        """How much there is to compute and how full the cache is; blocks kept for somebody to share are free."""
        scheduler, blocks = self._scheduler, self._scheduler.allocator.blocks
        used = blocks - scheduler.allocator.available
        return Load(len(scheduler.running), len(scheduler.waiting), blocks, used)

    def step(self) -> list[tuple[Sequence, int]]:
        """Schedule, run: the sequences that got a token, with it."""
        work = self._scheduler.schedule()
        return self._runner.run(work) if work else []


def _tokenizer(directory: Path) -> Any:
    """From tokenizer.json alone where that is all there is; transformers takes seconds to import."""
    try:
        return FastTokenizer(directory)
    except (ValueError, FileNotFoundError):
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(directory)


def _blocks(of: Architecture, stored: torch.dtype, device: torch.device) -> int:
    """Room for the model's whole context, on a card for that of all who run; or for what there is memory for."""
    block: int = of.kv_values_per_token * BLOCK * stored.itemsize
    fitting = int(memory.free(device) * SHARE_FOR_CACHE) // block
    wanted = max(of.context, CACHED_TOKENS) if device.type == "cpu" else of.context * MOST_RUNNING[device.type]
    return max(1, min(-(-wanted // BLOCK), fitting))


def _mix(adapters: Found) -> Tensor:
    """[names + 1, adapters]: how strongly each adapter counts for nobody, for each alone, and for the mix."""
    names = list(adapters.layers)
    rows = [[0.0] * len(names), *([float(own == other) for other in names] for own in names)]
    if COMBINED in adapters.names:
        rows.append([adapters.strengths.get(name, 0.0) for name in names])
    return torch.tensor(rows)


def _served(
    settings: Settings, directory: Path, tokenizer: Any, of: Architecture, adapters: Found, *, context: int, on: str
) -> ServedModel:
    generation = directory / "generation_config.json"
    known = json.loads(generation.read_text()) if generation.exists() else {}
    options = GenerateKwargs.model_fields
    return ServedModel(
        name=settings.served_model_name or directory.name,
        tokenizer=HuggingFaceTokenizer(tokenizer, vocabulary_size=of.vocabulary),
        context_length=context,
        defaults={key: value for key in options if (value := known.get(key)) is not None},
        adapters=adapters.names,
        default_adapter=adapters.default,
        refused_adapters=adapters.refused,
        at_once=MOST_RUNNING[on],
        may_wait=MAY_WAIT[on],
    )
