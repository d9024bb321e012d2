"""Workspaces as no rules would let them in: a good one in which something, anywhere, is something else."""

import random
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
JUNK: tuple[Any, ...] = (
    None, "", "x" * 300, "ünïcödé\u202e", -1, 0, 2**63 - 1, 1.5, True, [], {}, [[]], [None], {"": {}},
    {"a": [1, {"b": None}]},
    "Standard_NC6s_v3", ["https://example.com", 7], {"matchExpressions": [{"key": 1}]}, {"name": None},
)  # fmt: skip
GOOD: tuple[Json, ...] = (
    {
        "resource": {
            "count": 1,
            "instanceType": "Standard_D2s_v5",
            "labelSelector": {
                "matchLabels": {"app": "x"},
                "matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}],
            },
            "preferredNodes": ["n"],
        },
        "inference": {
            "preset": {
                "name": "smollm2-135m-instruct",
                "accessMode": "public",
                "presetOptions": {"image": "r.io/a/b:1"},
            },
            "adapters": [{"source": {"name": "style", "image": "r.io/team/style:1"}, "strength": "0.5"}],
        },
    },
    {
        "resource": {"instanceType": "", "labelSelector": {"matchLabels": {"app": "x"}}},
        "tuning": {
            "preset": {"name": "smollm2-135m-instruct"},
            "method": "lora",
            "config": "own",
            "input": {"urls": ["https://example.com/rows.jsonl"]},
            "output": {"image": "r.io/team/style:1", "imagePushSecret": "push"},
        },
    },
    {
        "resource": {"instanceType": "Standard_D2s_v5", "labelSelector": {"matchLabels": {"app": "x"}}},
        "inference": {
            "template": {"spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]}}
        },
    },
)


def spoiled(seed: int) -> Json:
    """The body of one, the same for the same number; one to three places are junk, or gone."""
    chance = random.Random(seed)
    body: Json = _copied(GOOD[seed % len(GOOD)])
    for _ in range(chance.randint(1, 3)):
        holder, key = chance.choice(list(_places(body)))
        if chance.random() < 0.2 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = _copied(chance.choice(JUNK))
        if not any(_places(body)):
            break
    return body


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Everything that can be replaced: its holder, and where it stands there."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])
