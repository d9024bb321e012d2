"""Loading times: against the clouds' own figures, and longer with every byte."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from presets.loading import disk_rate, loading

SIZES = st.integers(1, 2 * 10**12)
DISKS = st.integers(1, 32_000)


@pytest.mark.parametrize(
    ("gib", "cloud", "rate"),
    [
        (100, "azure", 100),  # P10
        (128, "azure", 100),
        (129, "azure", 125),  # P15
        (512, "azure", 150),  # P20
        (1024, "azure", 200),  # P30
        (2048, "azure", 250),  # P40
        (5000, "azure", 500),  # P60
        (100, "aws", 125),
        (5000, "aws", 125),
    ],
)
def test_a_disk_is_as_fast_as_its_cloud_says(gib: int, cloud: str, rate: int) -> None:
    assert disk_rate(gib, cloud) == rate  # type: ignore[arg-type]


def test_of_15_gb_on_a_p10_the_parts_are_told() -> None:
    found = loading(15 * 10**9, disk_gib=128, cloud="azure")
    assert (found.pull, found.load, found.total) == (400, 150, 550)  # 20 GB written twice, 15 GB read


@given(size=SIZES, more=SIZES, disk=DISKS, cloud=st.sampled_from(["azure", "aws"]))
def test_more_bytes_take_longer_and_a_larger_disk_takes_no_longer(size: int, more: int, disk: int, cloud: str) -> None:
    taken = loading(size, disk_gib=disk, cloud=cloud).total  # type: ignore[arg-type]
    assert taken < loading(size + more, disk_gib=disk, cloud=cloud).total  # type: ignore[arg-type]
    assert taken >= loading(size, disk_gib=2 * disk, cloud=cloud).total  # type: ignore[arg-type]
