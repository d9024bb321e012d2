"""The tokenizer of a model's directory: text, conversations and tools to token ids and back."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from inference_server.engines import fast_tokenizer
from inference_server.engines.engine import (
    NOTHING,
    Generation,
    InvalidParameters,
    NoChat,
    NoSuchVariable,
    Tokenizer,
)
from inference_server.engines.grammar import Grammar, Vocabulary
from inference_server.tools.format import NoTools, ToolFormat, learn

FAULTS = (jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError)
"""What a chat template raises: it is a program, and may add what it gets to a string or look for what is not there."""


class HuggingFaceTokenizer:
    """The Tokenizer of the model's directory."""

    def __init__(self, tokenizer: Any, *, vocabulary_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary_size = vocabulary_size
        self._special = frozenset(tokenizer.all_special_ids)
        self.end: int | None = tokenizer.eos_token_id
        """By which a grammar says that an answer is complete."""

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """For grammars of answers. Raises InvalidParameters."""
        try:
            return Vocabulary(self._tokenizer, size=self._vocabulary_size)
        except ValueError as error:
            raise InvalidParameters("response_format and tools: not with this model's kind of tokenizer") from error

    @cached_property
    def tools(self) -> ToolFormat | NoTools:
        """See Tokenizer."""
        if not self._tokenizer.chat_template:
            return NoTools("this model has no chat template, so it cannot be given tools")
        return learn(self._probe, added=self._tokenizer.get_added_vocab())

    def _probe(self, messages: Sequence[Any], *, tools: Sequence[Any], reply: bool) -> str | None:
        try:
            return self._render(messages, tools=tools, reply=reply)
        except FAULTS:
            return None

    def _render(
        self, messages: Sequence[Any], *, tools: Sequence[Any], reply: bool, variables: Mapping[str, Any] = NOTHING
    ) -> str:
        rendered: str = self._tokenizer.apply_chat_template(
            list(messages), tools=list(tools) or None, add_generation_prompt=reply, tokenize=False, **variables
        )
        return rendered

    @cached_property
    def _variables(self) -> frozenset[str]:
        """Names that the template looks for, and none that the tokenizer takes for a setting of its own."""
        known = fast_tokenizer.variables(str(self._tokenizer.chat_template))
        return known - inspect.signature(self._tokenizer.apply_chat_template).parameters.keys()

    @property
    def vocabulary_size(self) -> int:
        """Rows of the model's embedding; the tokenizer may know fewer."""
        return self._vocabulary_size

    def encode(self, text: str) -> list[int]:
        """See Tokenizer."""
        ids: list[int] = self._tokenizer(text)["input_ids"]
        return ids

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        variables: Mapping[str, Any] = NOTHING,
    ) -> list[int]:
        """See Tokenizer."""
        if not self._tokenizer.chat_template:
            raise NoChat("this model has no chat template: send a prompt, or start the server with --chat_template")
        try:
            if unknown := [name for name in variables if name not in self._variables]:
                raise NoSuchVariable(f"the model's chat template knows no {unknown[0]!r}: leave it out")
            rendered = self._render(self._turns(messages), tools=tools, reply=True, variables=variables)
        except FAULTS as error:
            raise NoChat(f"the model's chat template refuses these messages: {error}") from error
        # The template writes the special tokens itself, so none may be added.
        ids: list[int] = self._tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return ids

    def _turns(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """With the developer, as OpenAI calls it now, as the system, unless the template knows better."""
        if "developer" in str(self._tokenizer.chat_template):
            return list(messages)
        return [{**turn, "role": "system"} if turn["role"] == "developer" else turn for turn in messages]

    def decode(self, tokens: Sequence[int], *, clean_up_spaces: bool = False, keep: Collection[int] = ()) -> str:
        """See Tokenizer."""
        shown = [token for token in tokens if token in keep or token not in self._special] if keep else list(tokens)
        text: str = self._tokenizer.decode(
            shown, skip_special_tokens=not keep, clean_up_tokenization_spaces=clean_up_spaces
        )
        return text


def grammar(tokenizer: Tokenizer, request: Generation) -> Grammar | None:
    """What the answer must keep, if the request says. Raises InvalidParameters."""
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        return None
    if schema := request.options.get("json_schema"):
        return tokenizer.vocabulary.of_schema(schema)
    written = request.options.get("grammar")
    return tokenizer.vocabulary.of_lark(written) if written else None


def ending(request: Generation, *, ends: Sequence[int], tokenizer: Tokenizer) -> Generation:
    """The request, which with a grammar also ends by the token that says that its answer is complete.

    Nothing else can come after that, whatever ``ends`` the model has, and whether or not they are to be ignored.
    """
    options = {key: value for key, value in request.options.items() if key != "ignore_eos"}
    if not {"json_schema", "grammar"} & options.keys() or not isinstance(tokenizer, HuggingFaceTokenizer):
        return request
    if tokenizer.end is not None:
        given = options.get("eos_token_id", ends)
        own = (given,) if isinstance(given, int) else given
        options["eos_token_id"] = list(dict.fromkeys((*own, tokenizer.end)))
    return replace(request, options=options)


def chat_template(given: str) -> str:
    """A chat template from its path, or as given if it is one (KAITO 0.12: it has a brace or a line break)."""
    return given if "{" in given or "\n" in given else Path(given).read_text()
