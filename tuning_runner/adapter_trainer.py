"""trl's trainer, with what it lacks on a CPU: logits of those tokens alone that are learnt."""

from typing import Any

import torch
from trl import SFTTrainer

from tuning_runner.likelihood import unlikelihood

LOGITS = 1 << 25
"""At most so many at once, which is 0.13 GB with their gradients; more are trl's to take in tiles."""
NOT_LEARNT = -100


class AdapterTrainer(SFTTrainer):  # type: ignore[misc]  # trl has no types
    """On a GPU trl's fused kernel does it; its way on a CPU projects every token, and in float32."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        if self.args.fp16:
            learn_in_float32(self.model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean negative log-likelihood of the learnt tokens, over ``num_items_in_batch`` if that is given."""
        learnt = self._learnt(inputs["labels"])
        if return_outputs or learnt is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        given = {name: value for name, value in inputs.items() if name != "labels"}
        logits = model(**given, use_cache=False, logits_to_keep=learnt).logits[0]
        share = 1 / max(len(learnt), 1)
        if num_items_in_batch is not None:
            ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            share = ranks / num_items_in_batch  # as trl has it: counted over all ranks, averaged by DDP
        return unlikelihood(logits, inputs["labels"][0, learnt + 1], share=share)

    def _learnt(self, labels: torch.Tensor) -> torch.Tensor | None:
        """Positions whose next token is learnt; None where trl's own way is the right one."""
        if labels.device.type != "cpu" or len(labels) != 1 or not self._is_plain():
            return None
        learnt = (labels[0, 1:] != NOT_LEARNT).nonzero().flatten()
        vocabulary = self.model.config.get_text_config().vocab_size
        return learnt if len(learnt) * vocabulary <= LOGITS else None

    def _is_plain(self) -> bool:
        """Whether the loss is the likelihood and nothing else."""
        asked = self.args
        return asked.loss_type == "nll" and not asked.label_smoothing_factor and not self.aux_loss_enabled


def learn_in_float32(model: Any) -> None:
    """Puts what is trained into float32. trl has it in bfloat16 beside a quantised base, which is not what a card
    without bfloat16 is to learn in, and float16's gradients, which are scaled, are those of float32 weights."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
