"""A model of transformers in memory: the one door to torch. What is here computes, in the engine's thread."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from inference_server.engines import transformers_checkpoint as checkpoint
from inference_server.engines.adapters import Adapters
from inference_server.engines.batch_check import difference
from inference_server.engines.continuous_batch import ATTENTION, MOST_RUNNING, ContinuousBatch, Row
from inference_server.engines.engine import (
    EngineError,
    Finish,
    Generation,
    InvalidParameters,
    OutOfMemory,
    ServedModel,
    Step,
    TokenLogprob,
)
from inference_server.engines.logits import OWN, OneSequence, told_of
from inference_server.engines.options import OnlyGenerate, sampling
from inference_server.engines.sampler import Chooser
from inference_server.engines.tokenizer import HuggingFaceTokenizer, ending, grammar
from inference_server.schemas import GenerateKwargs
from inference_server.settings import Settings

log = logging.getLogger(__name__)

NEVER = -1
"""An end of a sequence that no token is."""
AT_ONCE = 256
"""Tokens of a prompt whose logits are there at a time: 150 MB of a vocabulary of 150,000."""
CHECK = ("Hello", "The capital of France is", "One two three four five six seven eight nine ten. " * 4)
"""Prompts of several lengths, which are answered together and alone."""


class TransformersModel:
    """A loaded model; ``served`` is what its users see."""

    def __init__(self, model: Any, *, tokenizer: Any, name: str, adapters: Adapters) -> None:
        self._model = model
        self.batch: ContinuousBatch | None = None
        self._adapters = adapters
        self._tokenizer = tokenizer
        configuration, generation = model.config.get_text_config(), model.generation_config
        options = GenerateKwargs.model_fields
        self.served = ServedModel(
            name=name,
            tokenizer=HuggingFaceTokenizer(tokenizer, vocabulary_size=configuration.vocab_size),
            context_length=getattr(configuration, "max_position_embeddings", tokenizer.model_max_length),
            defaults={key: value for key in options if (value := getattr(generation, key, None)) is not None},
            adapters=adapters.names,
            default_adapter=adapters.default,
            refused_adapters=adapters.refused,
        )
        generation.max_length = generation.max_new_tokens = None  # each request says how much; two limits only warn
        ends = generation.eos_token_id if generation.eos_token_id is not None else tokenizer.eos_token_id
        self.ends = _ids(ends)
        self._pad = next(token for token in (tokenizer.pad_token_id, *self.ends, 0) if token is not None)

    @classmethod
    def load(
        cls, settings: Settings, *, say: Callable[[str], None], failed: Callable[[Exception], EngineError]
    ) -> "TransformersModel":
        """Reads the model named by the settings; ``failed`` is told of faults of the batch. Raises what transformers
        raises: OSError, ValueError, ImportError."""
        model, tokenizer = checkpoint.read(settings, say=say)
        adapters = Adapters(model, directory=Path(settings.adapters_dir), strengths=dict(settings.adapter_strength))
        name = settings.served_model_name or Path(settings.pretrained_model_name_or_path).name
        loaded = cls(model, tokenizer=tokenizer, name=name, adapters=adapters)
        if settings.batching != "off":
            say("checking continuous batching")
            loaded.batch_if_right(failed)
        return loaded

    def batch_if_right(self, failed: Callable[[Exception], EngineError]) -> None:
        """Begins to batch, if the architecture is one that was compared and this model's answers are the same."""
        if reason := self._why_alone():
            log.info("one request at a time: %s", reason)
            return
        batch = ContinuousBatch(self._model, context=self.served.context_length, failed=failed)
        prompts = [self.served.tokenizer.encode(text) for text in CHECK if self.served.tokenizer.encode(text)]
        if differs := difference(self._model, batch, prompts):
            batch.close()
            log.warning("one request at a time: continuous batching does not answer as generate does: %s", differs)
            return
        context = min(self.served.context_length, batch.capacity)
        if context < self.served.context_length:
            log.warning("memory is there for a context of %d tokens, not for the model's", context)
        self.served, self.batch = replace(self.served, context_length=context, at_once=MOST_RUNNING), batch
        log.info("requests are batched continuously: the check at the start found no difference")

    def _why_alone(self) -> str:
        placed = getattr(self._model, "hf_device_map", None) or {}
        reasons = {
            "there are adapters, and each request may name its own": bool(self.served.adapters),
            "the model is spread over several devices": len(set(placed.values())) > 1,
            f"continuous batching was not compared for {checkpoint.kind(self._model.config)}": (
                checkpoint.kind(self._model.config) not in ATTENTION
            ),
        }
        return next((reason for reason, holds in reasons.items() if holds), "")

    def rows(self, request: Generation, put: Callable[[Step | Exception], None]) -> list[Row]:
        """The request as rows of the batch; none where only ``generate`` can do it. Raises InvalidParameters."""
        if self.batch is None or request.adapter is not None or "prompt_logprobs" in request.options:
            return []
        request = ending(request, ends=self.ends, tokenizer=self.served.tokenizer)
        try:
            how, number = sampling(request, ends=self.ends)
        except OnlyGenerate:
            return []
        limit = min(request.max_new_tokens, self.served.context_length - len(request.prompt))
        grammars = [grammar(self.served.tokenizer, request) for _ in range(number)]
        return [Row(request.prompt, limit, Chooser(how, grammar=own), put, each) for each, own in enumerate(grammars)]

    def generate(self, request: Generation, *, put: Callable[[Step], None], unwanted: Callable[[], bool]) -> None:
        """Puts each step as it comes, until all sequences end or nobody wants them. Raises EngineError."""
        if unwanted():
            return
        request = ending(request, ends=self.ends, tokenizer=self.served.tokenizer)
        own = OneSequence(request.options, prompt=len(request.prompt), grammar=grammar(self.served.tokenizer, request))
        follow = _Follow(put if _one_sequence(request.options) else None, unwanted=unwanted, told=own.told)
        options = {"pad_token_id": self._pad, "eos_token_id": list(self.ends) or None, **request.options}
        if options.get("ignore_eos"):
            options["eos_token_id"] = NEVER
        if "seed" in options:
            torch.manual_seed(options["seed"])  # for all, but there is one request at a time
        prompt = torch.tensor([request.prompt], device=self._model.device)
        try:
            with self.batch.paused() if self.batch else nullcontext(), self._adapters.active(request.adapter):
                if "prompt_logprobs" in options:
                    put(Step((), prompt=self._about(prompt, likeliest=options["prompt_logprobs"])))
                sequences = self._model.generate(
                    input_ids=prompt,
                    attention_mask=torch.ones_like(prompt),
                    max_new_tokens=request.max_new_tokens,
                    stopping_criteria=StoppingCriteriaList([follow]),
                    logits_processor=LogitsProcessorList([own] if options.keys() & set(OWN) else []),
                    **{key: value for key, value in options.items() if key not in OWN},
                    **({"tokenizer": self._tokenizer} if "stop_strings" in request.options else {}),
                )
        except ValueError as error:
            raise InvalidParameters(" ".join(str(error).split())) from error
        except (torch.OutOfMemoryError, MemoryError) as error:
            torch.cuda.empty_cache()
            raise OutOfMemory("there is not enough memory for this request: ask for less") from error
        if not unwanted():
            made: list[list[int]] = sequences[:, prompt.shape[1] :].tolist()
            self._finish(made, request, ends=_ids(options["eos_token_id"]), put=put)

    def _about(self, prompt: torch.Tensor, *, likeliest: int) -> tuple[TokenLogprob, ...]:
        """How likely each token of the prompt [1, tokens] was after those before it, but for the first."""
        after: list[int] = prompt[0, 1:].tolist()
        told: list[TokenLogprob] = []
        with torch.inference_mode():
            for logits in self._logits(prompt):
                own = after[len(told) : len(told) + len(logits)]
                told += told_of(logits[: len(own)], own, likeliest=likeliest)
        return tuple(told)

    def _logits(self, prompt: torch.Tensor) -> Iterator[torch.Tensor]:
        """The logits after the tokens of the prompt [1, tokens], some rows at a time, for all of them are gigabytes; at
        once only from a model that has no keys and values to go on from."""
        cache = None
        for some in prompt.split(AT_ONCE, dim=1):
            made = self._model(input_ids=some, past_key_values=cache, use_cache=True)
            cache = made.get("past_key_values")
            if cache is None and some.shape[1] < prompt.shape[1]:
                yield self._model(input_ids=prompt).logits[0]
                return
            yield made.logits[0]

    def _finish(
        self, sequences: list[list[int]], request: Generation, *, ends: tuple[int, ...], put: Callable[[Step], None]
    ) -> None:
        """Puts the last step of each sequence, and its tokens if they were not followed."""
        for number, padded in enumerate(sequences):
            last = next((place for place, token in enumerate(padded) if token in ends), len(padded) - 1)
            tokens = padded[: last + 1]
            full = len(tokens) == request.max_new_tokens and tokens[-1] not in ends
            finish: Finish = "length" if full else "stop"
            put(Step(() if _one_sequence(request.options) else tuple(tokens), sequence=number, finish=finish))


class _Follow:
    """A stopping criterion: sees each new token of a single sequence, and stops what nobody wants."""

    def __init__(
        self,
        put: Callable[[Step], None] | None,
        *,
        unwanted: Callable[[], bool],
        told: Callable[[int], tuple[TokenLogprob, ...]],
    ) -> None:
        self._put = put
        self._told = told
        self._unwanted = unwanted

    def __call__(self, input_ids: Any, *_: Any) -> Any:
        """Whether each sequence of the batch is to end now."""
        if self._put:
            token = int(input_ids[0, -1])
            self._put(Step((token,), logprobs=self._told(token)))
        return torch.full((input_ids.shape[0],), self._unwanted(), device=input_ids.device)


def _one_sequence(options: Mapping[str, Any]) -> bool:
    """Whether the tokens are final as they come: beams are reordered, and several sequences end at several times."""
    return bool(options.get("num_beams", 1) == 1 and options.get("num_return_sequences", 1) == 1)


def _ids(tokens: int | list[int] | None) -> tuple[int, ...]:
    if tokens is None:
        return ()
    return (tokens,) if isinstance(tokens, int) else tuple(tokens)
