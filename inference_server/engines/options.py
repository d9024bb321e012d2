"""What a request's options mean for an engine that chooses tokens by a Chooser."""

from typing import Any

from inference_server.engines.engine import Generation, InvalidParameters
from inference_server.engines.sampler import Sampling

NEUTRAL: dict[str, Any] = {
    "early_stopping": False, "num_beams": 1, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "length_penalty": 1.0,
    "no_repeat_ngram_size": 0, "renormalize_logits": False, "remove_invalid_values": False,
}  # fmt: skip
"""Options of transformers that are taken only where they change nothing."""
WITHOUT_EFFECT = {"pad_token_id"}
SAMPLED = {"temperature", "top_k", "top_p", "min_p", "typical_p"}
ALSO_GREEDY = {"repetition_penalty", "frequency_penalty", "presence_penalty", "seed", "top_logprobs", "prompt_logprobs"}
COUNTED = {"do_sample", "min_length", "min_new_tokens", "num_return_sequences", "eos_token_id"}
COUNTED |= {"logit_bias", "ignore_eos", "json_schema", "grammar"}


class OnlyGenerate(InvalidParameters):
    """Only ``generate`` of transformers can do this."""


def sampling(request: Generation, *, ends: tuple[int, ...]) -> tuple[Sampling, int]:
    """How to choose tokens, and for how many sequences. Raises OnlyGenerate and InvalidParameters."""
    options = {key: value for key, value in request.options.items() if value is not None}
    for key, neutral in NEUTRAL.items():
        if options.pop(key, neutral) != neutral:
            raise OnlyGenerate(f"{key} needs a server with --engine=transformers")
    if unknown := options.keys() - SAMPLED - ALSO_GREEDY - COUNTED - WITHOUT_EFFECT:
        raise OnlyGenerate(f"{min(unknown)} needs a server with --engine=transformers")
    number: int = options.get("num_return_sequences", 1)
    if number > 1 and not options.get("do_sample", False):
        raise InvalidParameters("num_return_sequences above 1 needs do_sample: greedy sequences are all the same")
    given = options.get("eos_token_id", ends)
    own = (given,) if isinstance(given, int) else tuple(given)
    own = () if options.get("ignore_eos") else own
    sampled = {key: options[key] for key in (SAMPLED | ALSO_GREEDY) & options.keys()}
    if not options.get("do_sample", False):
        sampled = {**{key: sampled[key] for key in ALSO_GREEDY & sampled.keys()}, "temperature": 0.0}
    least = max(options.get("min_new_tokens", 0), options.get("min_length", 0) - len(request.prompt))
    bias = tuple(options.get("logit_bias", {}).items())
    return Sampling(**sampled, logit_bias=bias, min_tokens=max(least, 0) if own else 0, ends=own), number
