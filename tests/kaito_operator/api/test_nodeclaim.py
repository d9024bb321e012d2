"""NodeClaims on a real API server, by the CRD of our model: what Karpenter's takes, ours takes, and the other way."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kaito_operator.api import crd
from tests.support.control_plane import ApiServer, Refused, establish, withdraw

pytestmark = pytest.mark.controlplane
CLAIMS = "/apis/karpenter.sh/v1/nodeclaims"
CLAIM: dict[str, Any] = {
    "apiVersion": "karpenter.sh/v1",
    "kind": "NodeClaim",
    "metadata": {"name": "ws0123456789"},
    "spec": {
        "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
        "requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In", "values": ["Standard_NC6s_v3"]}],
        "expireAfter": "Never",
        "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
    },
}


@pytest.fixture
def claims(api_server: ApiServer) -> Iterator[ApiServer]:
    """The API server with the kind; without it again afterwards, as other tests want it."""
    definition = crd.definition(crd.NODECLAIM)
    establish(api_server, definition)
    yield api_server
    withdraw(api_server, definition)


def _without(path: str) -> Callable[[dict[str, Any]], None]:
    def change(claim: dict[str, Any]) -> None:
        *way, last = path.split(".")
        for step in way:
            claim = claim[step]
        del claim[last]

    return change


def _with(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda claim: claim["spec"].update({key: value})


BAD: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no spec": (_without("spec"), "spec: Required value"),
    "no node class": (_without("spec.nodeClassRef"), "spec.nodeClassRef: Required value"),
    "no name of the node class": (_without("spec.nodeClassRef.name"), "spec.nodeClassRef.name: Required value"),
    "no requirements": (_without("spec.requirements"), "spec.requirements: Required value"),
    "days": (_with("expireAfter", "1d"), "spec.expireAfter"),
    "a grace of never": (_with("terminationGracePeriod", "Never"), "spec.terminationGracePeriod"),
    "a group with a slash": (
        _with("nodeClassRef", {"group": "kaito.sh/v1", "kind": "K", "name": "n"}),
        "spec.nodeClassRef.group",
    ),
}


def test_a_claim_is_taken_kept_as_it_is_and_refused_where_karpenter_refuses_it(claims: ApiServer) -> None:
    made = claims.ask("POST", CLAIMS, CLAIM)
    assert (made["spec"], made["metadata"]["generation"]) == (CLAIM["spec"], 1)
    with pytest.raises(Refused, match="spec is immutable"):
        claims.merge(f"{CLAIMS}/ws0123456789", {"spec": {"expireAfter": "1h"}})
    for case, (spoil, says) in BAD.items():
        bad = copy.deepcopy(CLAIM)
        bad["metadata"]["name"] = "bad"
        spoil(bad)
        with pytest.raises(Refused, match=says):
            claims.ask("POST", CLAIMS, bad)
        assert claims.get(f"{CLAIMS}/bad") is None, case


def test_a_claim_without_a_word_on_it_would_expire_as_karpenter_says(claims: ApiServer) -> None:
    claim = copy.deepcopy(CLAIM)
    del claim["spec"]["expireAfter"]
    assert claims.ask("POST", CLAIMS, claim)["spec"]["expireAfter"] == "720h"
