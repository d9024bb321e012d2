"""A tokenizer from tokenizer.json alone: what the server asks of transformers' tokenizers, without seconds of import.

Only for models whose ``tokenizer_class`` adds nothing of its own to the file; ``tests`` compare it with transformers.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

PLAIN = (
    "PreTrainedTokenizerFast",
    "TokenizersBackend",
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "Qwen2Tokenizer",
    "Qwen2TokenizerFast",
)
"""Classes whose every rule is in tokenizer.json."""
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
GIVEN = ("messages", "tools", "documents", "add_generation_prompt")
RULES_OUTSIDE = ("add_bos_token", "add_eos_token", "add_prefix_space")
"""Settings beside the file that change what it does."""


class FastTokenizer:
    """One directory's. The names of its members are those of transformers."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError and ValueError if the directory has no such tokenizer."""
        self._settings = _settings(directory)
        self.backend_tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.backend_tokenizer.no_padding()
        self.backend_tokenizer.no_truncation()
        named = {name: _text(self._settings[name]) for name in SPECIAL if self._settings.get(name)}
        self._named = named
        extra = [_text(each) for each in self._settings.get("additional_special_tokens") or []]
        ids = {self.backend_tokenizer.token_to_id(token) for token in (*named.values(), *extra)}
        self.all_special_ids = sorted(each for each in ids if each is not None)
        self._byte_pairs = type(self.backend_tokenizer.model).__name__ == "BPE"
        self.chat_template = _template(directory, self._settings)

    @property
    def eos_token_id(self) -> int | None:
        """What ends a text, by the tokenizer's word."""
        found: int | None = self.backend_tokenizer.token_to_id(self._named.get("eos_token", ""))
        return found

    def get_added_vocab(self) -> dict[str, int]:
        """Tokens that are no result of training."""
        return {str(token): number for number, token in self.backend_tokenizer.get_added_tokens_decoder().items()}

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """``input_ids`` of a text."""
        return {"input_ids": self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(
        self, tokens: Sequence[int], *, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool = False
    ) -> str:
        """The text of ids."""
        text: str = self.backend_tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens)
        return _cleaned(text) if clean_up_tokenization_spaces and not self._byte_pairs else text

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        **variables: Any,
    ) -> str:
        """The conversation as text. Raises jinja2.TemplateError."""
        if tokenize or self.chat_template is None:
            raise ValueError("this tokenizer only renders, and only with a template")
        return compiled(self.chat_template).render(
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._named,
            **variables,
        )


def _settings(directory: Path) -> dict[str, Any]:
    path = directory / "tokenizer_config.json"
    settings: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if settings.get("tokenizer_class") not in PLAIN or any(settings.get(rule) for rule in RULES_OUTSIDE):
        raise ValueError("this tokenizer has rules outside tokenizer.json")
    return settings


def _text(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else str(token["content"])


def _template(directory: Path, settings: Mapping[str, Any]) -> str | None:
    """Its own file goes before the settings, which may have several by name."""
    own = directory / "chat_template.jinja"
    if own.is_file():
        return own.read_text()
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = next((each["template"] for each in found if each["name"] == "default"), None)
    return found


@lru_cache(maxsize=8)
def compiled(template: str) -> jinja2.Template:
    """In a sandbox. Kept, for compiling takes longer than rendering: 15 ms for Qwen 3's."""
    return _environment().from_string(template)


def variables(template: str) -> frozenset[str]:
    """The names that a template looks for, but for those that it is always given."""
    environment = _environment()
    found = jinja2.meta.find_undeclared_variables(environment.parse(template))
    return frozenset(found - environment.globals.keys() - {*GIVEN, *SPECIAL})


def _environment() -> ImmutableSandboxedEnvironment:
    """With the names that templates of the Hub count on (transformers' utils/chat_template_utils.py)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["namespace"] = _Namespace
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment


class _Generation(jinja2.ext.Extension):
    """``{% generation %}`` marks what an assistant said, for training; here it is just its text."""

    tags = {"generation"}  # noqa: RUF012  (jinja's own type)

    def parse(self, parser: Any) -> Any:
        """The statements between, as they are."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(jinja2.utils.Namespace):
    """Without underscored names, by which a template could reach what is Python's."""

    def __setitem__(self, name: str, value: Any) -> None:
        """``{% set own.name = value %}``."""
        if name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a chat template may not set {name!r}")
        super().__setitem__(name, value)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """jinja's own would escape HTML's signs."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _cleaned(text: str) -> str:
    """Without the spaces that word-level tokenizers leave; in byte pairs they are the text's own."""
    for before, after in ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
                          (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")):  # fmt: skip
        text = text.replace(before, after)
    return text
