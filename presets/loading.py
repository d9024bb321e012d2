"""How long a model takes on a new machine from its image to its first answer: bytes over rates.

A disk of the cloud is slower than its network and its cards. The machine's own boot, which comes before, is not in it.
"""

from dataclasses import dataclass
from typing import Literal

MB = 10**6
PREMIUM_DISKS = ((128, 100), (256, 125), (512, 150), (1024, 200), (4096, 250), (8192, 500))
"""GiB up to which a premium SSD of Azure gives so many MB a second, bursts aside
(https://learn.microsoft.com/azure/virtual-machines/disks-types#premium-ssd-size)."""
GP3 = 125
"""MB a second of an AWS gp3 volume of any size, unless more is paid for
(https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html#gp3-performance)."""
NETWORK = 1000
"""MB a second: 8 Gbit/s, of the smallest GPU machine of either cloud (Standard_NC4as_T4_v3)."""
WRITTEN = 2
"""Times the bytes of an image are written: as they come, and unpacked."""

PROGRAMS = 5 * 10**9
"""Bytes of the image beside the weights, most of them torch with CUDA's libraries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """Seconds of both parts."""

    pull: float
    """The image with the weights, from the registry to the disk."""
    load: float
    """The weights, from the disk to where they are computed with."""

    @property
    def total(self) -> float:
        """One after the other."""
        return self.pull + self.load


def loading(file_bytes: int, *, disk_gib: int, cloud: Literal["azure", "aws"]) -> Loading:
    """Of weights of so many bytes, on a system disk of that size that the cloud attaches over its network."""
    disk = disk_rate(disk_gib, cloud) * MB
    image = file_bytes + PROGRAMS
    return Loading(pull=max(image / (NETWORK * MB), WRITTEN * image / disk), load=file_bytes / disk)


def disk_rate(disk_gib: int, cloud: Literal["azure", "aws"]) -> int:
    """MB a second of a disk; Azure's grow with their size."""
    if cloud == "aws":
        return GP3
    return next((rate for size, rate in PREMIUM_DISKS if disk_gib <= size), PREMIUM_DISKS[-1][1])
