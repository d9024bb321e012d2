"""Label selectors, as Kubernetes reads them."""

from collections.abc import Mapping

from kaito_operator.api.spec import Expression, LabelSelector, Operator


def matches(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether labels meet all of matchLabels and all of matchExpressions."""
    return selector.match_labels.items() <= labels.items() and all(
        _meets(labels.get(expression.key), expression) for expression in selector.match_expressions
    )


def _meets(value: str | None, expression: Expression) -> bool:
    """A label that is not there is in no set: NotIn holds for it (apimachinery's labels.Requirement)."""
    match expression.operator:
        case Operator.IN:
            return value in expression.values
        case Operator.NOT_IN:
            return value not in expression.values
        case Operator.EXISTS:
            return value is not None
        case Operator.DOES_NOT_EXIST:
            return value is None
