"""``kaito logs`` and ``kaito chat``: whose lines are shown, and answers streamed by the real inference server."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kaito_cli.chat import stream
from kaito_cli.connection import Complaint
from kaito_cli.conversation import Refused, new_text, request, told
from kaito_cli.logs import containers
from kaito_cli.requests import Requests
from tests.support.serving import serving
from tests.support.tiny_model import write_tiny_model

COMPLETIONS = "/v1/chat/completions"


def a_pod(name: str, created: str, **states: dict[str, Any]) -> dict[str, Any]:
    statuses = [{"name": container, "restartCount": 0, **said} for container, said in states.items()]
    return {"metadata": {"name": name, "creationTimestamp": created}, "status": {"containerStatuses": statuses}}


RUNS: dict[str, Any] = {"state": {"running": {}}}
WAITS = {"state": {"waiting": {"reason": "ImagePullBackOff"}}}
CRASHED = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 3}


def test_what_has_written_something_is_shown_in_the_order_of_its_start() -> None:
    job = a_pod("b", "2026-01-01T00:00:00Z", train=RUNS)
    job["status"]["initContainerStatuses"] = [{"name": "download", "state": {"terminated": {"exitCode": 0}}}]
    pods = [a_pod("a", "2026-01-01T01:00:00Z", inference=RUNS), job, a_pod("c", "2026-01-01T02:00:00Z", x=WAITS)]
    assert containers(pods, previous=False) == [("b", "download"), ("b", "train"), ("a", "inference")]


def test_a_container_that_crashes_is_shown_and_so_is_what_it_wrote_before() -> None:
    pods = [a_pod("a", "2026-01-01T00:00:00Z", inference=CRASHED, other=RUNS)]
    assert containers(pods, previous=False) == [("a", "inference"), ("a", "other")]
    assert containers(pods, previous=True) == [("a", "inference")]


def test_only_the_new_text_of_an_event_is_shown() -> None:
    assert new_text('data: {"choices": [{"delta": {"role": "assistant"}}]}') == ""
    assert new_text('data: {"choices": [{"delta": {"content": "Paris"}}]}') == "Paris"
    assert [new_text(line) for line in ("", ": keep-alive", "data: [DONE]", 'data: {"choices": []}')] == [""] * 4
    with pytest.raises(Refused, match="out of memory"):
        new_text('data: {"error": {"message": "out of memory"}}')
    with pytest.raises(Refused, match="cut off"):
        new_text('data: {"choices": [{"delta": {"cont')


def test_the_servers_own_words_are_told_whatever_their_form() -> None:
    assert told('{"error": {"message": "no such model"}}') == "no such model"
    assert told('{"detail": "the server is about to stop"}') == "the server is about to stop"
    assert told("bad gateway") == "bad gateway"


def test_a_model_is_named_only_where_it_was_asked_for() -> None:
    assert "model" not in request([], model=None, most_tokens=None)
    assert request([], model="style", most_tokens=5)["model"] == "style"


@pytest.mark.server
async def test_an_answer_is_shown_as_it_comes_and_the_conversation_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(write_tiny_model(tmp_path / "model"), log=tmp_path / "log") as server:
        server.wait_until("/readyz")
        async with aiohttp.ClientSession(server.url) as session:
            api = Requests(session)
            history = [{"role": "user", "content": " w1 w2"}]
            first = await stream(api, COMPLETIONS, history, model=None, max_tokens=4)
            assert capsys.readouterr().out == f"{first}\n"
            whole = await api.post(COMPLETIONS, {**request(history, model=None, most_tokens=4), "stream": False})
            assert first == whole["choices"][0]["message"]["content"]
            history += [{"role": "assistant", "content": first}, {"role": "user", "content": " w3"}]
            second = await stream(api, COMPLETIONS, history, model=None, max_tokens=4)
            whole = await api.post(COMPLETIONS, {**request(history, model=None, most_tokens=4), "stream": False})
            assert second == whole["choices"][0]["message"]["content"]
            with pytest.raises(Complaint, match=r"no answer: [^{]*nobody[^;]*; there is [^;]*$"):
                await stream(api, COMPLETIONS, history, model="nobody", max_tokens=4)
