"""What clients of the OpenAI API may send: its fields, vLLM's extensions, and nothing that is silently ignored."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from inference_server.schemas import MOST_SEQUENCES, Count, Exact, Positive, Probability, TokenId

MOST_LOGPROBS = 20
MOST_TOOLS = 128
Stop = Annotated[str, StringConstraints(min_length=1, max_length=256)]
FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,128}$")]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Fields(Exact):
    """A body in which every field has a meaning; others are an error."""

    model_config = ConfigDict(extra="forbid")


class TextPart(Fields):
    """A part of a message; only text can be read here."""

    type: Literal["text"]
    text: str


class CalledFunction(Fields):
    """What a model wanted called; the arguments are JSON's text."""

    name: FunctionName
    arguments: str


class SentToolCall(Fields):
    """A call of an earlier reply, sent back with its result."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None


class ChatMessage(Fields):
    """One turn of a conversation. What replies have and this server never fills comes back empty."""

    role: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=1024)] | None = None
    name: str | None = None
    tool_calls: Annotated[list[SentToolCall], Field(max_length=MOST_TOOLS)] | None = None
    tool_call_id: Annotated[str, StringConstraints(max_length=128)] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None

    def text(self) -> str:
        """The content as one text."""
        parts = self.content if isinstance(self.content, list) else []
        return self.content if isinstance(self.content, str) else "".join(part.text for part in parts)


class Function(Fields):
    """A function that the model may want called."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Fields):
    """A tool; only functions are known."""

    type: Literal["function"]
    function: Function


class FunctionToCall(Fields):
    """A function by its name."""

    name: FunctionName


class NamedTool(Fields):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionToCall


class StreamOptions(Fields):
    """What a stream tells besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class SchemaOfAnswer(Fields):
    """A JSON schema with its name."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    description: str | None = None
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Fields):
    """What the answer's text must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaOfAnswer | None = None


class Sampled(Fields):
    """What both kinds of completion have in common."""

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    n: Annotated[int, Field(ge=1, le=MOST_SEQUENCES)] | None = None
    max_tokens: Positive | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Probability | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Count | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None

    def stops(self) -> tuple[str, ...]:
        """The strings that end the answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatCompletionRequest(Sampled):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["low", "medium", "high"] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=32)] | None = None


class CompletionRequest(Sampled):
    """The body of POST /v1/completions."""

    prompt: (
        str
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[str] | list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1)]
    )
    max_tokens: Count | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    suffix: str | None = None
    best_of: Annotated[int, Field(ge=1, le=MOST_SEQUENCES)] | None = None


class TokenizeRequest(Fields):
    """The body of POST /tokenize: a prompt or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=32)] | None = None


class DetokenizeRequest(Fields):
    """The body of POST /detokenize."""

    model: str | None = None
    tokens: list[TokenId]
