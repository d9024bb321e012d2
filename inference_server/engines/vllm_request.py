"""One request in vLLM's words: pure, and without vLLM."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference_server.engines.engine import Generation, InvalidParameters

SAME = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "seed",
        "logit_bias")  # fmt: skip
"""Options that vLLM's SamplingParams has under the same name and with the same meaning."""
NEUTRAL: Mapping[str, Any] = {
    "early_stopping": False, "num_beams": 1, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
    "length_penalty": 1.0, "no_repeat_ngram_size": 0, "renormalize_logits": False, "remove_invalid_values": False,
}  # fmt: skip
"""Options of transformers that are taken only where they change nothing."""
READ = {*SAME, "do_sample", "min_length", "min_new_tokens", "num_return_sequences", "eos_token_id", "pad_token_id",
        "ignore_eos", "top_logprobs", "prompt_logprobs", "json_schema", "grammar"}  # fmt: skip
HOTTEST = 2.0
"""Above this temperature vLLM refuses."""
MOST_TOP_K = 2**31 - 1
"""It comes to vLLM's other processes as a number of 64 bits; no vocabulary is larger than this."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to ask vLLM for."""

    prompt: tuple[int, ...]
    sampling: Mapping[str, Any]
    """Arguments of SamplingParams."""
    structured: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of StructuredOutputsParams; empty for free text."""
    adapter: str | None = None


def wanted(request: Generation, *, ends: Sequence[int]) -> Wanted:
    """The request in vLLM's words; ``ends`` are the tokens that end a text of this model. Raises InvalidParameters."""
    options = {key: value for key, value in request.options.items() if value is not None}
    for key, neutral in NEUTRAL.items():
        if options.pop(key, neutral) != neutral:
            raise InvalidParameters(f"{key} needs a server with --engine=transformers")
    if unknown := options.keys() - READ:
        raise InvalidParameters(f"{min(unknown)} needs a server with --engine=transformers")
    structured = {"json": options.get("json_schema"), "grammar": options.get("grammar")}
    structured = {key: value for key, value in structured.items() if value}
    least = max(options.get("min_new_tokens", 0), options.get("min_length", 0) - len(request.prompt))
    more = {
        # With a grammar vLLM would have no token left where the answer is complete and the end forbidden.
        "min_tokens": least if least > 0 and not structured else None,
        "logprobs": options.get("top_logprobs"),
        "prompt_logprobs": options.get("prompt_logprobs"),
        "n": options.get("num_return_sequences"),
        "stop_token_ids": _ends(options, ends),
    }
    return Wanted(
        prompt=request.prompt,
        sampling={
            **_chosen(options),
            **{key: value for key, value in more.items() if value is not None},
            "ignore_eos": True,  # what ends a text is in stop_token_ids, whatever the model's files say
            "max_tokens": request.max_new_tokens,
            "detokenize": False,
        },
        structured=structured,
        adapter=request.adapter,
    )


def _chosen(options: Mapping[str, Any]) -> dict[str, Any]:
    """How tokens are chosen."""
    sampling: dict[str, Any] = {key: options[key] for key in SAME if key in options}
    if "seed" in sampling:
        sampling["seed"] %= 2**63  # -1 is no seed to vLLM
    if not options.get("do_sample", False):
        if options.get("num_return_sequences", 1) > 1:
            raise InvalidParameters("num_return_sequences above 1 needs do_sample: greedy sequences are all the same")
        return {**sampling, "temperature": 0.0}
    if sampling.get("temperature", 1.0) > HOTTEST:
        raise InvalidParameters(f"temperature: at most {HOTTEST:g} with --engine=vllm")
    if sampling.get("top_p") == 0:  # the likeliest token alone, which vLLM does not take so
        del sampling["top_p"]
        sampling["top_k"] = 1
    if "top_k" in sampling:
        sampling["top_k"] = min(sampling["top_k"], MOST_TOP_K)
    return sampling


def _ends(options: Mapping[str, Any], ends: Sequence[int]) -> list[int] | None:
    given = () if options.get("ignore_eos") else options.get("eos_token_id", ends)
    return ([given] if isinstance(given, int) else list(given)) or None
