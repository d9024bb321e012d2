"""What the model gets to read and to learn: prompts masked, answers whole, and their end."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from presets.training_config import parse
from tests.support.tiny_model import CHAT_TEMPLATE, write_tiny_model
from tuning_runner.examples import Columns, Example, examples
from tuning_runner.files import Row
from tuning_runner.preparation import Request, prepared
from tuning_runner.transfer_ending import StepFailed

pytestmark = [
    pytest.mark.tuning,
    pytest.mark.filterwarnings("ignore:`?is_gradient_checkpointing:FutureWarning"),  # peft asks by the old name
]
ENDS_TURNS = CHAT_TEMPLATE.replace("message['content'] -}}", "message['content'] + '</s>' -}}")
CHAT = Example([{"role": "user", "content": "w1 w2"}], [{"role": "assistant", "content": "w3"}])
TEXT = Example("", "w1 w2 w3")


def trainer(directory: Path, *given: Example, template: str | None, **sections: dict[str, Any]) -> Any:
    """Ready to start, for a model with this chat template."""
    write_tiny_model(directory / "model")
    tokenizer = AutoTokenizer.from_pretrained(directory / "model")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory / "model")
    config = {"ModelConfig": {"dtype": "float32"}, **sections}
    asked = Request(
        model=directory / "model",
        preset="tiny",
        method="lora",
        config=parse(json.dumps({"training_config": config}), method="lora"),
        config_digest="",
        data=directory,
        results=directory,
    )
    return prepared(asked, given, [], checkpoints=directory / "checkpoints")


def rows(directory: Path, *given: Example, template: str | None, packing: bool = False) -> Any:
    """As the trainer has them, and the tokenizer."""
    made = trainer(directory, *given, template=template, TrainingArguments={"packing": packing})
    return made.train_dataset, made.processing_class


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


def conversation(number: int, *, turns: int) -> Row:
    """Its first question is its own, and comes again in the prompt of every later turn."""
    told = [
        {"role": role, "content": content}
        for turn in range(turns)
        for role, content in (("user", f"w{number} w{20 + turn}"), ("assistant", "w29"))
    ]
    return Row("data.jsonl", number, {"messages": told})


def conversations_of(dataset: Any, tokenizer: Any) -> set[str]:
    """The first word of the first question of each example."""
    return {tokenizer.decode(row["input_ids"], skip_special_tokens=True).split()[0] for row in dataset}


@pytest.mark.parametrize("shuffle", [True, False])
def test_no_conversation_is_both_trained_on_and_held_back(shuffle: bool, tmp_path: Path) -> None:
    given = examples([conversation(number, turns=3) for number in range(12)], columns=Columns())
    made = trainer(
        tmp_path, *given, template=CHAT_TEMPLATE, DatasetConfig={"train_test_split": 0.75, "shuffle_dataset": shuffle}
    )
    assert (len(made.train_dataset), len(made.eval_dataset)) == (27, 9)
    trained, held_back = (
        conversations_of(each, made.processing_class) for each in (made.train_dataset, made.eval_dataset)
    )
    assert (len(trained), len(held_back)) == (9, 3)
    assert not trained & held_back


def test_the_share_held_back_is_of_rows_and_not_of_turns(tmp_path: Path) -> None:
    given = examples([conversation(1, turns=5)], columns=Columns())
    with pytest.raises(
        StepFailed, match=r"^DatasetConfig\.train_test_split: of 1 rows that would hold back 0: write 1$"
    ):
        trainer(tmp_path, *given, template=CHAT_TEMPLATE, DatasetConfig={"train_test_split": 0.8})
