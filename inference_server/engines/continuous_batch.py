"""Many requests in one step on a model of transformers: its continuous batching, where a check at the start shows that
it answers as ``generate`` does.

What it has not (penalties, biases, seeds, grammars, probabilities, a least length) a processor of ours does: it chooses
each row's token by the row's own Chooser and leaves no other token to choose. Requests that would end its thread are
refused before they get here; if it ends all the same, whoever waits is told and the next request starts it anew.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager, OutputRouter
from typing_extensions import override

from inference_server.engines import memory
from inference_server.engines.engine import EngineError, Finish, Load, OutOfMemory, Step, Stopped
from inference_server.engines.sampler import Chooser

logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # it writes down tokens of prompts

ATTENTION = {
    **dict.fromkeys(
        ("cohere", "cohere2", "gemma3_text", "glm4", "gpt2", "gpt_neox", "granite", "llama", "mistral", "mixtral",
         "olmo2", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3", "starcoder2"),
        "sdpa",
    ),
    **dict.fromkeys(("gemma2", "gpt_oss"), "eager"),
}  # fmt: skip
"""Architectures that were compared with ``generate``, and the attention with which they agree. bloom, falcon, gptj and
mpt run and are wrong; others fail."""
PAGE = 32
"""Tokens in a block on processors; a card has transformers' own size."""
CACHED_TOKENS = 16384
STEP_TOKENS = 512
MOST_RUNNING = 64
SHARE_FOR_CACHE = 0.8
ENDING_SECONDS = 60.0
"""How long the thread may take to end after a fault."""


@dataclass(eq=False, slots=True)
class Row:
    """One sequence in the batch, with the way back to who asked."""

    prompt: Sequence[int]
    limit: int
    chooser: Chooser
    put: Callable[[Step | Exception], None]
    number: int = 0
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Never a client's: two of the same in the batch end its thread."""
    output: list[int] = field(default_factory=list)
    over: bool = False

    def take(self, token: int) -> None:
        """Hands the next token on."""
        self.output.append(token)
        finish: Finish | None = None
        if token in self.chooser.sampling.ends:
            finish = "stop"
        elif len(self.output) >= self.limit:
            finish = "length"
        self.over = finish is not None
        self.put(Step((token,), sequence=self.number, finish=finish, logprobs=self.chooser.told))

    def fail(self, error: EngineError) -> None:
        """Tells who waits, once."""
        if not self.over:
            self.over = True
            self.put(error)


class _Choose(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]  # transformers ships no types
    """Chooses a token for each row and forbids all others, so that the likeliest is the chosen one."""

    supported_kwargs = {"row": Row}  # noqa: RUF012  (the base class has it so)
    ignored_kwargs = ()

    def __init__(self) -> None:
        self._rows: list[Row] = []

    @override
    def fill_defaults(self, int32_tensor: Tensor) -> None:
        int32_tensor.zero_()

    @override
    def prepare_tensor_args(self, requests_with_new_token: list[Any]) -> Tensor:
        """Called before each step by the thread that computes it; says in which order the rows come."""
        self._rows = [request.state.logit_processor_kwargs["row"] for request in requests_with_new_token]
        return torch.zeros(len(self._rows), dtype=torch.int32)

    @override
    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        likeliest: list[int] = scores.argmax(dim=-1).tolist()
        for number, row in enumerate(self._rows):
            if row.over:
                continue
            token = likeliest[number]
            if not row.chooser.plain:
                token = row.chooser.choose(scores[number].float().cpu(), prompt=row.prompt, output=row.output)
                scores[number] = float("-inf")
                scores[number, token] = 0.0
            row.take(token)
        return scores


class _Router(OutputRouter):  # type: ignore[misc]  # transformers ships no types
    """Where the batch's results go: the rows have their tokens already, so only errors are told."""

    def __init__(self, told: Callable[[Exception], EngineError]) -> None:
        super().__init__()
        self._told = told

    @override
    def deliver(self, output: Any) -> None:
        """Its tokens were handed on as they came."""

    @override
    def deliver_batch(self, outputs: list[Any]) -> None:
        """See deliver."""

    @override
    def fail_and_deliver(self, state: Any, error: Exception) -> None:
        super().fail_and_deliver(state, error)
        state.logit_processor_kwargs["row"].fail(self._told(error))


class ContinuousBatch:
    """The batch over one model. ``failed`` is told of each fault, and gives what those who wait are told."""

    def __init__(self, model: Any, *, context: int, failed: Callable[[Exception], EngineError]) -> None:
        self._model = model
        self._gate = threading.Lock()
        self._stopped = False
        self._last: Exception | None = None
        self._failed, self._error = failed, EngineError("the engine failed")
        self._alone = model.config._attn_implementation
        self._manager: ContinuousBatchingManager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),
            continuous_batching_config=_configuration(model, context=context),
        )
        self._together = model.config._attn_implementation
        self._manager.output_router = _Router(self._told)
        processors = self._manager.logit_processor
        processors.logits_processor.append(_Choose())
        processors.tensors_required += 1
        processors._retrieve_processors_kwargs()
        processors.do_processing = True

    @property
    def capacity(self) -> int:
        """Tokens that one sequence can have; known once something was computed."""
        cache = self._manager.batch_processor.cache
        return int(cache.num_blocks * self._manager.continuous_batching_config.page_size)

    @property
    def load(self) -> Load:
        """What there is to do."""
        processor = self._manager.batch_processor
        if processor is None:
            return Load()
        waiting = len(processor.scheduler.waiting_requests) + self._manager.input_queue.qsize()
        cache = processor.cache
        kept = sum(len(each.ledger.cached_blocks) * each.bytes_per_block for each in cache.cache_allocators.values())
        kept /= cache.num_sectors * cache.bytes_per_sector  # for somebody to share; free as soon as it is wanted
        used = round(max(0.0, 1 - cache.compute_free_capacity() - kept) * cache.num_blocks)
        return Load(len(processor.scheduler.active_requests), waiting, cache.num_blocks, used)

    def add(self, rows: Sequence[Row]) -> None:
        """Takes rows in, and starts the thread if it is not running. May wait for one that ends. Raises Stopped."""
        with self._gate:
            for row in rows:
                self._run()
                while not self._added(row):
                    self._run()
            self._run()  # it may have ended meanwhile, and not have seen the last ones
        if self._stopped:  # since it was asked
            self.stop()

    def cancel(self, rows: Sequence[Row]) -> None:
        """Gives up what is not over; its blocks are free before the next step."""
        for row in rows:
            if not row.over:
                row.over = True
                self._manager.cancel_request(row.id)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within this the model is the caller's, with the attention that ``generate`` wants; the batch waits."""
        with self._gate:
            self._run()
            with self._manager.pause():
                self._attend(self._alone)
                try:
                    yield
                finally:
                    self._attend(self._together)

    def stop(self) -> None:
        """Ends what runs, takes nothing new, and returns at once."""
        self._stopped = True
        if self._manager.is_running():
            self._manager.stop(block=False, hard_stop=True, keep_for_next_session=True)

    def close(self) -> None:
        """Ends it for good; the model is as it was before."""
        self._manager.stop(block=True, hard_stop=True)

    def _run(self) -> None:
        """Sees to it that the thread runs and takes requests. Raises Stopped."""
        if self._stopped:
            raise Stopped("the server stops")
        if self._manager.is_running() and self._manager.background_thread_status.can_accept_new_requests() is None:
            return
        self._manager.join(time.perf_counter(), timeout=ENDING_SECONDS)
        self._manager.start()

    def _added(self, row: Row) -> bool:
        ends = list(row.chooser.sampling.ends) or -1
        taken = self._manager.add_request(
            list(row.prompt), request_id=row.id, max_new_tokens=row.limit, eos_token_id=ends, row=row
        )
        return taken is not None

    def _attend(self, implementation: str) -> None:
        if self._model.config._attn_implementation != implementation:
            self._model.set_attn_implementation(implementation)

    def _told(self, error: Exception) -> EngineError:
        """One fault is told to many rows, and counted once."""
        if error is not self._last:
            self._last, self._error = error, self._failed(error)
        return self._error


def _configuration(model: Any, *, context: int) -> ContinuousBatchingConfig:
    """Without CUDA graphs and double buffering: the tokens are chosen in Python. On processors the sizes are ours, for
    transformers would take 60 % of the memory."""
    common = {"use_async_batching": False, "use_cuda_graph": False, "auto_switch_to_flash": False}
    if model.device.type != "cpu":
        return ContinuousBatchingConfig(**common, max_memory_percent=SHARE_FOR_CACHE, max_requests_per_batch=256)
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    block = 2 * text.num_hidden_layers * heads * width * PAGE * model.dtype.itemsize
    fitting = int(memory.free(model.device) * SHARE_FOR_CACHE) // block
    blocks = max(2, min(-(-max(context, CACHED_TOKENS) // PAGE), fitting))
    sizes = {"page_size": PAGE, "num_blocks": blocks, "max_batch_tokens": STEP_TOKENS}
    return ContinuousBatchingConfig(**common, **sizes, max_requests_per_batch=MOST_RUNNING)


def out_of_memory(error: Exception) -> EngineError | None:
    """What those are told whose batch did not fit; None for another fault."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return OutOfMemory("there is not enough memory for these requests: ask for less")
    return None
