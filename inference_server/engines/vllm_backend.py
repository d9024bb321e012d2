"""The one door to vLLM. Run against vLLM for processors by ``make vllm``; not on a GPU."""

import dataclasses
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import StatLoggerBase

from inference_server.engines import vllm_adapters
from inference_server.engines.engine import (
    EngineError,
    Finish,
    InvalidParameters,
    Load,
    ServedModel,
    Step,
    TokenLogprob,
)
from inference_server.engines.tokenizer import HuggingFaceTokenizer, chat_template
from inference_server.engines.vllm_adapters import Prepared
from inference_server.engines.vllm_arguments import arguments
from inference_server.engines.vllm_request import Wanted
from inference_server.schemas import GenerateKwargs
from inference_server.settings import Settings

log = logging.getLogger(__name__)

READ = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken")
"""Files of a repository that a model is made of; with --trust_remote_code its Python too."""
FINISH: Mapping[str | None, Finish | None] = {None: None, "stop": "stop", "length": "length"}


class VllmBackend:
    """AsyncLLM as a Backend."""

    def __init__(
        self, llm: Any, *, model: ServedModel, ends: tuple[int, ...], told: "Told", adapters: Prepared
    ) -> None:
        self._llm, self._told, self._adapters = llm, told, adapters
        self._loras: dict[str, Any] = {}
        self.served, self.ends = model, ends

    @classmethod
    def start(cls, settings: Settings) -> "VllmBackend":
        """Reads the model and starts vLLM's processes. Raises what vLLM raises."""
        source = _directory(settings)
        _check_weights(source)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=settings.trust_remote_code)
        if settings.chat_template:
            tokenizer.chat_template = chat_template(settings.chat_template)
        configuration = AutoConfig.from_pretrained(source, trust_remote_code=settings.trust_remote_code)
        adapters = vllm_adapters.prepare(settings, configuration)
        cards = torch.cuda.device_count()
        asked = arguments(
            settings,
            source=source,
            configuration=configuration,
            cards=cards,
            ranks=[each.rank for each in adapters.written.values()],
        )
        config = _config(settings, asked)
        if cards > (used := config.parallel_config.world_size):
            log.warning("%d of the %d cards are used", used, cards)
        told = Told()
        llm = AsyncLLM.from_vllm_config(config, stat_loggers=[told.listen], disable_log_stats=True)
        served = ServedModel(
            name=settings.served_model_name or Path(settings.pretrained_model_name_or_path).name,
            tokenizer=HuggingFaceTokenizer(tokenizer, vocabulary_size=configuration.get_text_config().vocab_size),
            context_length=llm.model_config.max_model_len,
            defaults=_generation(source),
            at_once=llm.vllm_config.scheduler_config.max_num_seqs,
        )
        told.blocks = llm.vllm_config.cache_config.num_gpu_blocks
        ends = _ids(served.defaults.get("eos_token_id", tokenizer.eos_token_id))
        return cls(llm, model=served, ends=ends, told=told, adapters=adapters)

    async def prepare(self) -> None:
        """See Backend. An adapter that vLLM cannot load is refused with its reason, and the rest serves."""
        refused = dict(self._adapters.refused)
        for number, (name, each) in enumerate(self._adapters.written.items(), start=1):
            lora = LoRARequest(name, number, str(each.directory))
            try:
                await self._llm.add_lora(lora)
            except Exception as error:
                if self.dead:
                    raise
                refused[name] = " ".join(f"vLLM: {error}".split())
                log.exception("the adapter %s is not served", name)
            else:
                self._loras[name] = lora
        default = self._adapters.default
        self.served = dataclasses.replace(
            self.served,
            adapters=tuple(self._loras),
            default_adapter=default if default in self._loras else None,
            refused_adapters=refused,
        )

    @property
    def dead(self) -> bool:
        """See Backend."""
        return bool(self._llm.errored)

    @property
    def load(self) -> Load:
        """See Backend."""
        return self._told.load

    async def generate(self, asked: Wanted, request_id: str) -> AsyncGenerator[Step]:
        """See Backend."""
        structured = StructuredOutputsParams(**asked.structured) if asked.structured else None
        sampling = SamplingParams(**asked.sampling, structured_outputs=structured, output_kind=RequestOutputKind.DELTA)
        outputs = self._llm.generate(
            {"prompt_token_ids": list(asked.prompt)},
            sampling,
            request_id,
            lora_request=self._loras[asked.adapter] if asked.adapter else None,
        )
        about_prompt = asked.sampling.get("prompt_logprobs")
        async with aclosing(outputs):
            async for output in outputs:
                if about_prompt is not None and output.prompt_logprobs:
                    rows = output.prompt_logprobs[1:]
                    yield Step((), prompt=_told(asked.prompt[1:], rows, most=about_prompt))
                    about_prompt = None
                for each in output.outputs:
                    tokens = tuple(each.token_ids)
                    if each.finish_reason not in FINISH and asked.structured:  # a token came that the grammar has not
                        raise InvalidParameters("response_format and tools: the model cannot go on by this grammar")
                    if each.finish_reason not in FINISH:
                        raise EngineError(f"vLLM ended the answer: {each.finish_reason}")
                    logprobs = _told(tokens, each.logprobs or (), most=asked.sampling.get("logprobs", 0))
                    yield Step(tokens, each.index, FINISH[each.finish_reason], logprobs)

    def shutdown(self) -> None:
        """See Backend."""
        self._llm.shutdown()
        self._llm = None  # it would do so again at the interpreter's end, when half of it is gone


class Told:
    """What vLLM's scheduler told of itself last."""

    def __init__(self) -> None:
        self.blocks: int | None = None
        self._running = self._waiting = 0
        self._usage = 0.0

    @property
    def load(self) -> Load:
        """See Engine."""
        used = round(self._usage * self.blocks) if self.blocks else 0
        return Load(self._running, self._waiting, self.blocks, used)

    def take(self, stats: Any) -> None:
        """After a step."""
        self._running, self._waiting = stats.num_running_reqs, stats.num_waiting_reqs
        self._usage = stats.kv_cache_usage

    def listen(self, *_: Any, **__: Any) -> StatLoggerBase:
        """A listener as vLLM makes one for each of its schedulers."""
        return _Listener(self.take)


class _Listener(StatLoggerBase):  # type: ignore[misc]
    def __init__(self, take: Any) -> None:
        self._take = take

    def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
        """A step was made."""
        if scheduler_stats is not None:
            self._take(scheduler_stats)

    def log_engine_initialized(self) -> None:
        """Nothing to say."""


def _config(settings: Settings, asked: Mapping[str, Any]) -> Any:
    """vLLM's configuration. Raises ValueError that names the options, where it may be they that are wrong."""
    options = [name for name, _ in settings.vllm_option]
    if unknown := asked.keys() - {each.name for each in dataclasses.fields(AsyncEngineArgs)}:
        raise ValueError(f"--vllm_option={min(unknown)}: this vLLM has no such argument")
    try:
        return AsyncEngineArgs(**asked).create_engine_config()
    except (TypeError, ValueError) as error:
        if not options:
            raise
        raise ValueError(f"vLLM does not take --vllm_option={', '.join(options)}: {error}") from error


def _told(tokens: Sequence[int], rows: Sequence[Mapping[int, Any]], *, most: int) -> tuple[TokenLogprob, ...]:
    """vLLM tells the token that came and the likeliest ones in one mapping, with their ranks."""
    return tuple(
        TokenLogprob(
            row[token].logprob,
            tuple((t, one.logprob) for t, one in sorted(row.items(), key=lambda each: each[1].rank)[:most]),
            row[token].rank,
        )
        for token, row in zip(tokens, rows, strict=False)
    )


def _directory(settings: Settings) -> Path:
    """Where the model is: a directory, or its place in the cache, fetched where that is allowed. Raises OSError."""
    source = settings.pretrained_model_name_or_path
    if Path(source).is_dir():
        return Path(source)
    python = ("*.py",) if settings.trust_remote_code else ()
    return Path(
        snapshot_download(
            source,
            revision=settings.revision,
            cache_dir=settings.cache_dir,
            local_files_only=not settings.allow_remote_files,
            allow_patterns=[*READ, *python],
        )
    )


def _check_weights(source: Path) -> None:
    """Says what vLLM's process would say in its log alone. Raises OSError and SafetensorError."""
    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise OSError(f"{source} has no *.safetensors; other formats are pickles and are not read")
    for file in files:
        with safe_open(file, framework="pt"):
            pass


def _generation(source: Path) -> dict[str, Any]:
    try:
        known = GenerationConfig.from_pretrained(source)
    except OSError:  # a model need not have one
        return {}
    names = GenerateKwargs.model_fields
    return {key: value for key in names if (value := getattr(known, key, None)) is not None}


def _ids(tokens: int | Sequence[int] | None) -> tuple[int, ...]:
    if tokens is None:
        return ()
    return (tokens,) if isinstance(tokens, int) else tuple(tokens)
