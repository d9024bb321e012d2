"""What an API server would refuse or forget is an error of the generator, never left out in silence."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, StringConstraints

from kaito_operator.api.schema import Unsupported, structural

Short = Annotated[str, StringConstraints(max_length=5)]


class Inner(BaseModel):
    """A part."""

    name: Short = Field(description="A name.")


class Whole(BaseModel):
    """A whole."""

    one: Inner | None = Field(default=None, description="Optional, by reference.")
    many: Annotated[tuple[Inner, ...], Field(max_length=2)] = Field(default=(), description="A list.")
    by_name: Annotated[dict[str, Short], Field(max_length=3)] = Field(default_factory=dict, description="A map.")
    word: Literal["a", "b"] = Field(default="a", description="A choice.")
    amount: int | Short | None = Field(default=None, description="A port, say.")


NAMED = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "maxLength": 5}}}


def without_descriptions(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {k: without_descriptions(v) for k, v in schema.items() if k != "description"}
    return schema


def test_references_are_inlined_and_optional_means_absent() -> None:
    assert without_descriptions(structural(Whole)) == {
        "type": "object",
        "properties": {
            "one": NAMED,
            "many": {"type": "array", "maxItems": 2, "items": NAMED},
            "by_name": {
                "type": "object",
                "maxProperties": 3,
                "additionalProperties": {"type": "string", "maxLength": 5},
            },
            "word": {"type": "string", "enum": ["a", "b"], "default": "a"},
            "amount": {"x-kubernetes-int-or-string": True},
        },
    }


def test_a_field_of_a_part_keeps_its_own_words() -> None:
    properties = structural(Whole)["properties"]
    assert properties["one"]["description"] == "Optional, by reference."
    assert properties["many"]["items"]["description"] == "A part."


class UnboundedString(BaseModel):
    field: str


class UnboundedList(BaseModel):
    field: list[int]


class UnboundedMap(BaseModel):
    field: dict[str, int]


class Anything(BaseModel):
    field: Any


class Constant(BaseModel):
    field: Literal["one"]


class Union(BaseModel):
    field: Inner | Whole


class Exclusive(BaseModel):
    field: Annotated[int, Field(gt=0)]


class Pair(BaseModel):
    field: tuple[int, int]


class Recursive(BaseModel):
    field: Annotated[int, Field(examples=[1])]


REFUSED = [UnboundedString, UnboundedList, UnboundedMap, Anything, Constant, Union, Exclusive, Pair, Recursive]


@pytest.mark.parametrize("model", REFUSED, ids=lambda m: m.__name__)
def test_what_an_api_server_would_not_take_is_an_error_with_its_path(model: type[BaseModel]) -> None:
    with pytest.raises(Unsupported, match=rf"^{model.__name__}\.field: "):
        structural(model)
