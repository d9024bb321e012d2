"""A checkpoint as transformers reads it: tokenizer and weights, in the precision and on the devices that fit."""

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from inference_server.engines import precision
from inference_server.engines.continuous_batch import ATTENTION
from inference_server.engines.threads import threads
from inference_server.engines.tokenizer import chat_template
from inference_server.settings import Settings

log = logging.getLogger(__name__)


def read(settings: Settings, *, say: Callable[[str], None]) -> tuple[Any, Any]:
    """Model and tokenizer that the settings name. Raises what transformers raises: OSError, ValueError, ImportError."""
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
    configuration = AutoConfig.from_pretrained(source, **where)
    dtype = _dtype(settings, configuration)
    say("reading the weights")
    model = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=dtype,
        use_safetensors=True,  # other formats are pickles, which run code when read
        **_attention(settings, configuration),
        **_placement(settings, dtype),
        **where,
    ).eval()
    seconds = time.monotonic() - began
    log.info("%s loaded on %s as %s in %.1f s", source, _device(model), str(model.dtype).split(".")[-1], seconds)
    return model, tokenizer


def _dtype(settings: Settings, configuration: Any) -> str:
    """As asked for, or as the checkpoint says; but on a card only what it computes well."""
    own = str(configuration.get_text_config().dtype or "auto").removeprefix("torch.")
    wanted = own if settings.torch_dtype == "auto" else settings.torch_dtype
    device = "cuda" if torch.cuda.is_available() and settings.device_map != "cpu" else "cpu"
    return precision.for_card(wanted, device, family=kind(configuration))


def _placement(settings: Settings, dtype: str) -> dict[str, Any]:
    """On which devices, and quantised how. Without a GPU everything is on the processors."""
    device_map = settings.device_map
    if not torch.cuda.is_available() and device_map == "auto":
        log.info("no GPU here: running on the processors with %d threads", torch.get_num_threads())
        device_map = "cpu"
    quantised = settings.load_in_4bit or settings.load_in_8bit
    if quantised and device_map == "cpu":
        log.warning("without a GPU the model is not quantised: bitsandbytes would answer slower, not faster")
    elif quantised:
        bits = BitsAndBytesConfig(
            load_in_4bit=settings.load_in_4bit,
            load_in_8bit=settings.load_in_8bit,
            bnb_4bit_compute_dtype=None if dtype == "auto" else dtype,
        )
        return {"device_map": device_map, "quantization_config": bits}
    return {"device_map": device_map}


def kind(configuration: Any) -> str:
    """The family, as transformers names it."""
    return str(configuration.get_text_config().model_type)


def _attention(settings: Settings, configuration: Any) -> dict[str, Any]:
    """What the architecture wants to be batched with; otherwise what transformers takes by itself."""
    wanted = ATTENTION.get(kind(configuration)) if settings.batching != "off" else None
    return {"attn_implementation": wanted} if wanted else {}


def _device(model: Any) -> str:
    return torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else str(model.device)
