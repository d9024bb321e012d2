"""The command line: KAITO's flags, so that its manifests start this server unchanged, and ours.

A flag is ``--key=value``, ``--key value`` or, for a yes, ``--key``; ``-`` and ``_`` are the same in a key.
"""

import argparse
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

WITHOUT_EFFECT = (
    "combination_type",
    "force_download",
    "from_tf",
    "output_loading_info",
    "proxies",
    "resume_download",
    "state_dict",
)
"""Flags of KAITO 0.3 that are accepted and change nothing here."""
REPEATABLE = ("adapter_strength", "allowed_origin", "vllm_option")


class Settings(BaseModel):
    """What the server serves, and within which limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pretrained_model_name_or_path: str = Field(
        "/workspace/weights", min_length=1, description="directory of the model, or its id in the cache"
    )
    pipeline: Literal["text-generation", "conversational"] = Field(
        "text-generation", description="what a prompt is: a text to go on with, or a user's message to reply to"
    )
    torch_dtype: Literal["auto", "bfloat16", "float16", "float32", "float64"] = Field(
        "auto",
        description="number format of the weights; auto is the one they are stored in; a card without bfloat16 gets"
        " float16",
    )
    device_map: str = Field("auto", description="auto, cpu, cuda, cuda:N, or a strategy of accelerate")
    load_in_4bit: bool = Field(False, description="quantise to 4 bits by bitsandbytes")
    load_in_8bit: bool = Field(False, description="quantise to 8 bits by bitsandbytes")
    int4_small_batches: bool = Field(
        False,
        description="native engine on processors: weights in 4 bits while up to 64 tokens are computed at a time (8 "
        "without its kernels)",
    )
    revision: str = Field("main", description="revision of a model given by its id")
    cache_dir: str | None = Field(None, description="where models given by their ids are kept")
    allow_remote_files: bool = Field(False, description="fetch a model given by its id if it is not in the cache")
    trust_remote_code: bool = Field(False, description="run Python code out of the model's directory")
    chat_template: str | None = Field(None, description="path of a template, or the template itself")
    served_model_name: str | None = Field(None, description="the model's name for its users; its directory's otherwise")
    engine: Literal["auto", "transformers", "native", "vllm"] = Field("auto", description="what runs the model")
    vllm_option: tuple[tuple[str, str], ...] = Field(
        (),
        description="NAME=VALUE of vLLM's engine arguments, repeatable: gpu_memory_utilization=0.8, max_model_len=8192",
    )
    batching: Literal["auto", "off"] = Field("auto", description="off: one request at a time")
    cuda_graphs: Literal["auto", "off"] = Field(
        "auto",
        description="native engine on a card: off computes every step operation by operation, which takes less memory",
    )
    adapters_dir: str = Field("/mnt/adapter", description="each directory in it with an adapter_config.json is served")
    adapter_strength: tuple[tuple[str, float], ...] = Field(
        (), description="NAME=NUMBER from 0 to 1, repeatable: the weighted sum of these adapters is the default model"
    )
    api_keys_file: str | None = Field(
        None, description="file with one bearer key per line, read anew for each request; without it there are no keys"
    )
    host: str = Field("0.0.0.0", description="address to listen on")
    port: int = Field(5000, ge=1, le=65535, description="port to listen on")
    health_port: int | None = Field(
        None, ge=1, le=65535, description="another port for probes and /metrics, which then is on that one alone"
    )
    allowed_origin: tuple[str, ...] = Field(
        (), description="web page that a browser may send requests from, repeatable (CORS); without it none may"
    )
    max_waiting: int | None = Field(
        None,
        ge=0,
        description="requests that may wait while others are answered, more are refused with 429; if not said 32, "
        "or none by native on a processor",
    )
    max_body_bytes: int = Field(8 << 20, ge=1, description="largest body of a request; larger ones are refused")
    body_seconds: float = Field(30.0, gt=0, description="time within which a body must arrive")
    grace_seconds: float = Field(25.0, ge=0, description="time for running answers after SIGTERM")

    @field_validator("adapter_strength", mode="before")
    @classmethod
    def _strengths(cls, given: Any) -> Any:
        """``["a=0.5"]`` as pairs."""
        return [_strength(each) if isinstance(each, str) else each for each in given]

    @field_validator("vllm_option", mode="before")
    @classmethod
    def _options(cls, given: Any) -> Any:
        """``["max_model_len=8192"]`` or ``["max-model-len=8192"]`` as pairs."""
        return [_option(each) if isinstance(each, str) else each for each in given]


def _option(written: str) -> tuple[str, str]:
    name, equals, value = written.partition("=")
    if not name or not equals:
        raise ValueError(f"write NAME=VALUE, not {written}")
    return name.replace("-", "_"), value


def _strength(written: str) -> tuple[str, float]:
    name, _, number = written.rpartition("=")
    try:
        strength = float(number)
    except ValueError:
        strength = -1.0
    if not name or not 0 <= strength <= 1:
        raise ValueError(f"write NAME=NUMBER with a number from 0 to 1, not {written}")
    return name, strength


def parse(arguments: Sequence[str]) -> tuple[Settings, list[str]]:
    """The settings, and what of the command line is not known or changes nothing. Ends the process for a bad value."""
    parser = argparse.ArgumentParser(prog="python -m inference_server", allow_abbrev=False)
    for name, field in Settings.model_fields.items():
        if name in REPEATABLE:
            flags = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
            parser.add_argument(*flags, dest=name, action="append", help=field.description)
        else:
            _add(parser, name, switch=field.annotation is bool, description=field.description)
    for name in WITHOUT_EFFECT:
        _add(parser, name, switch=True, description=argparse.SUPPRESS)
    known, unknown = parser.parse_known_args(arguments)
    given = {name: value for name, value in vars(known).items() if value is not None}
    idle = [f"--{name}" for name in WITHOUT_EFFECT if given.pop(name, None) is not None]
    try:
        return Settings.model_validate(given), [*idle, *(word for word in unknown if word.startswith("-"))]
    except ValidationError as error:
        parser.error("; ".join(f"--{problem['loc'][0]}: {problem['msg']}" for problem in error.errors()))


def _add(parser: argparse.ArgumentParser, name: str, *, switch: bool, description: str | None) -> None:
    flags = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
    if switch:
        parser.add_argument(*flags, dest=name, nargs="?", const="true", help=description)
    else:
        parser.add_argument(*flags, dest=name, help=description)
