"""What a request of the OpenAI API means: from its fields to token ids and options for an engine. Pure: it computes,
off the event loop."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference_server import openai_tools
from inference_server.chat import COLDEST
from inference_server.engines.engine import NOTHING, Generation, NoChat, NoSuchVariable, ServedModel
from inference_server.errors import BadRequest, NotFound
from inference_server.openai_schemas import (
    ChatCompletionRequest,
    ChatMessage,
    CompletionRequest,
    ResponseFormat,
    Sampled,
)
from inference_server.openai_tools import ToolUse
from inference_server.schemas import MOST_SEQUENCES

FROM_THE_MODEL = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "eos_token_id")
"""What counts of generation_config.json where the client does not say."""
SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "typical_p")
COMPLETION_TOKENS = 16
"""The OpenAI API's default of max_tokens for /v1/completions."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request ready for an engine: one generation per choice."""

    model: str
    generations: tuple[Generation, ...]
    prompt_tokens: int
    stops: tuple[str, ...]
    echoes: tuple[str, ...]
    logprobs: int | None
    """How many alternatives to tell for each token; None tells nothing."""
    prompt_logprobs: int | None
    """The same for each token of the prompt, in vLLM's field of its own."""
    stream: bool
    include_usage: bool
    tools: ToolUse | None = None
    prompt_alone: bool = False
    """Nothing is to be answered: it is the prompt that is asked about."""


def named(name: str | None, *, model: ServedModel) -> str | None:
    """The adapter that a request's ``model`` means, None for the base model. Raises NotFound."""
    if not name:
        return model.default_adapter
    if name in model.adapters:
        return name
    if name == model.name:
        return None
    served = ", ".join((model.name, *model.adapters))
    raise NotFound(f"the model {name!r} is not served here; there is {served}", param="model", code="model_not_found")


def chat(request: ChatCompletionRequest, *, model: ServedModel) -> Asked:
    """What a conversation asks for. Raises Refusal."""
    if request.top_logprobs and not request.logprobs:
        raise BadRequest("top_logprobs needs logprobs: true", param="top_logprobs")
    use = openai_tools.use(request, model=model)
    variables = {**(request.chat_template_kwargs or {})}
    if request.reasoning_effort:
        variables["reasoning_effort"] = request.reasoning_effort
    prompt = conversation(request.messages, model=model, tools=use.shown if use else (), variables=variables)
    most = request.max_completion_tokens or request.max_tokens or model.context_length
    logprobs = (request.top_logprobs or 0) if request.logprobs else None
    return _asked(request, [prompt], most=most, logprobs=logprobs, model=model, tools=use)


def completion(request: CompletionRequest, *, model: ServedModel) -> Asked:
    """What prompts ask for. Raises Refusal."""
    if request.suffix:
        raise BadRequest("suffix is not supported by this server: leave it out", param="suffix")
    if request.best_of not in (None, request.n or 1):
        raise BadRequest("best_of is supported where it equals n: leave it out", param="best_of")
    if request.max_tokens == 0 and not request.echo:
        raise BadRequest("max_tokens: at least 1, but for an echo of the prompt alone", param="max_tokens")
    prompts = [_ids(prompt, model=model) for prompt in _prompts(request)]
    most = COMPLETION_TOKENS if request.max_tokens is None else max(request.max_tokens, 1)
    return _asked(request, prompts, most=most, logprobs=request.logprobs, model=model, echo=bool(request.echo))


def conversation(
    messages: list[ChatMessage],
    *,
    model: ServedModel,
    tools: Sequence[Mapping[str, Any]] = (),
    variables: Mapping[str, Any] = NOTHING,
) -> list[int]:
    """The ids of messages up to where the reply begins. Raises BadRequest."""
    turns, tools = openai_tools.turns(messages, tools, model=model)
    try:
        return model.tokenizer.encode_chat(turns, tools=tools, variables=variables)
    except NoSuchVariable as error:
        own = "reasoning_effort" in variables and "'reasoning_effort'" in str(error)
        raise BadRequest(str(error), param="reasoning_effort" if own else "chat_template_kwargs") from error
    except NoChat as error:
        raise BadRequest(str(error), param="messages") from error


def check_ids(ids: list[int], *, model: ServedModel, param: str) -> list[int]:
    """The ids, if the model has them all. Raises BadRequest."""
    if ids and max(ids) >= model.tokenizer.vocabulary_size:
        raise BadRequest(f"{param}: the model's token ids end at {model.tokenizer.vocabulary_size - 1}", param=param)
    return ids


def _prompts(request: CompletionRequest) -> Iterator[str | list[int]]:
    if isinstance(request.prompt, str):
        yield request.prompt
    elif isinstance(request.prompt[0], int):
        yield [each for each in request.prompt if isinstance(each, int)]
    else:
        yield from (each for each in request.prompt if not isinstance(each, int))


def _ids(prompt: str | list[int], *, model: ServedModel) -> list[int]:
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else check_ids(prompt, model=model, param="prompt")
    if not ids:
        raise BadRequest("the prompt is empty: write at least one character", param="prompt")
    return ids


def _asked(
    request: Sampled,
    prompts: list[list[int]],
    *,
    most: int,
    logprobs: int | None,
    model: ServedModel,
    echo: bool = False,
    tools: ToolUse | None = None,
) -> Asked:
    each = request.n or 1
    if each * len(prompts) > MOST_SEQUENCES:
        raise BadRequest(f"prompts times n may be {MOST_SEQUENCES}: send several requests", param="n")
    if request.stream_options and not request.stream:
        raise BadRequest("stream_options needs stream: true", param="stream_options")
    if request.prompt_logprobs is not None and request.stream:
        raise BadRequest("prompt_logprobs come with a whole answer: leave stream out", param="prompt_logprobs")
    adapter = named(request.model, model=model)
    options = {**_options(request, model=model), **({} if logprobs is None else {"top_logprobs": logprobs})}
    about_prompt = [each for each in (logprobs if echo else None, request.prompt_logprobs) if each is not None]
    if about_prompt:
        options["prompt_logprobs"] = max(about_prompt)
    if tools and tools.grammar:
        options["grammar"] = tools.grammar
    generations = tuple(
        Generation(tuple(prompt), _room(prompt, most, request, model=model), _seeded(options, number), adapter)
        for prompt in prompts
        for number in range(each)
    )
    return Asked(
        model=adapter or model.name,
        generations=generations,
        prompt_tokens=sum(map(len, prompts)),
        stops=request.stops(),
        echoes=tuple(model.tokenizer.decode(prompt) if echo else "" for prompt in prompts for _ in range(each)),
        logprobs=logprobs,
        prompt_logprobs=request.prompt_logprobs,
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        tools=tools,
        prompt_alone=request.max_tokens == 0,
    )


def _room(prompt: list[int], most: int, request: Sampled, *, model: ServedModel) -> int:
    """New tokens at most. Beyond the model's context an answer ends, as in /chat. Raises BadRequest."""
    if len(prompt) >= model.context_length:
        raise BadRequest(
            f"the prompt has {len(prompt)} tokens; prompt and answer together may have {model.context_length}: "
            "shorten it",
            param="messages" if isinstance(request, ChatCompletionRequest) else "prompt",
            code="context_length_exceeded",
        )
    room = min(most, model.context_length - len(prompt))
    if (request.min_tokens or 0) > room:
        raise BadRequest(
            f"min_tokens: at most {room} here, for that is how long the answer may get", param="min_tokens"
        )
    return room


def _options(request: Sampled, *, model: ServedModel) -> dict[str, Any]:
    """Options for an engine, under their names in transformers' GenerationConfig where it has them."""
    given = {key: getattr(request, key) for key in (*FROM_THE_MODEL, "frequency_penalty", "presence_penalty", "seed")
             if getattr(request, key, None) is not None}  # fmt: skip
    defaults = {key: value for key, value in model.defaults.items() if key in FROM_THE_MODEL}
    options = {"temperature": 1.0, "top_k": 0, **defaults, **given}
    options["top_k"] = max(options["top_k"], 0)  # vLLM's -1 is transformers' 0: all
    greedy = options["temperature"] < COLDEST
    options = {key: value for key, value in options.items() if not (greedy and key in SAMPLING_ONLY)}
    extra = {
        "min_new_tokens": 0 if request.ignore_eos else request.min_tokens,
        "ignore_eos": request.ignore_eos,
        "logit_bias": _bias(request.logit_bias or {}, model=model),
        "json_schema": _schema(request.response_format),
    }
    return {**options, **{key: value for key, value in extra.items() if value}, "do_sample": not greedy}


def _bias(given: Mapping[str, float], *, model: ServedModel) -> dict[int, float]:
    if wrong := [key for key in given if not (key.isascii() and key.isdigit() and len(key) < 10)]:
        raise BadRequest(f"logit_bias: its keys are token ids, and {len(wrong)} are not", param="logit_bias")
    ids = {int(key): value for key, value in given.items()}
    check_ids(list(ids), model=model, param="logit_bias")
    return ids


def _schema(wanted: ResponseFormat | None) -> dict[str, Any] | None:
    """The JSON schema that the answer must keep; None for free text. Raises BadRequest."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.json_schema is None or wanted.json_schema.json_schema is None:
        raise BadRequest("response_format: json_schema needs json_schema.schema", param="response_format")
    return wanted.json_schema.json_schema or {"type": "object"}


def _seeded(options: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Each choice has a seed of its own, or all were the same."""
    return {**options, **({"seed": (options["seed"] + number) % 2**63} if "seed" in options else {})}
