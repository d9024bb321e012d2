"""The OpenAI API over HTTP: models, completions whole or as server-sent events, tokens of a text, the version."""

import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from inference_server import errors, limits, openai
from inference_server.description import body
from inference_server.engines.engine import ServedModel
from inference_server.errors import BadRequest, ClientGone, Refusal
from inference_server.limits import read_json
from inference_server.openai import Asked
from inference_server.openai_replies import CHAT, COMPLETION, Kind, Reply
from inference_server.openai_schemas import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from inference_server.schemas import parse
from inference_server.server import Server, merged

VERSION = "0.1.0"
BODIES = (ChatCompletionRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest)
Body = TypeVar("Body", bound=BaseModel)


class Completion(Response):
    """An answer, made while it is sent: its place is held from here to the last byte, whatever happens."""

    def __init__(
        self, server: Server, request: Request, prepare: Callable[[bytes, ServedModel], Asked], kind: Kind
    ) -> None:
        super().__init__()
        self._server, self._request, self._prepare, self._kind = server, request, prepare, kind
        self._began = time.monotonic()

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises a Refusal as long as nothing is sent."""
        model = self._server.model()
        sent = await read_json(self._request, settings=self._server.settings)
        with self._server.admission.place():
            asked = await run_in_threadpool(self._prepare, sent, model)
            reply = Reply(asked, self._kind, model=model)
            if asked.stream:
                try:
                    await limits.while_wanted(self._request, self._stream(asked, reply, send))
                except ClientGone as gone:  # its status cannot be sent any more, nor read
                    self._server.metrics.requests.labels(gone.status).inc()
                    return
            else:
                await limits.while_wanted(self._request, self._collect(asked, reply))
                await JSONResponse(await run_in_threadpool(reply.whole))(scope, receive, send)
        self._server.answered(began=self._began)

    async def _collect(self, asked: Asked, reply: Reply) -> None:
        async with aclosing(self._chunks(asked, reply)) as chunks:
            async for _ in chunks:
                pass

    async def _chunks(self, asked: Asked, reply: Reply) -> AsyncGenerator[list[dict[str, Any]]]:
        """The chunks of each step, until every choice has its end."""
        streams = [self._until_stopped(asked, reply, number) for number in range(len(reply.choices))]
        async with aclosing(merged(streams)) as steps:
            async for number, step in steps:
                choice = reply.choices[number]
                if choice.finish is None:
                    yield reply.taken(choice, step)
                if all(each.finish is not None for each in reply.choices):
                    return  # without waiting for a step that nobody wants

    async def _until_stopped(self, asked: Asked, reply: Reply, number: int) -> AsyncGenerator[Any]:
        """A choice's steps; a stop string ends the generation."""
        async with aclosing(self._server.steps(asked.generations[number], began=self._began)) as steps:
            async for step in steps:
                yield step
                if reply.choices[number].finish is not None:
                    return

    async def _stream(self, asked: Asked, reply: Reply, send: Send) -> None:
        """Server-sent events. The head goes out with the first token, so that a refusal before it has its status."""
        started = False

        async def sent(*chunks: dict[str, Any] | str) -> None:
            body = "".join(
                f"data: {c if isinstance(c, str) else json.dumps(c, ensure_ascii=False)}\n\n" for c in chunks
            )
            await send({"type": "http.response.body", "body": body.encode("utf-8", "replace"), "more_body": True})

        try:
            async with aclosing(self._chunks(asked, reply)) as steps:
                async for chunks in steps:
                    opening = [] if started else reply.opening()
                    if not started:
                        await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
                    started = True
                    if opening or chunks:
                        await sent(*opening, *chunks)
            await sent(*reply.closing(), "[DONE]")
        except Refusal as refusal:
            if not started:
                raise
            _, content = errors.envelope(refusal)
            await sent(content, "[DONE]")
        await send({"type": "http.response.body", "body": b"", "more_body": False})


EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the events otherwise
]


def routes(server: Server) -> APIRouter:
    """The routes over this server."""
    router = APIRouter()

    @router.post("/v1/chat/completions", openapi_extra=body(ChatCompletionRequest))
    async def chat(request: Request) -> Response:
        """A conversation gets its reply."""
        return Completion(server, request, _turn, CHAT)

    @router.post("/v1/completions", openapi_extra=body(CompletionRequest))
    async def completion(request: Request) -> Response:
        """A prompt, or several, go on."""
        return Completion(server, request, _text, COMPLETION)

    _add_tokens(router, server)
    _add_models(router, server)
    return router


def _turn(sent: bytes, model: ServedModel) -> Asked:
    return openai.chat(parse(sent, as_a=ChatCompletionRequest), model=model)


def _text(sent: bytes, model: ServedModel) -> Asked:
    return openai.completion(parse(sent, as_a=CompletionRequest), model=model)


def _add_tokens(router: APIRouter, server: Server) -> None:
    async def read(request: Request, as_a: type[Body]) -> Body:
        server.model()
        return await run_in_threadpool(parse, await read_json(request, settings=server.settings), as_a=as_a)

    @router.post("/tokenize", openapi_extra=body(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        """The token ids of a prompt or of messages."""
        asked = await read(request, TokenizeRequest)
        model = server.model()
        openai.named(asked.model, model=model)
        if (asked.prompt is None) == (asked.messages is None):
            raise BadRequest("send either prompt or messages", param="prompt")
        if asked.messages is not None:
            ids = await run_in_threadpool(
                openai.conversation, asked.messages, model=model, variables=asked.chat_template_kwargs or {}
            )
        else:
            ids = await run_in_threadpool(model.tokenizer.encode, asked.prompt or "")
        return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": model.context_length})

    @router.post("/detokenize", openapi_extra=body(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        """The text of token ids."""
        asked = await read(request, DetokenizeRequest)
        model = server.model()
        openai.named(asked.model, model=model)
        ids = openai.check_ids(asked.tokens, model=model, param="tokens")
        return JSONResponse({"prompt": await run_in_threadpool(model.tokenizer.decode, ids)})


def _add_models(router: APIRouter, server: Server) -> None:
    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The base model, then its adapters; and what is not served, with the reason."""
        model = server.model()
        served = [_model(model, name) for name in dict.fromkeys((model.name, *model.adapters))]
        return {"object": "list", "data": served, "refused_adapters": dict(model.refused_adapters)}

    @router.get("/v1/models/{name:path}")
    async def one(name: str) -> dict[str, Any]:
        """One of them."""
        model = server.model()
        return _model(model, openai.named(name, model=model) or model.name)

    @router.get("/version")
    async def version() -> dict[str, str]:
        """The server's version."""
        return {"version": VERSION}


def _model(model: ServedModel, name: str) -> dict[str, Any]:
    parent = model.name if name in model.adapters else None
    return {"id": name, "object": "model", "created": 0, "owned_by": "kaito", "root": model.name, "parent": parent,
            "max_model_len": model.context_length}  # fmt: skip
