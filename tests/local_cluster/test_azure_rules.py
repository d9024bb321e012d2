"""What AKS would refuse about an agent pool, and what Microsoft.Compute says of sizes and quotas: both pure."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from kaito_operator.gpu_provisioner.errors import UNAVAILABLE, classified
from kaito_operator.gpu_provisioner.quota import outlook, sizes_of, usages_of
from local_cluster.azure_behaviour import Behaviour
from local_cluster.azure_compute import family_of, refused, skus, usages
from local_cluster.azure_faults import Fault
from local_cluster.azure_rules import IMMUTABLE, changes, mistakes

SIZE = "Standard_NC12s_v3"
V100: dict[str, Any] = {"vmSize": SIZE, "count": 1}


def first(name: str = "ws1", **wanted: Any) -> str:
    """The code and message of the first mistake; empty if there is none."""
    mistake = next(mistakes(name, {**V100, **wanted}), None)
    return "" if mistake is None else f"{mistake.code}: {mistake.message}"


def test_an_ordinary_pool_is_no_mistake() -> None:
    labels = {"kaito.sh/workspace": "w", "node.kubernetes.io/lifecycle": "x", "app": "falcon"}
    assert first(nodeLabels=labels, nodeTaints=["sku=gpu:NoSchedule", "a=:NoExecute"], osDiskSizeGB=0, tags={}) == ""
    assert first(scaleSetPriority="Spot", spotMaxPrice=-1, scaleSetEvictionPolicy="Delete") == ""
    assert first(scaleSetPriority="Spot", spotMaxPrice=0.12345) == ""
    assert first("w" * 12) == ""
    assert first(nodeInitializationTaints=[]) == first(nodeInitializationTaints=None) == ""


@pytest.mark.parametrize(
    ("name", "wanted", "says"),
    [
        ("1ws", {}, "InvalidParameter: The value of parameter agentPool.name is invalid: 1ws."),
        ("w" * 13, {}, "^[a-z][a-z0-9]{0,11}$"),
        ("windows", {"osType": "Windows"}, "^[a-z][a-z0-9]{0,5}$"),
        ("ws1", {"osDiskSizeGB": -2147483648}, "agentPoolProfile.osDiskSizeGB is invalid: -2147483648"),
        ("ws1", {"count": 1001}, "It must be between 0 and 1000"),
        ("ws1", {"maxPods": 9}, "agentPoolProfile.maxPods"),
        ("ws1", {"nodeLabels": {"kubernetes.azure.com/mode": "user"}}, "prefix is preserved by aks system labels"),
        ("ws1", {"nodeLabels": {"kubernetes.io/arch": "amd64"}}, "https://aka.ms/aks-node-labels-116"),
        ("ws1", {"nodeLabels": {"topology.kubernetes.io/zone": "1"}}, "must begin with an allowed prefix"),
        ("ws1", {"nodeLabels": {"node-restriction.kubernetes.io/a": "b"}}, "BadRequest: "),
        ("ws1", {"nodeLabels": {"node.kubernetes.io/instance-type": "x"}}, "BadRequest: Invalid node label key"),
        ("ws1", {"nodeLabels": ["a"]}, "It must be an object"),
        ("ws1", {"nodeTaints": ["sku=gpu"]}, "It must be key=value:effect"),
        ("ws1", {"nodeInitializationTaints": ["a=b:NoSchedule"]}, "NodeInitializationTaintsFeatureNotSupported: "),
        ("ws1", {"spotMaxPrice": 1.0}, "only be set where scaleSetPriority is Spot"),
        ("ws1", {"scaleSetPriority": "Spot", "spotMaxPrice": 0.123456}, "at most five decimal places"),
        ("ws1", {"scaleSetPriority": "Spot", "mode": "System"}, "A system pool cannot be a spot pool"),
    ],
)
def test_what_aks_refuses(name: str, wanted: dict[str, Any], says: str) -> None:
    assert says in first(name, **wanted)


@pytest.mark.parametrize("key", IMMUTABLE)
def test_what_was_decided_at_creation_stays(key: str) -> None:
    no = changes({**V100, key: "a"}, {**V100, key: "b"})
    assert no is not None
    assert (no.status, no.code) == (400, "PropertyChangeNotAllowed")
    assert changes({**V100, key: "a"}, {"nodeLabels": {"a": "b"}, key: "a"}) is None


def test_sizes_share_the_quota_of_their_family() -> None:
    assert family_of("Standard_NC12s_v3") == family_of("Standard_NC24rs_v3") == "standardNCSv3Family"
    assert family_of("Standard_NC24ads_A100_v4") == "standardNCADSA100v4Family"
    assert family_of("Standard_D2s_v5") != family_of("Standard_D2s_v4")


def seen(behaviour: Behaviour, *pools: dict[str, Any], spot: bool = False) -> str:
    """What gpu-provisioner makes of the figures."""
    no = outlook(
        SIZE,
        spot=spot,
        sizes=sizes_of(skus(behaviour)),
        usages=usages_of(usages(behaviour, pools)),
        location=behaviour.location,
    )
    return "" if no is None else no.reason


@pytest.mark.parametrize(
    ("settings", "pools", "wanted", "reason"),
    [
        ({}, [V100], V100, ""),
        ({"quotas": {"standardNCSv3Family": 24}}, [V100], V100, ""),
        ({"quotas": {"standardNCSv3Family": 24}}, [V100, V100], V100, "QuotaExceeded"),
        ({"quotas": {"cores": 23}}, [V100], V100, "QuotaExceeded"),
        ({"quotas": {"lowPriorityCores": 0}}, [], {**V100, "scaleSetPriority": "Spot"}, "QuotaExceeded"),
        ({"quotas": {"standardNCSv3Family": 0}}, [], {**V100, "scaleSetPriority": "Spot"}, ""),
        ({"restricted": ("standard_nc12s_V3",)}, [], V100, "SkuNotAvailable"),
    ],
)
def test_what_the_figures_foresee_is_what_a_put_is_refused_for(
    settings: dict[str, Any], pools: list[dict[str, Any]], wanted: dict[str, Any], reason: str
) -> None:
    behaviour = Behaviour(**settings)
    no = refused(behaviour, pools, wanted)
    told = None if no is None else classified(no.status, {"code": no.code, "message": no.message})
    assert ("" if told is None else told.reason) == reason
    assert told is None or told.message.startswith(UNAVAILABLE)
    assert seen(behaviour, *pools, spot="scaleSetPriority" in wanted) == reason


@pytest.mark.parametrize("model", [Behaviour, Fault], ids=lambda model: model.__name__)
def test_every_setting_and_every_field_of_a_fault_is_documented(model: type[BaseModel]) -> None:
    page = (Path(__file__).parents[2] / "docs/reference/azure-stand-in.md").read_text()
    for name, field in model.model_fields.items():
        row = next((line for line in page.splitlines() if line.startswith(f"| `{name}` |")), "")
        assert row.endswith(f"| {field.description} |"), name
