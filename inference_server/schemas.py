"""What a client may send, exactly: no number in quotes, no yes for a 1, no NaN, and nothing that is silently ignored
inside ``generate_kwargs``."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from inference_server.errors import Malformed

MOST_SEQUENCES = 16
"""Sequences and beams multiply the memory of a request."""

Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
TokenId = Annotated[int, Field(ge=0)]
Body = TypeVar("Body", bound=BaseModel)


class Exact(BaseModel):
    """Types as JSON has them; infinities and NaN are none of its numbers."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


class GenerateKwargs(Exact):
    """Options of the generation, under their names in transformers' GenerationConfig. Unknown ones are an error."""

    model_config = ConfigDict(extra="forbid")

    max_length: Positive | None = None
    max_new_tokens: Positive | None = None
    min_length: Count | None = None
    min_new_tokens: Count | None = None
    do_sample: bool | None = None
    early_stopping: bool | Literal["never"] | None = None
    num_beams: Annotated[int, Field(ge=1, le=MOST_SEQUENCES)] | None = None
    num_return_sequences: Annotated[int, Field(ge=1, le=MOST_SEQUENCES)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_k: Count | None = None
    top_p: Probability | None = None
    min_p: Probability | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    epsilon_cutoff: Annotated[float, Field(ge=0, lt=1)] | None = None
    eta_cutoff: Annotated[float, Field(ge=0, lt=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    length_penalty: Annotated[float, Field(ge=-10, le=10)] | None = None
    no_repeat_ngram_size: Count | None = None
    renormalize_logits: bool | None = None
    remove_invalid_values: bool | None = None
    stop_strings: (
        Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=256)]], Field(min_length=1, max_length=16)
        ]
        | None
    ) = None
    max_time: Annotated[float, Field(gt=0)] | None = None
    pad_token_id: TokenId | None = None
    eos_token_id: TokenId | Annotated[list[TokenId], Field(min_length=1, max_length=64)] | None = None

    def given(self) -> Mapping[str, Any]:
        """The options that say something: null is as good as absent."""
        return self.model_dump(exclude_none=True)


class Message(Exact):
    """One turn of a conversation."""

    role: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    content: str


class ChatRequest(Exact):
    """The body of POST /chat, as KAITO 0.3 has it; fields it does not know are ignored, as there."""

    prompt: str | None = None
    messages: list[Message] | None = None
    return_full_text: bool | None = True
    clean_up_tokenization_spaces: bool | None = False
    prefix: str | None = None
    handle_long_generation: Literal["hole"] | None = None
    generate_kwargs: GenerateKwargs | None = None


class ChatReply(BaseModel):
    """The body of a reply of POST /chat."""

    Result: str


class ErrorReply(BaseModel):
    """The body of every reply that is an error."""

    detail: str | list[dict[str, Any]]


def parse(body: bytes, *, as_a: type[Body]) -> Body:
    """The body as a value. Raises Malformed, with what is wrong where, and without the input: it may not be JSON."""
    try:
        return as_a.model_validate_json(body)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        raise Malformed([{**problem, "loc": ["body", *problem["loc"]]} for problem in problems]) from error
