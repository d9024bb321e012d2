"""Label selectors mean what they mean to Kubernetes (apimachinery's labels.Requirement.Matches)."""

import pytest

from kaito_operator.api.selectors import matches
from kaito_operator.api.spec import Expression, LabelSelector, Operator

LABELS = {"app": "chat", "zone": "a"}
CASES = [
    ("In", "zone", ("a", "b"), True),
    ("In", "zone", ("b",), False),
    ("In", "missing", ("a",), False),
    ("NotIn", "zone", ("b",), True),
    ("NotIn", "zone", ("a",), False),
    ("NotIn", "missing", ("a",), True),
    ("Exists", "zone", (), True),
    ("Exists", "missing", (), False),
    ("DoesNotExist", "missing", (), True),
    ("DoesNotExist", "zone", (), False),
]


@pytest.mark.parametrize(("operator", "key", "values", "expected"), CASES)
def test_an_expression_matches(operator: str, key: str, values: tuple[str, ...], expected: bool) -> None:
    expression = Expression(key=key, operator=Operator(operator), values=values)
    assert matches(LabelSelector(match_expressions=(expression,)), LABELS) is expected


def test_all_labels_and_all_expressions_must_hold() -> None:
    exists = Expression(key="zone", operator=Operator.EXISTS)
    absent = Expression(key="zone", operator=Operator.DOES_NOT_EXIST)
    assert matches(LabelSelector(match_labels={"app": "chat"}, match_expressions=(exists,)), LABELS)
    assert not matches(LabelSelector(match_labels={"app": "other"}, match_expressions=(exists,)), LABELS)
    assert not matches(LabelSelector(match_labels={"app": "chat"}, match_expressions=(exists, absent)), LABELS)


def test_the_empty_selector_matches_everything() -> None:
    assert matches(LabelSelector(), {})
