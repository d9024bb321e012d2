"""The cards of this machine, as far as a training depends on them: the one place that asks torch what they can do."""

import logging

import torch

from presets.cards import Capability, computed_in, too_old
from presets.tuning_steps import ExitCode
from tuning_runner.transfer_ending import StepFailed

log = logging.getLogger(__name__)


def capability() -> Capability | None:
    """Of the least able card; None without one. Raises StepFailed if torch has no code for it."""
    if not torch.cuda.is_available():
        return None
    least: Capability = min(torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count()))
    if reason := too_old(least, torch.cuda.get_arch_list()):
        raise StepFailed(ExitCode.CONFIG_INVALID, reason)
    return least


def dtype(wanted: torch.dtype, card: Capability | None, *, family: str) -> torch.dtype:
    """What to compute in where ``wanted`` is asked for; said in the log where it is something else."""
    name = str(wanted).removeprefix("torch.")
    if (found := computed_in(name, card, family=family)) != name:
        log.info("the card has no %s: %s is taken", name, found)
    computed: torch.dtype = getattr(torch, found)
    return computed
