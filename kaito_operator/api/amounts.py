"""Amounts of a resource, as Kubernetes reads them: 1, "1" and "1000m" are the same. Pure; a test compares it with
``kubernetes.utils.quantity``, which is part of the client and no room that plans may know."""

import re
from decimal import Decimal

SUFFIXES = {
    "": Decimal(1),
    **{name: Decimal(10) ** power for name, power in zip("num", (-9, -6, -3), strict=True)},
    **{name: Decimal(1000) ** power for power, name in enumerate("kMGTPE", start=1)},
    **{f"{name}i": Decimal(1024) ** power for power, name in enumerate("KMGTPE", start=1)},
}
WRITTEN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))([eE][+-]?\d{1,3}|[numkMGTPE]|[KMGTPE]i)?")


def amount(written: object) -> Decimal | None:
    """What it comes to; None for what is no amount."""
    found = WRITTEN.fullmatch(str(written))
    if found is None:
        return None
    number, suffix = found.groups(default="")
    return Decimal(number) * SUFFIXES[suffix] if suffix in SUFFIXES else Decimal(f"{number}{suffix}")
