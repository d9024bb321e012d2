"""``python -m bench.one_training KIND DIRECTORY``: one training to be measured, in a process of its own.

KIND is plain (trl's trainer with KAITO's settings), lora or qlora (ours). Prints seconds, tokens, peak bytes.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from transformers.trainer import DEFAULT_CALLBACKS
from trl import SFTConfig, SFTTrainer

from local_cluster import model
from tuning_runner.__main__ import main as tuning_runner

ROWS, STEPS, BATCH = 200, 25, 4
COMMON = {"per_device_train_batch_size": BATCH, "max_steps": STEPS, "learning_rate": 2e-4, "save_strategy": "no"}
ADAPTER = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}
FOUR_BITS = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_use_double_quant": True,
}
PLACES = ["Bergen", "Cadiz", "Delft", "Evora", "Fez", "Genoa", "Hanoi", "Izmir", "Jaffa", "Kobe"]


def row(number: int) -> dict[str, Any]:
    """A chat of about 118 tokens, half of them the answer's."""
    here, there = PLACES[number % 10], PLACES[(number * 7 + 3) % 10]
    sights = ", ".join(
        f"the {word} of {here}" for word in ("harbour", "market", "old town", "library", "lights")[: 2 + number % 4]
    )
    asked = f"{number}: I stay in {here} for {number % 9 + 2} days and go on to {there}. What do I see?"
    told = (
        f"See {sights}, and leave a morning for nothing at all. To {there} take the train at {number % 12 + 6}"
        " and have a window on the left; it is slower, and you will remember it."
    )
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]}


class Clock(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """From the first step's begin to the last one's end; the tokens of between, padding aside."""

    started = begun = seconds = cpu = 0.0
    tokens = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        Clock.started, Clock.begun = time.monotonic(), time.process_time()

    def on_step_end(self, _: Any, state: Any, __: Any, **___: Any) -> None:
        Clock.seconds, Clock.cpu = time.monotonic() - Clock.started, time.process_time() - Clock.begun
        Clock.tokens = int(state.num_input_tokens_seen)


def plain(directory: Path) -> None:
    """What fine_tuning.py of KAITO 0.3 does, as far as today's libraries allow it."""
    found = model.find()
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(found, dtype=torch.bfloat16),
        args=SFTConfig(
            **COMMON,
            output_dir=str(directory / "plain"),
            activation_checkpointing=False,  # trl's default is not KAITO's
            use_cpu=True,
            bf16=False,
            report_to="none",
            include_num_input_tokens_seen="non_padding",
        ),
        train_dataset=Dataset.from_list([row(number) for number in range(ROWS)]),
        processing_class=AutoTokenizer.from_pretrained(found),
        peft_config=LoraConfig(**ADAPTER),
    )
    trainer.train()


def ours(method: str, directory: Path) -> None:
    """The trainer as a Job runs it."""
    data, config = directory / "data", directory / f"{method}.yaml"
    data.mkdir(exist_ok=True)
    (data / "rows.jsonl").write_text("".join(json.dumps(row(number)) + "\n" for number in range(ROWS)))
    sections = {"LoraConfig": ADAPTER, "TrainingArguments": COMMON}
    if method == "qlora":
        sections["QuantizationConfig"] = FOUR_BITS
    config.write_text(yaml.safe_dump({"training_config": sections}))
    code = tuning_runner(
        [
            f"--pretrained_model_name_or_path={model.find()}",
            "--preset=smollm2-135m-instruct",
            f"--method={method}",
            f"--config={config}",
            f"--data={data}",
            f"--results={directory / f'results-{time.monotonic_ns()}'}",
            "--port=0",
        ]
    )
    if code:
        sys.exit(code)


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("VmHWM:") + 1]) * 1024


def main(kind: str, directory: Path) -> None:
    """Trains, and says how it went."""
    DEFAULT_CALLBACKS.append(Clock)
    if kind == "plain":
        plain(directory)
    else:
        ours(kind, directory)
    print(json.dumps({"seconds": Clock.seconds, "cpu": Clock.cpu, "tokens": Clock.tokens, "peak": peak_bytes()}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
