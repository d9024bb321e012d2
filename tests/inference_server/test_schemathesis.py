"""The server against its own description: schemathesis makes requests of every kind that /openapi.json allows, and of
kinds that it does not, for every operation; no answer is a fault of the server.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error

from inference_server.app import create_app
from inference_server.settings import Settings
from tests.inference_server.test_openai_tools import FORMAT
from tests.support.scripted_engine import ScriptedEngine
from tests.support.serving import listening

pytestmark = pytest.mark.badinput
STATUSES = {200, 400, 404, 405, 408, 413, 415, 422}
EXAMPLES = {"/chat": 240, "/v1/chat/completions": 100, "/v1/completions": 160, "/tokenize": 700, "/detokenize": 860}
"""Requests for each operation; the others, which take no body, get twenty."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(create_app(ScriptedEngine(tools=FORMAT), Settings())) as url:
        yield url


def test_no_request_that_can_be_thought_of_is_a_fault(url: str, count_cases: Callable[[str, int], None]) -> None:
    described = schemathesis.openapi.from_url(f"{url}/openapi.json")
    seen: Counter[int] = Counter()
    session = requests.Session()
    for found in described.get_all_operations():
        operation = found.ok()  # type: ignore[union-attr]  # an operation that is described wrongly raises here
        most = EXAMPLES.get(operation.path)
        ask_many(operation, GenerationMode.POSITIVE, session, most=most // 2 if most else 20, seen=seen)
        if most:
            ask_many(operation, GenerationMode.NEGATIVE, session, most=most // 2, seen=seen)
    assert sum(seen.values()) >= 2000
    assert set(seen) <= STATUSES
    assert seen[200] >= 50
    count_cases("schemathesis", sum(seen.values()))


def ask_many(operation: Any, mode: GenerationMode, session: Any, *, most: int, seen: Counter[int]) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=most,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        reply = case.call(session=session, timeout=30)
        case.validate_response(reply, checks=[not_a_server_error])
        seen[reply.status_code] += 1

    ask()
