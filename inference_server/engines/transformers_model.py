"""A model of transformers in memory: the one door to torch. What is here computes, in the engine's thread."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from inference_server.engines.adapters import Adapters
from inference_server.engines.engine import (
    Finish,
    Generation,
    InvalidParameters,
    NoChat,
    OutOfMemory,
    ServedModel,
    Step,
    Tokenizer,
    TokenLogprob,
)
from inference_server.engines.grammar import Grammar, Vocabulary
from inference_server.engines.logits import OWN, OneSequence
from inference_server.schemas import GenerateKwargs
from inference_server.settings import Settings

log = logging.getLogger(__name__)

NEVER = -1
"""An end of a sequence that no token is."""
CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class HuggingFaceTokenizer:
    """The Tokenizer of the model's directory."""

    def __init__(self, tokenizer: Any, *, vocabulary_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size

        self._vocabulary: Vocabulary | None = None

    def grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """A grammar of answers by a JSON schema. Raises InvalidParameters."""
        try:
            self._vocabulary = self._vocabulary or Vocabulary(self._tokenizer, size=self._vocabulary_size)
        except ValueError as error:
            raise InvalidParameters("response_format: not with this model's kind of tokenizer") from error
        return self._vocabulary.grammar(schema)

    @property
    def vocabulary_size(self) -> int:
        """Rows of the model's embedding; the tokenizer may know fewer."""
        return self._vocabulary_size

    def encode(self, text: str) -> list[int]:
        """See Tokenizer."""
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """See Tokenizer."""
        if not self._tokenizer.chat_template:
            raise NoChat("this model has no chat template: send a prompt, or start the server with --chat_template")
        try:
            rendered = self._tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        except jinja2.TemplateError as error:
            raise NoChat(f"the model's chat template refuses these messages: {error}") from error
        # The template writes the special tokens itself, so none may be added.
        ids: list[int] = self._tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, tokens: Sequence[int], *, clean_up_spaces: bool = False) -> str:
        """See Tokenizer."""
        text: str = self._tokenizer.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=clean_up_spaces
        )
        return text


def grammar(tokenizer: Tokenizer, request: Generation) -> Grammar | None:
    """What the answer must keep, if the request says. Raises InvalidParameters."""
    schema = request.options.get("json_schema")
    return tokenizer.grammar(schema) if schema and isinstance(tokenizer, HuggingFaceTokenizer) else None


class TransformersModel:
    """A loaded model; ``served`` is what its users see."""

    def __init__(self, model: Any, *, tokenizer: Any, name: str, adapters: Adapters) -> None:
        self._model = model
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
        self._ends = ends
        self._pad = next(token for token in (tokenizer.pad_token_id, *_ids(ends), 0) if token is not None)

    @classmethod
    def load(cls, settings: Settings, *, say: Callable[[str], None]) -> "TransformersModel":
        """Reads the model named by the settings. Raises what transformers raises: OSError, ValueError, ImportError."""
        began, source = time.monotonic(), settings.pretrained_model_name_or_path
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()  # its hints are about one request's options, at every request
        torch.set_num_threads(threads())
        where = {
            "revision": settings.revision,
            "cache_dir": settings.cache_dir,
            "local_files_only": not settings.allow_remote_files,
            "trust_remote_code": settings.trust_remote_code,
        }
        say("reading the tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
        if settings.chat_template:
            tokenizer.chat_template = chat_template(settings.chat_template)
        say("reading the weights")
        model = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=settings.torch_dtype if settings.torch_dtype == "auto" else getattr(torch, settings.torch_dtype),
            use_safetensors=True,  # other formats are pickles, which run code when read
            **_placement(settings),
            **where,
        ).eval()
        seconds = time.monotonic() - began
        log.info("%s loaded on %s as %s in %.1f s", source, _device(model), str(model.dtype).split(".")[-1], seconds)
        adapters = Adapters(model, directory=Path(settings.adapters_dir), strengths=dict(settings.adapter_strength))
        name = settings.served_model_name or Path(source).name
        return cls(model, tokenizer=tokenizer, name=name, adapters=adapters)

    def generate(self, request: Generation, *, put: Callable[[Step], None], unwanted: Callable[[], bool]) -> None:
        """Puts each step as it comes, until all sequences end or nobody wants them. Raises EngineError."""
        if unwanted():
            return
        own = OneSequence(request.options, prompt=len(request.prompt), grammar=grammar(self.served.tokenizer, request))
        follow = _Follow(put if _one_sequence(request.options) else None, unwanted=unwanted, told=own.told)
        options = {"pad_token_id": self._pad, "eos_token_id": self._ends, **request.options}
        if options.get("ignore_eos"):
            options["eos_token_id"] = NEVER
        if "seed" in options:
            torch.manual_seed(options["seed"])  # for all, but there is one request at a time
        prompt = torch.tensor([request.prompt], device=self._model.device)
        try:
            with self._adapters.active(request.adapter):
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


def _placement(settings: Settings) -> dict[str, Any]:
    """On which devices, and quantised how. Without a GPU everything is on the processors."""
    if not torch.cuda.is_available() and settings.device_map == "auto":
        log.info("no GPU here: running on the processors with %d threads", torch.get_num_threads())
        return {"device_map": "cpu"}
    if settings.load_in_4bit or settings.load_in_8bit:
        bits = BitsAndBytesConfig(load_in_4bit=settings.load_in_4bit, load_in_8bit=settings.load_in_8bit)
        return {"device_map": settings.device_map, "quantization_config": bits}
    return {"device_map": settings.device_map}


def _device(model: Any) -> str:
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else str(model.device)


def chat_template(given: str) -> str:
    """A chat template from its path, or as given if it is one (KAITO 0.12: it has a brace or a line break)."""
    return given if "{" in given or "\n" in given else Path(given).read_text()


def threads() -> int:
    """How many threads compute: OMP_NUM_THREADS if set, else the processors this process may use."""
    if wanted := os.environ.get("OMP_NUM_THREADS", ""):
        return int(wanted) if wanted.isdecimal() else 1
    allowed = len(os.sched_getaffinity(0))
    quota, period = (CGROUP_QUOTA.read_text().split() if CGROUP_QUOTA.exists() else ("max", "1"))[:2]
    return allowed if quota == "max" else max(1, min(allowed, round(int(quota) / int(period))))
