"""The one door to vLLM. Nothing here has been run on a GPU; what is translated is tested in vllm_engine."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer, GenerationConfig
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.async_llm import AsyncLLM

from inference_server.engines.engine import ServedModel, TokenLogprob
from inference_server.engines.tokenizer import HuggingFaceTokenizer, chat_template
from inference_server.engines.vllm_engine import Piece, Wanted, adapters
from inference_server.schemas import GenerateKwargs
from inference_server.settings import Settings


class VllmBackend:
    """AsyncLLM as a Backend."""

    def __init__(self, llm: Any, served: ServedModel, loras: Mapping[str, Any]) -> None:
        self._llm, self._loras = llm, loras
        self.served = served

    @classmethod
    def load(cls, settings: Settings) -> "VllmBackend":
        """Reads the model and starts vLLM's processes. Raises what vLLM raises."""
        source, found = settings.pretrained_model_name_or_path, adapters(Path(settings.adapters_dir))
        llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=source,
                revision=settings.revision if not Path(source).is_dir() else None,
                download_dir=settings.cache_dir,
                dtype=settings.torch_dtype,
                trust_remote_code=settings.trust_remote_code,
                enable_lora=bool(found),
                enable_log_requests=False,
                load_format="safetensors",  # other formats are pickles, which run code when read
            )
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=settings.trust_remote_code)
        if settings.chat_template:
            tokenizer.chat_template = chat_template(settings.chat_template)
        configuration = AutoConfig.from_pretrained(source, trust_remote_code=settings.trust_remote_code)
        loras = {name: LoRARequest(name, number, str(at)) for number, (name, at) in enumerate(found.items(), start=1)}
        served = ServedModel(
            name=settings.served_model_name or Path(source).name,
            tokenizer=HuggingFaceTokenizer(tokenizer, vocabulary_size=configuration.get_text_config().vocab_size),
            context_length=llm.model_config.max_model_len,
            defaults=_defaults(source),
            adapters=tuple(loras),
            default_adapter=next(iter(loras)) if len(loras) == 1 else None,
        )
        return cls(llm, served, loras)

    async def generate(self, wanted: Wanted, request_id: str) -> AsyncGenerator[Sequence[Piece]]:
        """See Backend."""
        structured = StructuredOutputsParams(**wanted.structured) if wanted.structured else None
        sampling = SamplingParams(**wanted.sampling, structured_outputs=structured, output_kind=RequestOutputKind.DELTA)
        outputs = self._llm.generate(
            {"prompt_token_ids": list(wanted.prompt)},
            sampling,
            request_id,
            lora_request=self._loras[wanted.adapter] if wanted.adapter else None,
        )
        async for output in outputs:
            yield [
                Piece(each.index, tuple(each.token_ids), each.finish_reason, _told(each.token_ids, each.logprobs))
                for each in output.outputs
            ]

    def shutdown(self) -> None:
        """See Backend."""
        self._llm.shutdown()


def _told(tokens: Sequence[int], rows: Sequence[Mapping[int, Any]] | None) -> tuple[TokenLogprob, ...]:
    """vLLM tells the chosen token and the likeliest ones in one mapping, with their ranks."""
    return tuple(
        TokenLogprob(
            row[token].logprob,
            tuple((t, one.logprob) for t, one in sorted(row.items(), key=lambda each: each[1].rank)),
        )
        for token, row in zip(tokens, rows or (), strict=False)
    )


def _defaults(source: str) -> dict[str, Any]:
    try:
        known = GenerationConfig.from_pretrained(source)
    except OSError:  # a model need not have one
        return {}
    names = GenerateKwargs.model_fields
    return {key: value for key in names if (value := getattr(known, key, None)) is not None}
