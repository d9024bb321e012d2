"""What a model is computed in on the card of this machine."""

import logging

import torch

from presets.cards import computed_in, too_old

log = logging.getLogger(__name__)


def for_card(wanted: str, device: torch.device | str, *, family: str) -> str:
    """The dtype to take where ``wanted`` is asked for: float16 on a card without bfloat16, which is said in the log.

    Raises ValueError if torch has no code for the card.
    """
    if torch.device(device).type != "cuda":
        return wanted
    least = min(torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count()))
    if reason := too_old(least, torch.cuda.get_arch_list()):
        raise ValueError(reason)
    if (found := computed_in(wanted, least, family=family)) != wanted:
        log.warning("the card has no %s: %s is taken", wanted, found)
    return found
