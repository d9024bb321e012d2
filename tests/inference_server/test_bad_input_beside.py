"""Whatever a client sends, on any endpoint: the right status in the right envelope, and others are answered as if it
had not been. Over the server's process with both engines, while long answers run in it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import replace
from io import BytesIO

import aiohttp
import pytest
from pydantic import BaseModel

from inference_server.openai_schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from inference_server.schemas import ChatRequest, GenerateKwargs
from tests.inference_server.test_app import metric
from tests.support import vllm
from tests.support.bad_input import (
    CHAT,
    GENERATE_KWARGS,
    OPENAI,
    VALID,
    Case,
    at_the_context,
    bodies,
    deep,
    grid,
    right_envelope,
)
from tests.support.running_answers import Answer, alone, running
from tests.support.serving import ServerProcess, serving
from tests.support.tiny_model import write_tiny_model
from tests.support.vllm import VLLM

pytestmark = [pytest.mark.badinput, pytest.mark.server]
CONTEXT = 512
MEGABYTE = 1 << 20
AT_ONCE = 4
HEAD = "POST {path} HTTP/1.1\r\nHost: server\r\nContent-Type: application/json\r\n"


def test_every_field_of_every_endpoint_has_its_row() -> None:
    schemas: dict[str, type[BaseModel]] = {
        "/v1/chat/completions": ChatCompletionRequest, "/v1/completions": CompletionRequest,
        "/tokenize": TokenizeRequest, "/detokenize": DetokenizeRequest,
    }  # fmt: skip
    assert {path: set(schema.model_fields) for path, schema in schemas.items()} == {
        path: set(fields) for path, fields in OPENAI.items()
    }
    assert set(ChatRequest.model_fields) == set(CHAT)
    assert set(GenerateKwargs.model_fields) == set(GENERATE_KWARGS)


@pytest.fixture(scope="module", params=["native", "transformers", VLLM])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("server")
    real = request.param == vllm.ENGINE
    model = write_tiny_model(directory / "model", hidden=vllm.WIDTH if real else 32, context=CONTEXT, tied=False)
    engine = vllm.FLAGS if real else (f"--engine={request.param}",)
    flags = (*engine, "--torch_dtype=float32", f"--max_body_bytes={2 * MEGABYTE}")
    with serving(model, *flags, "--body_seconds=1", log=directory / "log") as process:
        process.wait_until("/readyz")
        yield replace(process, engine=request.param)


@pytest.fixture(scope="module")
def answers(server: ServerProcess) -> list[Answer]:
    """Before anything else is asked."""

    async def asked() -> list[Answer]:
        async with aiohttp.ClientSession(server.url) as session:
            return await alone(session, number=2)

    return asyncio.run(asked())


@pytest.fixture
async def session(server: ServerProcess, answers: list[Answer]) -> AsyncIterator[aiohttp.ClientSession]:
    """While the answers run; afterwards nothing is held, and nothing was a fault."""
    async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(120)) as session:
        async with running(session, answers):
            yield session
        async with asyncio.timeout(120):
            while await held(session) != (0, 0):  # noqa: ASYNC110 - what is awaited has no event of its own
                await asyncio.sleep(0.05)
    assert "Traceback" not in server.log.read_text()


async def held(session: aiohttp.ClientSession) -> tuple[float, float]:
    async with session.get("/metrics") as reply:
        told = await reply.text()
    return metric(told, "kaito_inference_requests_inside"), metric(told, "kaito_inference_cache_blocks_used")


async def wrong(session: aiohttp.ClientSession, cases: Iterable[Case]) -> list[tuple[str, int, str]]:
    """The cases that got another reply than they must, some at once."""
    left, found = iter(cases), []

    async def some() -> None:
        for case in left:
            headers = {"Content-Type": case.content_type} if case.content_type else None
            skipped = () if case.content_type else ("Content-Type",)
            async with session.post(
                case.path, data=BytesIO(case.content), headers=headers, skip_auto_headers=skipped
            ) as reply:
                told = await reply.read()
            refused = reply.status != 200
            if reply.status not in case.statuses or (refused and not right_envelope(case.path, json.loads(told))):
                found.append((case.name, reply.status, told[:200].decode()))

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
    return found


async def test_no_value_of_any_parameter_is_more_than_a_4xx_or_changes_another_answer(
    session: aiohttp.ClientSession, server: ServerProcess, count_cases: Callable[[str, int], None]
) -> None:
    cases = list(grid(server.engine))
    assert await wrong(session, cases) == []
    count_cases("bad input beside running answers", len(cases))


async def test_no_body_or_prompt_is_more_than_a_4xx_or_changes_another_answer(
    session: aiohttp.ClientSession, count_cases: Callable[[str, int], None]
) -> None:
    cases = [*bodies(), *deep(), *at_the_context(CONTEXT)]
    assert await wrong(session, cases) == []
    count_cases("bad input beside running answers", len(cases))


async def test_no_connection_changes_another_answer(session: aiohttp.ClientSession, server: ServerProcess) -> None:
    host, port = server.url.removeprefix("http://").split(":")

    async def status(sent: bytes, *, more: bytes = b"") -> int:
        """Of what is sent and left so; 0 if the server hangs up without one."""
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        for _ in range(100 * MEGABYTE // 0x10000 if more else 0):
            writer.write(more)
            await writer.drain()
        line = (await reader.readline()).split()
        writer.close()
        return int(line[1]) if line else 0

    def all_of(rest: str) -> list[bytes]:
        return [f"{HEAD.format(path=path)}{rest}".encode() for path in VALID]

    half_open = [await asyncio.open_connection(host, int(port)) for _ in range(100)]
    for number, (_, writer) in enumerate(half_open):
        head = HEAD.format(path="/v1/completions").encode()
        writer.write(head[: number % len(head)] or b"P")
    slow = [status(each) for each in all_of('Content-Length: 100\r\n\r\n{"prompt"')]
    large = [status(each) for each in all_of(f"Content-Length: {100 * MEGABYTE}\r\n\r\n")]
    [chunked, *_] = all_of("Transfer-Encoding: chunked\r\n\r\n")
    endless = status(chunked, more=b"10000\r\n" + b" " * 0x10000 + b"\r\n")
    no_http = [status(each) for each in (b"\x00\xff" * 2000, b"POST /chat HTTP/1.1\r\nContent-Length: -1\r\n\r\n")]
    found = await asyncio.gather(*slow, *large, endless, *no_http, *(hung_up(session, after=n) for n in range(5)))
    assert found[:11] == [408] * 5 + [413] * 6
    assert set(found[11:13]) <= {400, 0}
    for _, writer in half_open:
        writer.close()


async def hung_up(session: aiohttp.ClientSession, *, after: int) -> int:
    """The status of a stream that nobody reads any more after so many of its lines."""
    body = {"prompt": "w1", "max_tokens": 400, "ignore_eos": True, "stream": True}
    async with session.post("/v1/completions", json=body) as reply:
        for _ in range(after):
            await reply.content.readline()
        reply.close()
    return reply.status
