"""How long ago, in the words of kubectl."""

from datetime import datetime

from kaito_operator.api.conditions import moment

MINUTE, HOUR, DAY, YEAR = 60, 3600, 86400, 365 * 86400


def age(since: str, *, now: datetime) -> str:
    """The time since a timestamp as ``kubectl get`` prints it (k8s.io/apimachinery/pkg/util/duration); "" for none."""
    return duration((now - moment(since)).total_seconds()) if since else ""


def duration(seconds: float) -> str:
    """At most two units, and the coarser the longer it is. Clocks that differ give 0s, not a negative age."""
    s = max(0, int(seconds))
    steps = (
        (2 * MINUTE, f"{s}s"),
        (10 * MINUTE, _two(s, MINUTE, "m", 1, "s")),
        (3 * HOUR, f"{s // MINUTE}m"),
        (8 * HOUR, _two(s, HOUR, "h", MINUTE, "m")),
        (2 * DAY, f"{s // HOUR}h"),
        (8 * DAY, _two(s, DAY, "d", HOUR, "h")),
        (2 * YEAR, f"{s // DAY}d"),
    )
    return next((text for limit, text in steps if s < limit), f"{s // YEAR}y")


def _two(seconds: int, big: int, big_name: str, small: int, small_name: str) -> str:
    rest = seconds % big // small
    return f"{seconds // big}{big_name}{rest}{small_name}" if rest else f"{seconds // big}{big_name}"
