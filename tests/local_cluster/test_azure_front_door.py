"""Before any request reaches AKS: tokens, buckets, faults, and the history, of Azure's stand-in over HTTP."""

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from local_cluster.azure import AzureStandIn
from local_cluster.azure_behaviour import AUDIENCES, BUCKETS
from local_cluster.azure_throttle import Buckets
from tests.support.azure import ANY_TOKEN, POOLS, SUBSCRIPTION, Azure, running

VERSION = {"api-version": "2026-08-01"}
WANTED = {"properties": {"count": 1, "vmSize": "Standard_NC12s_v3"}}
AN_HOUR = 3600


@pytest.fixture
async def azure() -> AsyncIterator[Azure]:
    async with running(AzureStandIn(boot_seconds=0)) as serving:
        yield serving


def a_token(**claims: Any) -> str:
    """A JWT as Entra ID writes it, but for its signature."""
    parts = ({"alg": "RS256", "typ": "JWT"}, {"aud": AUDIENCES[0], "exp": time.time() + AN_HOUR, **claims})
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts), "x"])


async def asked(azure: Azure, method: str = "GET", name: str = "", **more: Any) -> tuple[int, Any]:
    return await azure.ask(method, f"{POOLS}{name}", **{"params": VERSION, "headers": ANY_TOKEN, **more})


async def with_token(azure: Azure, token: str) -> tuple[int, str, str]:
    """Status, code and message for a LIST with this token."""
    status, told = await asked(azure, headers={"Authorization": f"Bearer {token}"})
    error = told.get("error", {})
    return status, error.get("code", ""), error.get("message", "")


async def test_a_token_must_be_in_force_and_for_this_audience_once_that_is_checked(azure: Azure) -> None:
    assert (await with_token(azure, "whatever"))[0] == 200
    await azure.set(tokens_checked=True)

    assert (await with_token(azure, a_token()))[0] == 200
    status, code, message = await with_token(azure, a_token(exp=1767366245))
    assert (status, code) == (401, "ExpiredAuthenticationToken")
    assert message.startswith(
        "The access token expiry UTC time '1/2/2026 3:04:05 PM' is earlier than current UTC time '"
    )
    status, code, message = await with_token(azure, a_token(aud="https://vault.azure.net"))
    assert (status, code) == (401, "InvalidAuthenticationTokenAudience")
    assert message.startswith(
        "The access token has been obtained for wrong audience or resource 'https://vault.azure.net'. It should exactly"
    )
    for no_token in ("whatever", "a.b.c", a_token(exp="soon")):
        assert (await with_token(azure, no_token))[:2] == (401, "InvalidAuthenticationToken")


async def test_the_history_says_who_called_what_came_back_and_what_had_been_done(azure: Azure) -> None:
    await azure.fault(request="put", reset=True, after_commit=True, times=2)
    headers = {"Authorization": f"Bearer {a_token(oid='object-7')}", "User-Agent": "somebody/1"}
    with pytest.raises(aiohttp.ClientError):
        await asked(azure, "PUT", "/ws1", json=WANTED, headers=headers)
    await asked(azure, "GET", "/ws2")
    lost, *again, missed = azure.stand_in.history
    assert (lost["caller"], lost["identity"], lost["class"], lost["fault"]) == (
        "somebody/1",
        "object-7",
        "put",
        "reset",
    )
    assert (lost["status"], lost["carried_out"], lost["answer"]) == (0, 201, "")
    assert json.loads(lost["body"]) == WANTED
    assert [call["carried_out"] for call in again] == [200]  # aiohttp repeats once what was cut off
    assert (missed["status"], missed["carried_out"], "Agent Pool not found" in missed["answer"]) == (404, 404, True)
    assert time.time() - AN_HOUR < lost["time"] <= missed["time"]


@pytest.mark.faults
async def test_a_truncated_answer_breaks_off_after_the_request_was_carried_out(azure: Azure) -> None:
    await azure.fault(request="put", truncated=True, times=1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await asked(azure, "PUT", "/ws1", json=WANTED)
    assert list(azure.stand_in.pools.by_name) == ["ws1"]
    (call,) = azure.stand_in.history
    assert (call["status"], call["carried_out"], call["fault"]) == (0, 201, "truncated")


@pytest.mark.faults
async def test_a_delay_only_delays(azure: Azure) -> None:
    await azure.fault(request="put", delay=0.01, times=1)
    assert (await asked(azure, "PUT", "/ws1", json=WANTED))[0] == 201
    assert azure.stand_in.history[0]["fault"] == "delay"


@pytest.mark.faults
async def test_a_fault_strikes_its_class_of_request_alone(azure: Azure) -> None:
    await azure.fault(request="list", status=503)
    assert ((await asked(azure))[0], (await asked(azure, name="/ws1"))[0]) == (503, 404)
    _, active = await azure.ask("GET", "/control/faults")
    assert [(fault["request"], fault["status"]) for fault in active] == [("list", 503)]


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"request": "patch"}, "request: Input should be 'list'"),
        ({"colour": "red"}, "colour: Extra inputs"),
        ({"status": 20}, "status: Input should be greater"),
        ({"path": "("}, "path: Value error, is no regular expression"),
        ([], "the body: Input should be"),
    ],
)
async def test_what_is_no_fault_is_refused_in_one_line(azure: Azure, fault: Any, says: str) -> None:
    async with (
        aiohttp.ClientSession(azure.url) as session,
        session.post("/control/faults", json=fault) as answer,
    ):
        told = await answer.text()
    assert (answer.status, told.count("\n")) == (400, 0)
    assert says in told


def draws(name: str, scope: str, count: int, *, buckets: Buckets, now: float) -> list[int]:
    return [buckets.draw(name, scope, BUCKETS, now=now) for _ in range(count)]


def test_the_buckets_are_as_large_and_fill_as_fast_as_documented() -> None:
    buckets = Buckets()
    assert draws("put-agent-pool", "ws1", 21, buckets=buckets, now=0) == [0] * 20 + [60]
    assert draws("put-agent-pool", "ws2", 1, buckets=buckets, now=0) == [0]
    assert draws("put-agent-pool", "ws1", 1, buckets=buckets, now=45) == [15]
    assert draws("put-agent-pool", "ws1", 2, buckets=buckets, now=60) == [0, 60]
    assert draws("other", "s", 61, buckets=buckets, now=0) == [0] * 60 + [1]
    assert draws("operation-status", "s", 201, buckets=buckets, now=0)[-2:] == [0, 1]
    assert draws("writes", "s", 201, buckets=buckets, now=0)[-2:] == [0, 1]
    assert draws("other", "s", 61, buckets=buckets, now=AN_HOUR)[-2:] == [0, 1]  # no fuller than full


async def test_an_empty_bucket_is_429_in_the_words_of_aks_until_it_fills(azure: Azure) -> None:
    async with aiohttp.ClientSession(azure.url, headers=ANY_TOKEN) as session:
        statuses = []
        for _ in range(62):
            async with session.get(POOLS, params=VERSION) as answer:
                statuses.append(answer.status)
                if answer.status == 429:
                    told = (await answer.json())["error"]
                    break
    assert statuses[:60] == [200] * 60
    assert (statuses[-1], told["code"], answer.headers["Retry-After"]) == (429, "Throttled", "1")
    assert told["message"].startswith(
        f"The ListAgentPoolsHandler.GET request limit has been exceeded for SubID='{SUBSCRIPTION}', please retry again"
    )
    assert int(answer.headers["x-ms-ratelimit-remaining-subscription-reads"]) > 100  # so it was not the front door

    await azure.set(throttled=False)
    assert (await asked(azure))[0] == 200


async def test_the_front_door_has_buckets_of_its_own(azure: Azure) -> None:
    sizes = {name: size.model_dump() for name, size in BUCKETS.items()}
    await azure.set(buckets={**sizes, "reads": {"burst": 1, "per_second": 0.01}})
    assert [(await asked(azure))[0] for _ in range(2)] == [200, 429]
    assert json.loads(azure.stand_in.history[-1]["answer"])["error"]["code"] == "SubscriptionRequestsThrottled"


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"boot_seconds": -1}, "boot_seconds: Input should be greater than or equal to 0"),
        ({"bootSeconds": 1}, "bootSeconds: Extra inputs"),
        ([], "the body must be an object of settings"),
    ],
)
async def test_settings_that_are_none_change_nothing(azure: Azure, told: Any, says: str) -> None:
    _, before = await azure.ask("GET", "/control/settings")
    async with (
        aiohttp.ClientSession(azure.url) as session,
        session.put("/control/settings", json=told) as answer,
    ):
        assert (answer.status, says in await answer.text()) == (400, True)
    assert (await azure.ask("GET", "/control/settings"))[1] == before
