"""Which of their rights the operators use: from audit logs of the system tests to tests/golden/rights-used.yaml.

``python -m scripts.permissions AUDIT_LOG…`` adds what the logs show to the record.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

RECORD = Path(__file__).parent.parent / "tests/golden/rights-used.yaml"
ACCOUNTS = {
    "system:serviceaccount:kaito-system:kaito-workspace": "workspace",
    "system:serviceaccount:kaito-system:kaito-gpu-provisioner": "gpu-provisioner",
}
"""Service account → chart."""
EVERYBODYS = {"selfsubjectaccessreviews", "selfsubjectreviews"}
"""What each account may ask without a rule of ours."""


class Right(NamedTuple):
    """One verb on one resource, subresource included, as a rule of RBAC grants it."""

    chart: str
    group: str
    resource: str
    verb: str


def granted(chart: str, manifests: Iterable[dict[str, Any]]) -> set[Right]:
    """Every right that a rendered chart gives."""
    rules = [rule for m in manifests if m["kind"] in ("ClusterRole", "Role") for rule in m["rules"]]
    return {
        Right(chart, group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(lines: Iterable[str]) -> Iterator[Right]:
    """Every right by which a request of the operators was allowed."""
    for line in lines:
        if not line.endswith("\n"):
            continue  # it is being written
        entry = json.loads(line)
        about = entry.get("objectRef", {})
        chart = ACCOUNTS.get(entry["user"]["username"])
        allowed = entry.get("annotations", {}).get("authorization.k8s.io/decision") == "allow"
        if chart is not None and allowed and "resource" in about and about["resource"] not in EVERYBODYS:
            resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
            yield Right(chart, about.get("apiGroup", ""), resource, entry["verb"])


def recorded() -> set[Right]:
    """What the record says was used."""
    if not RECORD.exists():
        return set()
    return {Right(*row) for row in yaml.safe_load(RECORD.read_text())}


def main() -> None:
    """Adds what the logs named on the command line show."""
    found = recorded()
    for name in sys.argv[1:]:
        with Path(name).open() as lines:
            found.update(used(lines))
    RECORD.write_text(yaml.safe_dump([list(right) for right in sorted(found)], default_flow_style=None))


if __name__ == "__main__":
    main()
