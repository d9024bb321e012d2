"""Training data: every format and shape becomes prompts with answers; every mistake names file and row."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

from presets.tuning_steps import ExitCode
from tests.support.told import check_told
from tuning_runner import files
from tuning_runner.examples import Columns, Example, examples
from tuning_runner.transfer_ending import StepFailed

CHAT = {"messages": [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b."}]}
LEARNT = Example([{"role": "user", "content": "a?"}], [{"role": "assistant", "content": "b."}])
PLAIN = Columns()


def write(directory: Path, name: str, rows: list[Any]) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / name).write_text(text)


def learnt(directory: Path, columns: Columns = PLAIN) -> list[Example]:
    return examples(files.read(directory), columns=columns)


def as_parquet(path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist([CHAT]), path)


def as_arrow_stream(path: Path) -> None:
    table = pa.Table.from_pylist([CHAT])
    with ipc.new_stream(str(path), table.schema) as stream:
        stream.write_table(table)


def as_arrow_file(path: Path) -> None:
    table = pa.Table.from_pylist([CHAT])
    with ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


def as_csv(path: Path) -> None:
    with path.open("w", newline="") as text:
        table = csv.writer(text)
        table.writerow(["prompt", "completion"])
        table.writerow(["a?", "b."])


FORMATS: dict[str, Callable[[Path], object]] = {
    "rows.parquet": as_parquet,
    "stream.arrow": as_arrow_stream,
    "file.arrow": as_arrow_file,
    "rows.csv": as_csv,
    "rows.jsonl": lambda path: path.write_text(json.dumps(CHAT)),
    "list.json": lambda path: path.write_text(json.dumps([CHAT])),
    "lines.json": lambda path: path.write_text(json.dumps(CHAT) + "\n\n"),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(CHAT).encode())),
    "marked.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + json.dumps(CHAT).encode()),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path / name)
    assert learnt(tmp_path) == [LEARNT]


def test_all_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", [{"prompt": "2", "completion": "two"}])
    write(tmp_path, "a.jsonl", [{"prompt": "1", "completion": "one"}])
    (tmp_path / ".download").mkdir()
    write(tmp_path / ".download", "c.jsonl", [{"prompt": "3", "completion": "three"}])
    (tmp_path / "README.md").write_text("not data")
    assert [example.answer[0]["content"] for example in learnt(tmp_path)] == ["one", "two"]  # type: ignore[index]


SHAPES: dict[str, tuple[dict[str, Any], Columns]] = {
    "messages": (CHAT, PLAIN),
    "prompt and completion": ({"prompt": "a?", "completion": "b."}, PLAIN),
    "prompt and completion of messages": (
        {"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]},
        PLAIN,
    ),
    "Alpaca": ({"instruction": "a?", "input": "", "output": "b."}, PLAIN),
    "ShareGPT": ({"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "b."}]}, PLAIN),
    "columns of DatasetConfig": ({"q": "a?", "r": "b."}, Columns(context="q", response="r")),
    "messages under another name": ({"talk": CHAT["messages"]}, Columns(messages="talk")),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_a_prompt_and_an_answer(shape: str, tmp_path: Path) -> None:
    row, columns = SHAPES[shape]
    write(tmp_path, "rows.jsonl", [row])
    assert learnt(tmp_path, columns) == [LEARNT]


def test_an_input_is_part_of_the_prompt(tmp_path: Path) -> None:
    write(tmp_path, "rows.jsonl", [{"instruction": "Sum up:", "input": "text", "output": "t"}])
    assert learnt(tmp_path)[0].prompt == [{"role": "user", "content": "Sum up:\n\ntext"}]


def test_plain_text_is_learnt_whole(tmp_path: Path) -> None:
    write(tmp_path, "rows.jsonl", [{"text": "once upon a time"}])
    assert learnt(tmp_path) == [Example("", "once upon a time")]
    assert learnt(tmp_path)[0].is_text


def test_every_answer_of_a_long_conversation_is_learnt_from_all_before_it(tmp_path: Path) -> None:
    turns = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user", "assistant")]
    write(tmp_path, "rows.jsonl", [{"messages": turns}])
    assert [(len(example.prompt), example.answer) for example in learnt(tmp_path)] == [(2, [turns[2]]), (4, [turns[4]])]


def said(role: Any, content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "a?"}, {"role": role, "content": content}]}


BAD: dict[str, tuple[str, str, str]] = {
    "no JSON": ("rows.jsonl", "{", "rows.jsonl row 1: is no JSON: "),
    "a number": ("rows.jsonl", "7", "rows.jsonl row 1: is not an object with columns"),
    "no columns known": ("rows.jsonl", '{"a": 1}', "has the columns a; write messages, prompt and completion"),
    "text for a header": (
        "rows.csv",
        "What is a pod? It is this,and that\nA b,c\n",
        "has the columns What is a pod? It is…, and that; write messages",
    ),
    "very many columns": ("rows.jsonl", json.dumps(dict.fromkeys("abcdefgh")), "has the columns a, b, c, d, e and 3"),
    "a long role": ("rows.jsonl", json.dumps(said("r" * 99, "b")), f"has the role '{'r' * 20}'; write"),
    "no columns": ("rows.jsonl", "{}", "has the columns none"),
    "a bad role": ("rows.jsonl", json.dumps(said("robot", "b")), "message 2 has the role 'robot'; write one of system"),
    "no role": ("rows.jsonl", json.dumps(said(None, "b")), "message 2 has the role None"),
    "empty content": ("rows.jsonl", json.dumps(said("assistant", " ")), "message 2 has no content"),
    "content a number": ("rows.jsonl", json.dumps(said("assistant", 7)), "message 2 has no content"),
    "a message of text": ("rows.jsonl", '{"messages": ["hello"]}', "message 1 is no object with role and content"),
    "messages of text": ("rows.jsonl", '{"messages": "hello"}', "messages is not a list of messages"),
    "no messages": ("rows.jsonl", '{"messages": []}', "messages is not a list of messages"),
    "no answer": ("rows.jsonl", json.dumps(said("user", "b")), "has no answer of the assistant"),
    "no completion": ("rows.jsonl", '{"prompt": "a"}', "has no text in the column completion"),
    "an empty prompt": ("rows.jsonl", '{"prompt": "", "completion": "b"}', "has no text in the column prompt"),
    "no output": ("rows.jsonl", '{"instruction": "a"}', "has no text in the column output"),
    "text a number": ("rows.jsonl", '{"text": 7}', "has no text in the column text"),
    "no rows": ("rows.jsonl", "", "the data files have no rows"),
    "an empty list": ("rows.json", "[]", "the data files have no rows"),
    "a list of numbers": ("rows.json", "[1]", "rows.json row 1: is not an object with columns"),
    "half a list": ("rows.json", "[{", "rows.json cannot be read"),
    "a header alone": ("rows.csv", "prompt,completion\n", "the data files have no rows"),
    "too many fields": ("rows.csv", "prompt,completion\na,b,c\n", "rows.csv row 1: has more fields than the header"),
    "an open quote": ("rows.csv", 'prompt,completion\n"a,b\n', "rows.csv cannot be read"),
    "no parquet": ("rows.parquet", "PAR1", "rows.parquet cannot be read"),
    "no arrow": ("rows.arrow", "ARROW1", "rows.arrow cannot be read"),
    "no gzip": ("rows.jsonl.gz", "{}", "rows.jsonl.gz cannot be read"),
    "no text": ("rows.jsonl", "\udcff", "rows.jsonl cannot be read"),
    "an ending nobody knows": ("rows.xml", "<a/>", "there is no data file"),
    "packed parquet": ("rows.parquet.gz", "x", "there is no data file"),
}


@pytest.mark.badinput
@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_told_with_its_place_before_any_model_is_loaded(
    case: str, tmp_path: Path, count_cases: Callable[[str, int], None]
) -> None:
    name, text, told = BAD[case]
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(StepFailed) as failed:
        learnt(tmp_path)
    assert failed.value.code is ExitCode.DATA_INVALID
    assert told in str(failed.value)
    check_told("trainer", failed.value)
    count_cases("bad input of a tuning, as the status tells it", 1)


@pytest.mark.badinput
def test_one_bad_row_in_a_hundred_is_left_out_and_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "rows.jsonl", [*([CHAT] * 99), {"a": 1}])
    assert len(learnt(tmp_path)) == 99
    assert "left out: rows.jsonl row 100" in caplog.text


@pytest.mark.badinput
def test_two_bad_rows_in_a_hundred_are_a_mistake(tmp_path: Path) -> None:
    write(tmp_path, "rows.jsonl", [*([CHAT] * 98), {"a": 1}, {"b": 1}])
    with pytest.raises(StepFailed, match=r"row 99: .* \(and 1 more of 100 rows\)"):
        learnt(tmp_path)


@pytest.mark.badinput
def test_text_and_answers_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path, "rows.jsonl", [CHAT, {"text": "a"}])
    with pytest.raises(StepFailed, match="give data of one shape"):
        learnt(tmp_path)
