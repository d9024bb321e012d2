"""The official clients of the OpenAI API, sync and async, so that one test runs through both."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import openai

KINDS = ("sync", "async")


class _Awaited:
    """An AsyncOpenAI client, or a part of one, whose calls are awaited and whose streams are read to their end."""

    def __init__(self, part: Any, *, run: Callable[[Any], Any]) -> None:
        self._part, self._run = part, run

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if inspect.ismethod(found):
            return lambda *given, **named: self._run(_result(found(*given, **named)))
        is_part = type(found).__module__.startswith("openai.resources")
        return _Awaited(found, run=self._run) if is_part else found


async def _result(called: Any) -> Any:
    result = await called
    return iter([each async for each in result]) if isinstance(result, openai.AsyncStream) else result


@contextmanager
def client_of_kind(kind: str, url: str) -> Iterator[openai.OpenAI]:
    """A client of the server under this URL, with the interface of the sync one."""
    if kind == "sync":
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=300) as client:
            yield client
        return
    with asyncio.Runner() as runner:
        made = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=300)
        try:
            yield cast(openai.OpenAI, _Awaited(made, run=runner.run))
        finally:
            runner.run(made.close())
