"""What an engine is: the one place to read before adding another.

An engine loads one model in the background and turns prompts of token ids into further token ids. It knows nothing of
HTTP, text fields or queues' limits; the server above it knows nothing of tensors. To add one: write a class with the
five members of ``Engine`` in a module of its own (imported only when chosen, see ``engines/choice.py``), and run
``tests/inference_server/test_engine_contract.py`` over it.
"""

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

from inference_server.tools.format import NoTools, ToolFormat

NOTHING: Mapping[str, Any] = MappingProxyType({})
Finish = Literal["stop", "length"]
"""Why a sequence ended: of itself, or because it had as many tokens as asked for."""


class EngineError(Exception):
    """A request that the engine cannot answer; the message is for the one who asked."""


class InvalidParameters(EngineError):
    """The options contradict each other or the model."""


class OutOfMemory(EngineError):
    """There is no memory for this request; the engine goes on."""


class Stopped(EngineError):
    """The engine was stopped before the answer was complete."""


class NoChat(EngineError):
    """The messages cannot be put to this model; the message says why."""


class NoSuchVariable(NoChat):
    """The model's chat template has no variable of this name."""


class Tokenizer(Protocol):
    """Text to token ids and back. Its methods compute; call them off the event loop."""

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest token id."""
        ...

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with what the model wants at a text's beginning."""
        ...

    @property
    def tools(self) -> ToolFormat | NoTools:
        """How the model writes tool calls, or why it is given no tools."""
        ...

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] = NOTHING,
    ) -> list[int]:
        """The ids of a conversation up to where the assistant's reply begins; messages (role, content, tool_calls with
        their arguments as a mapping) and tools are as chat templates want them, ``variables`` are the template's own.
        Raises NoChat."""
        ...

    def decode(self, tokens: Sequence[int], *, clean_up_spaces: bool = False, keep: Collection[int] = ()) -> str:
        """The text of ids, without special tokens but for those to ``keep``."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model as its users see it."""

    name: str
    tokenizer: Tokenizer
    context_length: int
    """Tokens of prompt and answer together."""
    defaults: Mapping[str, Any]
    """What the model's generation_config.json sets, under the names that options have."""
    adapters: tuple[str, ...] = ()
    """Tuned variants that requests can name."""
    default_adapter: str | None = None
    """The one that answers where a request names none; None is the base model."""
    refused_adapters: Mapping[str, str] = field(default_factory=dict)
    """Adapters that were found and are not served, and why."""
    at_once: int = 1
    """Requests that are answered together."""
    may_wait: int = 32
    """Requests that may wait for them, unless the settings say another number."""


@dataclass(frozen=True, slots=True)
class Loading:
    """Not ready yet; ``progress`` says in words what it is doing, and since when."""

    progress: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Loaded, and one real token was generated."""

    model: ServedModel


@dataclass(frozen=True, slots=True)
class Failed:
    """It will never be ready."""

    reason: str


State = Loading | Ready | Failed


@dataclass(frozen=True, slots=True)
class Load:
    """How much an engine has to do."""

    running: int = 0
    """Sequences that are being computed."""
    waiting: int = 0
    """Sequences that are not begun yet."""
    cache_blocks: int | None = None
    """Blocks that its KV cache has; None without such a cache."""
    cache_blocks_used: int = 0
    """Of them, held by requests."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One request: prompt, most tokens to add, and options under their names in transformers' GenerationConfig.

    Options that it does not have, named as in the OpenAI API and vLLM: ``seed``, ``frequency_penalty``,
    ``presence_penalty``, ``logit_bias`` (token id → number), ``ignore_eos``, ``top_logprobs`` (how many alternatives),
    ``prompt_logprobs`` (the same for the prompt's tokens), ``json_schema`` (the answer is JSON of this schema),
    ``grammar`` (it is of this grammar, in llguidance's language).
    """

    prompt: tuple[int, ...]
    max_new_tokens: int
    options: Mapping[str, Any] = field(default_factory=dict)
    adapter: str | None = None
    """One of the served model's adapters; None is the base model."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely a token was, and the likeliest ones (id, logarithm of the probability), most likely first."""

    logprob: float
    likeliest: tuple[tuple[int, float], ...] = ()
    rank: int | None = None
    """Its place among all tokens, 1 for the likeliest; told of a prompt's tokens."""


@dataclass(frozen=True, slots=True)
class Step:
    """The next tokens of one of the sequences asked for; the last step of each sequence says why it ended."""

    tokens: tuple[int, ...]
    sequence: int = 0
    finish: Finish | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each token, if the option ``top_logprobs`` asks for them."""
    prompt: tuple[TokenLogprob, ...] = ()
    """One for each token of the prompt but the first, with the first token of a sequence or in a step before it, if the
    option ``prompt_logprobs`` asks for them."""


class Engine(Protocol):
    """One model at work."""

    @property
    def state(self) -> State:
        """Loading, ready or failed; cheap, callable from everywhere."""
        ...

    @property
    def load(self) -> Load:
        """What it has to do; as cheap as ``state``, and exact when nothing happens."""
        ...

    def start(self) -> None:
        """Begins to load and returns at once."""
        ...

    def generate(self, request: Generation) -> AsyncGenerator[Step]:
        """The steps of an answer as they come. Raises EngineError.

        Closing the iterator, or cancelling whoever waits on it, ends the generation within one token. Never blocks the
        event loop.
        """
        ...

    def stop(self) -> None:
        """Ends what runs with Stopped, takes nothing new, and returns at once."""
        ...
