"""What Prometheus and the kubelet read."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from kaito_operator import logs
from kaito_operator.endpoints import endpoints
from kaito_operator.metrics import Metrics
from tests.support.ports import free_ports


def value(metrics: Metrics, metric: str, /, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(metric, labels)


def test_a_pass_is_counted_by_its_outcome_and_timed() -> None:
    metrics = Metrics("c")
    with metrics.reconcile():
        assert value(metrics, "controller_runtime_active_workers", controller="c") == 1
    with metrics.reconcile() as outcome:
        outcome("requeue_after")
    with pytest.raises(ZeroDivisionError), metrics.reconcile():
        raise ZeroDivisionError
    results = {
        result: value(metrics, "controller_runtime_reconcile_total", controller="c", result=result)
        for result in ("success", "requeue_after", "requeue", "error")
    }
    assert results == {"success": 1, "requeue_after": 1, "requeue": None, "error": 1}
    assert value(metrics, "controller_runtime_reconcile_errors_total", controller="c") == 1
    assert value(metrics, "controller_runtime_reconcile_time_seconds_count", controller="c") == 3
    assert value(metrics, "controller_runtime_active_workers", controller="c") == 0


def test_the_names_are_those_of_controller_runtime() -> None:
    metrics = Metrics("c", registry=CollectorRegistry())
    metrics.added()
    metrics.depth(3)
    metrics.retried()
    metrics.waited(0.2)
    metrics.worked(0.3)
    metrics.requested("PATCH", "machines", 200)
    metrics.leading(True)
    assert {
        "workqueue_adds_total": value(metrics, "workqueue_adds_total", name="c"),
        "workqueue_depth": value(metrics, "workqueue_depth", name="c"),
        "workqueue_retries_total": value(metrics, "workqueue_retries_total", name="c"),
        "workqueue_queue_duration_seconds": value(metrics, "workqueue_queue_duration_seconds_sum", name="c"),
        "workqueue_work_duration_seconds": value(metrics, "workqueue_work_duration_seconds_sum", name="c"),
        "rest_client_requests_total": value(
            metrics, "rest_client_requests_total", method="PATCH", resource="machines", code="200"
        ),
        "leader_election_master_status": value(metrics, "leader_election_master_status", name="c"),
    } == {
        "workqueue_adds_total": 1,
        "workqueue_depth": 3,
        "workqueue_retries_total": 1,
        "workqueue_queue_duration_seconds": 0.2,
        "workqueue_work_duration_seconds": 0.3,
        "rest_client_requests_total": 1,
        "leader_election_master_status": 1,
    }


async def test_probes_answer_what_is_wrong_and_metrics_are_elsewhere() -> None:
    metrics_port, health_port = free_ports(2)
    wrong: list[str] = []
    serving = endpoints(
        Metrics("c"),
        healthy=lambda: wrong[0] if wrong else None,
        ready=lambda: "not yet",
        metrics_port=metrics_port,
        health_port=health_port,
    )
    async with serving, aiohttp.ClientSession() as http:

        async def ask(port: int, path: str) -> tuple[int, str]:
            async with http.get(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status, await answer.text()

        assert await ask(health_port, "/healthz") == (200, "ok")
        assert await ask(health_port, "/readyz") == (503, "not yet")
        wrong.append("no resync for 900 s")
        assert await ask(health_port, "/healthz") == (503, "no resync for 900 s")
        status, text = await ask(metrics_port, "/metrics")
        assert status == 200
        assert 'leader_election_master_status{name="c"} 0.0' in text.splitlines()
        assert (await ask(metrics_port, "/healthz"))[0] == 404


@contextmanager
def logging_as(form: str) -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    chatty = {name: logging.getLogger(name).level for name in ("azure", "kubernetes", "aiohttp.access", "kopf")}
    logs.set_up(form=form, level="INFO")
    try:
        yield logging.getLogger("test")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        for name, its_level in chatty.items():
            logging.getLogger(name).setLevel(its_level)


def test_json_logs_are_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_as("json") as log:
        log.info('a "line" for %s\nand more', "ns/w")
        try:
            raise ZeroDivisionError("a bug")
        except ZeroDivisionError:
            log.exception("ns/w: unexpected error")
        log.debug("nobody reads this")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["level"], first["logger"], first["msg"]) == ("info", "test", 'a "line" for ns/w\nand more')
    assert "ZeroDivisionError: a bug" in second["error"]


def test_text_logs_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_as("text") as log:
        log.warning("half full")
    told = capsys.readouterr()
    assert told.err.endswith("WARNING test: half full\n")
    assert (told.out, sys.stdout.isatty()) == ("", False)
