"""Azure's errors, in the words Azure uses, and what each of them means."""

from typing import Any

import pytest

from kaito_operator.gpu_provisioner.errors import UNAVAILABLE, classified

QUOTA = (
    "Operation could not be completed as it results in exceeding approved standardNCADSA100v4Family Cores quota. "
    "Additional details - Current Limit: 0, Current Usage: 0, Additional Required: 24"
)
BUSY = "Operation is not allowed: Another agentpool operation (ws1 - Creating) is in progress, please wait"

TABLE: dict[str, tuple[int, dict[str, Any] | None, str, bool]] = {
    "family quota, synchronous": (409, {"code": "OperationNotAllowed", "message": QUOTA}, "QuotaExceeded", True),
    "family quota, wrapped by AKS": (
        400,
        {
            "code": "CreateVMSSAgentPoolFailed",
            "message": "x",
            "details": [{"code": "OperationNotAllowed", "message": QUOTA}],
        },
        "QuotaExceeded",
        True,
    ),
    "another operation": (409, {"code": "OperationNotAllowed", "message": BUSY}, "OperationInProgress", False),
    "family quota, as AKS checks it first": (
        400,
        {"code": "ErrCode_InsufficientVCPUQuota", "message": "Insufficient vcpu quota requested 24, remaining 0"},
        "QuotaExceeded",
        True,
    ),
    "no capacity, two wrappers deep": (
        400,
        {"code": "QuotaExceeded", "details": [{"code": "x", "details": [{"code": "AllocationFailed"}]}]},
        "AllocationFailed",
        True,
    ),
    "size not offered": (
        400,
        {"code": "SkuNotAvailable", "message": "not available in location"},
        "SkuNotAvailable",
        True,
    ),
    "size not supported by AKS": (400, {"code": "VMSizeNotSupported", "message": "x"}, "SkuNotAvailable", True),
    "size not for this subscription": (
        400,
        {
            "code": "BadRequest",
            "message": "The VM size of Standard_NC6 is not allowed in your subscription in location 'x'",
        },
        "SkuNotAvailable",
        True,
    ),
    "no capacity": (409, {"code": "AllocationFailed", "message": "x"}, "AllocationFailed", True),
    "no capacity in the zone": (409, {"code": "ZonalAllocationFailed", "message": "x"}, "AllocationFailed", True),
    "subnet full": (400, {"code": "InsufficientSubnetSize", "message": "x"}, "SubnetFull", True),
    "provider not registered": (
        409,
        {"code": "MissingSubscriptionRegistration", "message": "x"},
        "ProviderNotRegistered",
        True,
    ),
    "no role": (403, {"code": "AuthorizationFailed", "message": "x"}, "AuthorizationFailed", False),
    "no role, no body": (403, None, "AuthorizationFailed", False),
    "token expired": (401, {"code": "ExpiredAuthenticationToken", "message": "x"}, "AuthorizationFailed", False),
    "no such cluster": (404, {"code": "ResourceNotFound", "message": "x"}, "ClusterNotFound", False),
    "no such resource group": (404, {"code": "ResourceGroupNotFound", "message": "x"}, "ClusterNotFound", False),
    "throttled": (429, {"code": "Throttled", "message": "x"}, "Throttled", False),
    "etag": (412, {"code": "PreconditionFailed", "message": "x"}, "Changed", False),
    "server error": (500, None, "CloudUnavailable", False),
    "no answer": (0, {"message": "timeout"}, "CloudUnavailable", False),
    "something new": (400, {"code": "BrandNew", "message": "x"}, "LaunchFailed", False),
}


@pytest.mark.parametrize("case", TABLE)
def test_an_error_is_classified_by_code_then_details_then_text(case: str) -> None:
    status, body, reason, terminal = TABLE[case]
    refusal = classified(status, body)
    assert (refusal.reason, refusal.terminal) == (reason, terminal)
    assert refusal.retry_after > 0


def test_kaito_finds_the_words_by_which_it_stops_asking() -> None:
    for code in ("QuotaExceeded", "SkuNotAvailable", "AllocationFailed"):
        assert classified(400, {"code": code, "message": "why"}).message.startswith(UNAVAILABLE)
    assert UNAVAILABLE == "all requested instance types were unavailable during launch"


def test_the_limit_and_the_usage_reach_the_user() -> None:
    assert "Current Limit: 0" in classified(409, {"code": "OperationNotAllowed", "message": QUOTA}).message


def test_each_message_says_what_to_do_where_somebody_can() -> None:
    says = {reason: classified(status, body).message for status, body, reason, _ in TABLE.values()}
    assert "ask Azure for more quota" in says["QuotaExceeded"]
    assert "another instanceType or region" in says["SkuNotAvailable"]
    assert "role Contributor" in classified(403, None).message
    assert "federated" in classified(401, None).message


def test_what_only_a_person_can_change_is_not_asked_again_sooner_because_a_server_says_so() -> None:
    quota = {"code": "OperationNotAllowed", "message": QUOTA}
    assert classified(409, quota, retry_after=1.0).retry_after == classified(409, quota).retry_after == 600.0


def test_retry_after_is_honoured_and_capped() -> None:
    assert classified(429, None, retry_after=7.0).retry_after == 7.0
    assert classified(429, None, retry_after=86400.0).retry_after == 3600.0


def test_a_whole_page_becomes_a_line() -> None:
    page = "<html>\n  <body>Bad   gateway" + "x" * 100_000
    message = classified(502, {"message": page}).message
    assert message.startswith("<html> <body>Bad gatewayx")
    assert len(message) == 1000


def test_an_error_without_a_word_says_its_status() -> None:
    assert classified(500, None).message == classified(500, {"code": "", "details": [{}]}).message == "HTTP 500"


AGENT_POOL = (
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerService/managedClusters/prod/agentPools/ws1"
)
SUBNET = "/subscriptions/s/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/v/subnets/aks"
DENIED = (
    "The client 'c' with object id 'o' does not have authorization to perform action "
    f"'Microsoft.ContainerService/managedClusters/agentPools/write' over scope '{AGENT_POOL}' or the scope is invalid."
)
LINKED = (
    "The client has permission to perform action 'Microsoft.ContainerService/managedClusters/agentPools/write' on "
    f"scope '{AGENT_POOL}'; however, it does not have permission to perform action(s) "
    f"'Microsoft.Network/virtualNetworks/subnets/join/action' on the linked scope(s) '{SUBNET}' (respectively)."
)


def test_a_missing_right_names_the_role_and_what_it_is_needed_on() -> None:
    cluster = AGENT_POOL.removesuffix("/agentPools/ws1")
    denied = classified(403, {"code": "AuthorizationFailed", "message": DENIED})
    assert denied.message == f"{DENIED} (the identity needs the role Contributor on {cluster})"
    linked = classified(403, {"code": "LinkedAuthorizationFailed", "message": LINKED})
    assert linked.message == f"{LINKED} (the identity needs the role Network Contributor on {SUBNET})"
    assert classified(403, None).message == "HTTP 403 (the identity needs the role Contributor on the cluster)"
