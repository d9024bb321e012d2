"""Amounts are what Kubernetes' own client takes them for."""

import pytest
from kubernetes.utils.quantity import parse_quantity

from kaito_operator.api.amounts import amount

AMOUNTS = ["1", 1, "1000m", "0.5", ".5", "5.", "100n", "7u", "2k", "3M", "4G", "1T", "1P", "1E", "1Ki", "5Mi", "1.5Gi",
           "1Ti", "1Pi", "1Ei", "1e3", "12e-1", 1e9, "+1", "-2Mi"]  # fmt: skip


@pytest.mark.parametrize("written", AMOUNTS)
def test_an_amount_is_what_the_client_reads(written: object) -> None:
    assert amount(written) == parse_quantity(str(written))


@pytest.mark.parametrize("written", ["", "one", "1 Gi", "1gi", "1K", "0x10", None, "1e", "1Kim", "NaN"])
def test_what_is_none_is_none(written: object) -> None:
    assert amount(written) is None
