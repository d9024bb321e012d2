"""Machine → agent pool: the mapping, and KAITO's provisioner's mistakes put right."""

from datetime import UTC, datetime
from typing import Any

import pytest

from kaito_operator.gpu_provisioner.agent_pool import NotMappable, agent_pool, disk_gb
from tests.support.machines import a_claim, a_machine

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def test_a_machine_of_kaito_becomes_an_agent_pool_of_one_node() -> None:
    assert agent_pool(a_machine(), cluster="prod", now=NOON) == {
        "properties": {
            "count": 1,
            "vmSize": "Standard_NC12s_v3",
            "type": "VirtualMachineScaleSets",
            "mode": "User",
            "osType": "Linux",
            "osSKU": "Ubuntu",
            "nodeLabels": {
                "app": "falcon",
                "kaito.sh/creation-timestamp": "2026-01-02T03-04-05Z",
                "kaito.sh/machine-type": "gpu",
                "kaito.sh/workspace": "w",
                "kaito.sh/workspacenamespace": "ns",
                "karpenter.sh/provisioner-name": "default",
            },
            "nodeTaints": ["sku=gpu:NoSchedule"],
            "tags": {
                "kaito.sh_cluster": "prod",
                "kaito.sh_workspace-uid": "workspace-uid",
                "kaito.sh_machine-uid": "machine-uid",
                "kaito.sh_asked-at": "2026-01-02T12:00:00Z",
            },
            "osDiskSizeGB": 50,
        }
    }


def test_startup_taints_are_none_of_the_pools_for_aks_never_lets_go_of_those() -> None:
    machine = a_machine()
    machine["spec"]["startupTaints"] = [{"key": "driver", "effect": "NoSchedule"}]
    body = agent_pool(machine, cluster="prod", now=NOON)
    assert body == agent_pool(a_machine(), cluster="prod", now=NOON)


@pytest.mark.parametrize(
    ("storage", "gb"),
    [
        ("0", 0),  # KAITO's "leave it to the provider"
        ("400", 400),  # falcon-40b, which meant GB
        ("50Gi", 50),
        ("120Gi", 120),  # an int32 overflow upstream
        ("158Gi", 158),
        ("50G", 47),  # 50·10⁹ bytes, rounded up to whole GiB
        ("1Gi", 30),  # AKS takes no less
        ("9Ti", 2048),  # and no more
    ],
)
def test_a_storage_request_is_rounded_up_into_what_aks_takes(storage: str, gb: int) -> None:
    assert disk_gb(storage) == gb


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "Falcon"}, "at most 12"),
        ({"name": "w" * 13}, "at most 12"),
        ({"sizes": []}, "found none"),
        ({"sizes": ["Standard_NC6s_v3", "Standard_NC12s_v3"]}, "found Standard_NC6s_v3, Standard_NC12s_v3"),
        ({"storage": "lots"}, "such as 100Gi"),
        ({"storage": "50ki"}, "such as 100Gi"),
    ],
)
def test_what_is_no_agent_pool_says_what_to_change(change: dict[str, Any], says: str) -> None:
    with pytest.raises(NotMappable, match=says):
        agent_pool(a_machine(**change), cluster="prod", now=NOON)


def test_labels_that_aks_keeps_to_itself_are_not_sent() -> None:
    reserved = {
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": "x",
        "kubernetes.azure.com/mode": "user",
    }
    sent = agent_pool(a_machine(labels=reserved), cluster="prod", now=NOON)["properties"]["nodeLabels"]
    assert not set(sent) & set(reserved)


def of_claim(**claim: Any) -> dict[str, Any]:
    properties: dict[str, Any] = agent_pool(a_claim(**claim), cluster="prod", now=NOON)["properties"]
    return properties


def requirement(key: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": list(values)}


def test_a_claim_becomes_the_pool_that_a_machine_becomes_but_for_the_labels_of_its_time() -> None:
    machine, claim = agent_pool(a_machine(), cluster="prod", now=NOON)["properties"], of_claim()
    assert {k: v for k, v in claim.items() if k != "nodeLabels"} == {
        k: v for k, v in machine.items() if k != "nodeLabels"
    }
    assert claim["nodeLabels"] == {
        "kaito.sh/creation-timestamp": "2026-01-02T03-04-05Z",
        "kaito.sh/machine-type": "gpu",
        "kaito.sh/workspace": "w",
        "kaito.sh/workspacenamespace": "ns",
        "karpenter.sh/nodepool": "kaito",
    }


def test_the_machine_type_follows_the_size_where_nobody_says() -> None:
    size = requirement("node.kubernetes.io/instance-type", "Standard_D2s_v5")
    claim = a_claim()
    claim["spec"]["requirements"] = [size]
    labels = agent_pool(claim, cluster="prod", now=NOON)["properties"]["nodeLabels"]
    assert labels["kaito.sh/machine-type"] == "cpu"


@pytest.mark.parametrize(
    ("family", "sku"),
    [("azurelinux", "AzureLinux"), ("AzureLinux", "AzureLinux"), ("ubuntu", "Ubuntu"), ("x", "Ubuntu")],
)
def test_the_os_is_by_annotation(family: str, sku: str) -> None:
    assert of_claim(annotations={"kaito.sh/node-image-family": family})["osSKU"] == sku


SPOT = requirement("karpenter.sh/capacity-type", "spot")


def test_spot_is_asked_for_by_naming_nothing_else() -> None:
    spot = of_claim(requirements=[SPOT])
    wanted = {"scaleSetPriority": "Spot", "scaleSetEvictionPolicy": "Delete", "spotMaxPrice": -1.0}
    assert wanted.items() <= spot.items()
    either = requirement("karpenter.sh/capacity-type", "spot", "on-demand")
    assert "scaleSetPriority" not in of_claim(requirements=[either])
    assert "scaleSetPriority" not in of_claim()


def test_the_price_of_spot_may_be_bounded() -> None:
    assert of_claim(requirements=[SPOT], annotations={"kaito.sh/spot-max-price": "0.98765"})["spotMaxPrice"] == 0.98765
    with pytest.raises(NotMappable, match=r"write dollars an hour such as 0\.75"):
        of_claim(requirements=[SPOT], annotations={"kaito.sh/spot-max-price": "cheap"})


def test_zones_are_those_asked_for_and_else_left_to_azure() -> None:
    asked = requirement("topology.kubernetes.io/zone", "eastus-2", "eastus-1")
    assert of_claim(requirements=[asked])["availabilityZones"] == ["1", "2"]
    assert "availabilityZones" not in of_claim()
