"""What POST /chat means: from a request to token ids and options, and from tokens back to the ``Result``.

KAITO 0.3's text-generation and conversational pipelines without their bugs (decision 0007): nothing is cut unless the
client says so, the model's generation_config.json counts, and what cannot be done is said. Pure: it computes, off the
event loop.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from inference_server.engines.engine import Generation, NoChat, ServedModel
from inference_server.errors import BadRequest
from inference_server.schemas import ChatRequest
from inference_server.tools.channels import final
from inference_server.tools.format import ToolFormat

KAITO_DEFAULTS: Mapping[str, Any] = {
    "max_length": 200,
    "min_length": 0,
    "do_sample": True,
    "early_stopping": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 10,
    "top_p": 1.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
}
"""What KAITO 0.3 asks for where the client does not."""
SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
COLDEST = 0.01
"""Below this temperature the division of the scores overflows; the likeliest token is what is meant."""

Pipeline = Literal["text-generation", "conversational"]


@dataclass(frozen=True, slots=True)
class Turn:
    """A request ready for an engine, and how its answer is to be written."""

    generation: Generation
    echo: str
    """Goes before the answer's text."""
    clean_up_spaces: bool
    reply: bool = False
    """It replies to a conversation."""


def prepare(request: ChatRequest, *, model: ServedModel, pipeline: Pipeline) -> Turn:
    """What the engine is to do for this request. Raises BadRequest."""
    prompt, echo, reply = _prompt(request, model=model, pipeline=pipeline)
    asked = request.generate_kwargs.given() if request.generate_kwargs else {}
    if request.handle_long_generation == "hole":
        prompt = _newest(prompt, asked, model=model)
    options = {**KAITO_DEFAULTS, **model.defaults, **asked}
    most = room(len(prompt), asked=asked, model=model)
    _check_token_ids(options, vocabulary=model.tokenizer.vocabulary_size)
    _check_least(options, most={"min_length": len(prompt) + most, "min_new_tokens": most})
    return Turn(
        generation=Generation(
            prompt=tuple(prompt), max_new_tokens=most, options=_consistent(options), adapter=model.default_adapter
        ),
        echo=echo,
        clean_up_spaces=bool(request.clean_up_tokenization_spaces),
        reply=reply,
    )


def result(turn: Turn, sequences: Sequence[Sequence[int]], *, model: ServedModel) -> str:
    """The ``Result``: each sequence's text with its echo, one after the other as KAITO puts them."""
    decode, prompt = model.tokenizer.decode, turn.generation.prompt
    written = model.tokenizer.tools if turn.reply else None
    if isinstance(written, ToolFormat) and written.shape == "channels":
        return "".join(final(decode(tokens, keep=written.tokens.values())) for tokens in sequences)
    # Decoded together with the prompt and cut there: alone, some tokenizers drop the space between them.
    start = len(decode(prompt, clean_up_spaces=turn.clean_up_spaces))
    texts = (decode([*prompt, *tokens], clean_up_spaces=turn.clean_up_spaces)[start:] for tokens in sequences)
    return "".join(turn.echo + text for text in texts)


def _prompt(request: ChatRequest, *, model: ServedModel, pipeline: Pipeline) -> tuple[list[int], str, bool]:
    """Token ids, the text that the answer repeats, and whether this is a conversation.

    The pipeline says what a prompt is. Messages are a conversation under either; of both, the pipeline's own counts.
    """
    tokenizer = model.tokenizer
    conversation = [{"role": message.role, "content": message.content} for message in request.messages or []]
    if pipeline == "conversational" and not conversation and request.prompt:
        conversation = [{"role": "user", "content": request.prompt}]
    if conversation and (pipeline == "conversational" or not request.prompt):
        try:
            return tokenizer.encode_chat(conversation), "", True
        except NoChat as error:
            raise BadRequest(str(error)) from error
    if not request.prompt:
        missing = {
            "text-generation": "Text generation parameter prompt required",
            "conversational": "Conversational parameter messages required",
        }
        raise BadRequest(missing[pipeline])
    ids = tokenizer.encode((request.prefix or "") + request.prompt)
    return ids, "" if request.return_full_text is False else request.prompt, False


def _newest(prompt: list[int], asked: Mapping[str, Any], *, model: ServedModel) -> list[int]:
    """The end of a prompt that leaves room for the answer, which is what handle_long_generation=hole asks for."""
    answer = asked.get("max_new_tokens", 1)
    return prompt[-max(1, model.context_length - answer) :]


def room(prompt: int, *, asked: Mapping[str, Any], model: ServedModel) -> int:
    """How many tokens may be added to a prompt of so many. Raises BadRequest if none.

    max_new_tokens counts the answer, max_length prompt and answer; the client's word goes before the model's, and the
    model's before KAITO's. Beyond the model's context there is nothing.
    """
    context = model.context_length
    if prompt >= context:
        raise BadRequest(f"the prompt has {prompt} tokens; prompt and answer together may have {context}: shorten it")
    wishes = (asked, model.defaults, KAITO_DEFAULTS)
    limits = next(wish for wish in wishes if {"max_new_tokens", "max_length"} & wish.keys())
    new = int(limits["max_new_tokens"] if "max_new_tokens" in limits else limits["max_length"] - prompt)
    if new < 1:
        raise BadRequest(
            f"the prompt has {prompt} tokens, max_length is {limits['max_length']} for prompt and answer together: "
            "raise generate_kwargs.max_length, or set generate_kwargs.max_new_tokens"
        )
    return min(new, context - prompt)


def _consistent(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options without those that say nothing, or what max_new_tokens says. A temperature of 0 means greedy."""
    greedy = not options["do_sample"] or options["temperature"] < COLDEST
    idle = {"max_length", "max_new_tokens", *(SAMPLING_ONLY if greedy else ())}
    idle |= {key for key in ("min_length", "min_new_tokens") if not options.get(key)}
    return {**{key: value for key, value in options.items() if key not in idle}, "do_sample": not greedy}


def _check_token_ids(options: Mapping[str, Any], *, vocabulary: int) -> None:
    for key in ("pad_token_id", "eos_token_id"):
        given = options.get(key, 0)
        if max(given if isinstance(given, list) else [given]) >= vocabulary:
            raise BadRequest(f"generate_kwargs.{key}: the model's token ids end at {vocabulary - 1}")


def _check_least(options: Mapping[str, Any], *, most: Mapping[str, int]) -> None:
    for key, limit in most.items():
        if options.get(key, 0) > limit:
            raise BadRequest(f"generate_kwargs.{key}: at most {limit} here, for that is how long the answer may get")
