"""Whether a request still has a token in its bucket, and when there will be one: the throttling of AKS and of ARM."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

from local_cluster.azure_behaviour import BucketSize

FRONT_DOOR = {"GET": "reads", "PUT": "writes", "POST": "writes", "DELETE": "deletes"}
"""Method → the front door's bucket."""


@dataclass(slots=True)
class Bucket:
    """What is left, and when that was counted."""

    left: float
    counted: float


@dataclass(slots=True)
class Buckets:
    """All buckets by name and scope; a bucket that nobody has drawn from is full."""

    by_name: dict[tuple[str, str], Bucket] = field(default_factory=dict)

    def draw(self, name: str, scope: str, sizes: Mapping[str, BucketSize], *, now: float) -> int:
        """Takes one token: 0, or the whole seconds until there is one to take."""
        size = sizes[name]
        bucket = self.by_name.setdefault((name, scope), Bucket(size.burst, now))
        bucket.left = min(size.burst, bucket.left + (now - bucket.counted) * size.per_second)
        bucket.counted = now
        if bucket.left < 1:
            return ceil((1 - bucket.left) / size.per_second)
        bucket.left -= 1
        return 0

    def left(self, name: str, scope: str) -> int:
        """Whole tokens in a bucket that has been drawn from."""
        return int(self.by_name[name, scope].left)
