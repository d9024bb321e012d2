"""What the settings mean in vLLM's words: pure, and without vLLM."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from inference_server.openai_schemas import MOST_LOGPROBS
from inference_server.settings import Settings

OURS = ("model", "tokenizer", "tokenizer_mode", "trust_remote_code", "load_format", "dtype", "generation_config",
        "enable_lora", "max_loras", "max_cpu_loras", "max_lora_rank", "max_logprobs", "structured_outputs_config",
        "enable_log_requests", "disable_log_stats")  # fmt: skip
"""Arguments that follow from other flags, or on which the engine relies."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM has room for."""
MOST_AT_ONCE = 8
"""Adapters that have their place on the card at a time; each place takes memory, used or not."""


def refusal(settings: Settings, *, gpu: bool) -> str:
    """What vLLM cannot do of these settings, and what to do instead; nothing if it can."""
    device = settings.device_map
    wrong = {
        "--load_in_4bit and --load_in_8bit: leave them out, or use --engine=transformers": (
            settings.load_in_4bit or settings.load_in_8bit
        ),
        "--torch_dtype=float64: use --engine=transformers": settings.torch_dtype == "float64",
        "--device_map=cpu: vLLM is built for one kind of device; leave it out": device == "cpu" and gpu,
        f"--device_map={device}: say which cards by CUDA_VISIBLE_DEVICES": (
            device.startswith("cuda:") and device != "cuda:0"
        ),
    }
    return next((reason for reason, holds in wrong.items() if holds), "")


def arguments(
    settings: Settings, *, source: Path, configuration: Any, cards: int, ranks: Collection[int]
) -> dict[str, Any]:
    """Arguments of AsyncEngineArgs for the model in the directory ``source``. ``ranks`` are its adapters'. Raises
    ValueError for a --vllm_option that is not to be set."""
    number = cards if not settings.device_map.startswith("cuda") else min(cards, 1)
    made: dict[str, Any] = {
        "model": str(source),
        "tokenizer_mode": "hf",  # the one whose ids the server sends
        "trust_remote_code": settings.trust_remote_code,
        "load_format": "safetensors",  # other formats are pickles, which run code when read
        "dtype": _dtype(settings, configuration),
        "generation_config": "vllm",  # the server reads the model's
        "max_model_len": -1,  # the model's, or as much of it as there is memory for
        "tensor_parallel_size": together(configuration, cards=number),
        "max_logprobs": MOST_LOGPROBS,
        # The only one that knows the language of our grammars; no space between signs, as the other engines have it.
        "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
        "enable_log_requests": False,
        "disable_log_stats": True,
        **({"max_num_seqs": 1} if settings.batching == "off" else {}),
        **_room_for(ranks, cards=cards),
    }
    return {**made, **_options(settings.vllm_option)}


def together(configuration: Any, *, cards: int) -> int:
    """On how many of the cards each layer is spread: as many as divide its heads and its width."""
    text = configuration.get_text_config()
    heads: int = getattr(text, "num_attention_heads", 1) or 1
    shared: int = getattr(text, "num_key_value_heads", None) or heads
    width: int = getattr(text, "intermediate_size", None) or 0

    def fits(number: int) -> bool:
        return heads % number == 0 and (shared % number == 0 or number % shared == 0) and width % number == 0

    return next(number for number in range(max(cards, 1), 0, -1) if fits(number))


def _dtype(settings: Settings, configuration: Any) -> str:
    """As asked for. vLLM's auto is the checkpoint's with float16 for cards without bfloat16, but half of float32."""
    own = str(getattr(configuration.get_text_config(), "dtype", None)).removeprefix("torch.")
    if settings.torch_dtype == "auto":
        return own if own == "float32" else "auto"
    return "auto" if settings.torch_dtype == own == "bfloat16" else settings.torch_dtype


def _room_for(ranks: Collection[int], *, cards: int) -> dict[str, Any]:
    """On processors one place more than there are adapters: a request for the base model among others gets what is in
    the last (vllm-project/vllm pull request 48421), and an empty place is the base."""
    if not ranks:
        return {"enable_lora": False}
    places = min(len(ranks), MOST_AT_ONCE) if cards else len(ranks) + 1
    return {
        "enable_lora": True,
        "max_loras": places,
        "max_cpu_loras": max(len(ranks), places),
        "max_lora_rank": next(room for room in RANKS if room >= max(ranks)),
    }


def _options(given: Collection[tuple[str, str]]) -> Mapping[str, Any]:
    if ours := [name for name, _ in given if name in OURS]:
        raise ValueError(f"--vllm_option={ours[0]}: the server sets this itself, by its own flags")
    return {name: _value(written) for name, written in given}


def _value(written: str) -> Any:
    """JSON where it is JSON, else a text."""
    try:
        return json.loads(written)
    except ValueError:
        return written
