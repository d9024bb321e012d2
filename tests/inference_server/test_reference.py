"""docs/reference/server.md names every endpoint, parameter and flag there is, and no other flag or endpoint."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from inference_server.app import create_app
from inference_server.openai_schemas import ChatCompletionRequest, CompletionRequest
from inference_server.settings import WITHOUT_EFFECT, Settings
from tests.support.scripted_engine import ScriptedEngine

PAGE = (Path(__file__).parents[2] / "docs/reference/server.md").read_text()


def test_the_endpoints_are_those_of_the_server() -> None:
    served = {
        f"{method.upper()} `{path}`"
        for path, methods in create_app(ScriptedEngine(), Settings()).openapi()["paths"].items()
        for method in methods
    }
    assert set(re.findall(r"^\| ((?:GET|POST) `[^`]+`) \|", PAGE, re.MULTILINE)) == served


def test_the_flags_are_those_of_the_command_line() -> None:
    rows = re.findall(r"^\| `--(\w+)` \| (?:`(.*)`)? ?\| (.*) \|$", PAGE, re.MULTILINE)
    wanted = [
        (name, "" if field.default in (None, ()) else str(field.default), field.description)
        for name, field in Settings.model_fields.items()
    ]
    assert rows == wanted
    assert all(f"`--{name}`" in PAGE for name in WITHOUT_EFFECT)


@pytest.mark.parametrize("schema", [ChatCompletionRequest, CompletionRequest])
def test_every_parameter_is_named(schema: type[BaseModel]) -> None:
    assert [name for name in schema.model_fields if f"`{name}`" not in PAGE] == []
