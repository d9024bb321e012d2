"""From a request and its examples to a trainer that is ready to start."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from transformers.utils.logging import disable_progress_bar

from presets.training_config import TrainingConfig
from presets.tuning_steps import ExitCode
from tuning_runner import accelerator, document_attention, ending, heap, hyperparameters, shortage
from tuning_runner.adapter_trainer import AdapterTrainer
from tuning_runner.batches import Batches, keeps_apart, shortened
from tuning_runner.examples import Example
from tuning_runner.transfer_ending import StepFailed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be trained, with what, and where everything is."""

    model: Path
    preset: str
    method: str
    config: TrainingConfig
    config_digest: str
    data: Path
    results: Path


def prepared(asked: Request, learnt: Sequence[Example], callbacks: Sequence[Any], *, checkpoints: Path) -> Any:
    """The trainer. Raises StepFailed for what shows only when model, rows and configuration meet."""
    tokenizer = _tokenizer(asked.model)
    computed = _computed(asked)
    with shortage.explained():
        model = _model(asked, computed)
    ending.learnt(tokenizer, model)
    rows = Dataset.from_list([_row(each, chats=bool(tokenizer.chat_template)) for each in learnt])
    arguments, longest = _arguments(asked, model, checkpoints, computed, text=rows.column_names == ["text"])
    collator = _collator(model, arguments, pad_token_id=tokenizer.pad_token_id, longest=longest)
    given, kept = _divided(rows, asked, sources=[each.row for each in learnt], seed=arguments.seed)
    try:
        with shortage.explained():
            trainer = AdapterTrainer(
                model=model,
                args=arguments,
                data_collator=collator,
                train_dataset=given,
                eval_dataset=kept,
                processing_class=tokenizer,
                peft_config=hyperparameters.lora(asked.config, model),
                callbacks=list(callbacks),
            )
    except ValueError as error:  # what peft and trl check only when they see the model
        raise StepFailed(ExitCode.CONFIG_INVALID, " ".join(str(error).split())) from error
    if not arguments.packing:
        _shorten(trainer, longest=longest)
        arguments.max_length = longest
    trainer.remove_callback(PrinterCallback)  # ours tells it in fewer lines
    return trainer


def _divided(rows: Dataset, asked: Request, *, sources: Sequence[int], seed: int) -> tuple[Dataset, Dataset | None]:
    """What is trained on, and what is held back. Raises StepFailed if one of them would be empty.

    ``sources``: of each example the row of the data it was made of. A conversation of several turns is several
    examples, each with those before it as its prompt: held back are conversations, so that none is on both sides.
    """
    order = hyperparameters.division(asked.config)
    if not order.held_back:
        return rows, None
    distinct = list(dict.fromkeys(sources))
    number = round(len(distinct) * order.held_back)
    if not 0 < number < len(distinct):
        told = f"DatasetConfig.train_test_split: of {len(distinct)} rows that would hold back {number}: write 1"
        raise StepFailed(ExitCode.CONFIG_INVALID, told)
    parts = Dataset.from_dict({"source": distinct}).train_test_split(
        test_size=number, seed=seed if order.seed is None else order.seed, shuffle=order.shuffles
    )
    held_back = set(parts["test"]["source"])
    return (
        rows.select([index for index, source in enumerate(sources) if source not in held_back]),
        rows.select([index for index, source in enumerate(sources) if source in held_back]),
    )


def _computed(asked: Request) -> torch.dtype:
    """What the model computes in, on this machine."""
    family = str(json.loads((asked.model / "config.json").read_text()).get("model_type", ""))
    return accelerator.dtype(hyperparameters.dtype(asked.config), accelerator.capability(), family=family)


def _arguments(asked: Request, model: Any, checkpoints: Path, computed: torch.dtype, *, text: bool) -> tuple[Any, int]:
    """For trl, and the tokens of the longest example."""
    context = int(getattr(model.config, "max_position_embeddings", hyperparameters.LONGEST_EXAMPLE))
    made = hyperparameters.arguments(
        asked.config,
        checkpoints=checkpoints,
        context=context,
        packs=text,
        computed=computed,
        on_gpu=torch.cuda.is_available(),
    )
    return made, made.max_length or context


def _collator(model: Any, arguments: Any, *, pad_token_id: int, longest: int) -> Any:
    """What makes a batch of examples; None where trl is to pack, which it does by itself."""
    batches = Batches(pad_token_id=pad_token_id, longest=longest, fills=model.device.type == "cpu")
    document_attention.use(model)
    apart = keeps_apart(model, batches)
    if not apart:
        log.info("this model cannot read examples side by side: they are padded and not packed")
        arguments.packing = arguments.padding_free = False
    if arguments.packing:
        return None
    arguments.max_length = None  # they are cut below, where it is counted
    if arguments.padding_free:
        return None
    return batches if apart else batches.padded


def _tokenizer(model: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _model(asked: Request, computed: torch.dtype) -> Any:
    quantization = hyperparameters.quantization(asked.config, computed=computed)
    disable_progress_bar()  # of loading, which is no news in a log
    model = AutoModelForCausalLM.from_pretrained(
        asked.model,
        dtype=computed,
        quantization_config=quantization,
        local_files_only=True,
        use_safetensors=True,
    )
    if quantization is None and torch.cuda.is_available():  # a quantised one is there already
        model.to("cuda")
    elif quantization is not None:
        _leave_the_file(model)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes repacks weights in place at the first evaluation on a CPU, and cannot train on those
            module.support_avx512bf16_for_cpu = False
    return model


def _leave_the_file(model: Any) -> None:
    """What a quantised model has taken over unchanged lies in the mapped file of all weights, and keeps all of it in
    memory; what it was quantised in lies in the heap."""
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()
    heap.give_back()


def _shorten(trainer: Any, *, longest: int) -> None:
    """Cuts over-long examples, and says how many. Raises StepFailed if nothing is left to learn."""
    given, keep_end = len(trainer.train_dataset), trainer.args.truncation_mode == "keep_end"
    trainer.train_dataset, long = shortened(trainer.train_dataset, longest=longest, keep_end=keep_end)
    if trainer.eval_dataset is not None:
        trainer.eval_dataset, _ = shortened(trainer.eval_dataset, longest=longest, keep_end=keep_end)
    kept = len(trainer.train_dataset)
    told = f"{long} of {given} examples are longer than the {longest} tokens of TrainingArguments.max_length"
    if not kept:
        raise StepFailed(ExitCode.DATA_INVALID, f"{told}, and what they teach is behind that: set it higher")
    if long:
        log.warning("%s and are cut; %d have nothing left to learn and are left out", told, given - kept)


def _row(example: Example, *, chats: bool) -> dict[str, Any]:
    """As trl takes it. A model without a chat template gets a conversation as lines of text."""
    if example.is_text:
        return {"text": example.answer}
    if chats:
        return {"prompt": example.prompt, "completion": example.answer}
    return {"prompt": _lines(example.prompt), "completion": _lines(example.answer)}


def _lines(messages: Any) -> str:
    return "".join(f"{message['content']}\n" for message in messages)
