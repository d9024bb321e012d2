"""What the model gets to read and to learn: prompts masked, answers whole, and their end."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from presets.training_config import parse
from tests.support.tiny_model import CHAT_TEMPLATE, write_tiny_model
from tuning_runner.examples import Example
from tuning_runner.preparation import Request, prepared

pytestmark = [
    pytest.mark.tuning,
    pytest.mark.filterwarnings("ignore:`?is_gradient_checkpointing:FutureWarning"),  # peft asks by the old name
]
ENDS_TURNS = CHAT_TEMPLATE.replace("message['content'] -}}", "message['content'] + '</s>' -}}")
CHAT = Example([{"role": "user", "content": "w1 w2"}], [{"role": "assistant", "content": "w3"}])
TEXT = Example("", "w1 w2 w3")


def rows(directory: Path, *given: Example, template: str | None, packing: bool = False) -> Any:
    """As the trainer has them, for a model with this chat template."""
    write_tiny_model(directory / "model")
    tokenizer = AutoTokenizer.from_pretrained(directory / "model")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory / "model")
    sections = {"ModelConfig": {"dtype": "float32"}, "TrainingArguments": {"packing": packing}}
    asked = Request(
        model=directory / "model",
        preset="tiny",
        method="lora",
        config=parse(json.dumps({"training_config": sections}), method="lora"),
        config_digest="",
        data=directory,
        results=directory,
    )
    return prepared(asked, given, [], checkpoints=directory / "checkpoints").train_dataset, tokenizer


TEMPLATES = {"ends each turn": ENDS_TURNS, "ends nothing": CHAT_TEMPLATE, "none": None}


@pytest.mark.parametrize("packing", [False, True], ids=["side by side", "packed"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_an_answer_is_learnt_with_its_end_and_the_prompt_is_not(template: str, packing: bool, tmp_path: Path) -> None:
    [row], tokenizer = rows(tmp_path, CHAT, template=TEMPLATES[template], packing=packing)
    learnt = [token for token in row["labels"] if token != -100]
    told = tokenizer.convert_ids_to_tokens(learnt)
    assert told[-1] == "</s>" or told[-2:] == ["</s>", "<assistant>"]
    assert told.count("</s>") == 1
    assert "w3" in told[0]
    assert row["labels"][0] == -100
    assert not {"w1", "w2", "Ġw1", "Ġw2"} & set(told)


def test_of_plain_text_all_is_learnt_and_its_end(tmp_path: Path) -> None:
    [row], tokenizer = rows(tmp_path, TEXT, template=CHAT_TEMPLATE)
    assert row["labels"] == row["input_ids"]
    assert tokenizer.convert_ids_to_tokens(row["labels"]) == ["w1", "Ġw2", "Ġw3", "</s>"]
