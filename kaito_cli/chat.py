"""``kaito chat NAME [PROMPT]``: a question or a conversation, through the API server: no address need be reachable."""

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kaito_cli.connection import Complaint, Context, Kubeconfig, Namespace, meant, on_cluster

if TYPE_CHECKING:
    from kaito_cli.requests import Requests
    from kaito_operator.kube.client import Kube

LONGEST_ANSWER = 1024
"""Tokens of prompt and answer together."""
PATIENCE = 300.0
"""Seconds for one answer."""
Message = dict[str, str]


def mount(kaito: typer.Typer) -> None:
    """Adds ``chat`` to the command line."""
    kaito.command("chat")(chat)


def chat(
    name: Annotated[str, typer.Argument(help="The Workspace.")],
    prompt: Annotated[str | None, typer.Argument(help="What to ask; without it, a conversation.")] = None,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    model: Annotated[str | None, typer.Option(help="An adapter, or the base model; see GET /v1/models.")] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before the conversation.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="The longest answer, in tokens.", min=1)] = None,
    *,
    plain: Annotated[bool, typer.Option("--plain", help="By POST /chat: no history; for base models.")] = False,
) -> None:
    """Talk to the model of a Workspace. Answers appear as they are made, and the conversation is remembered."""
    if plain and (model or system or max_tokens):
        raise typer.BadParameter("--plain asks the default model and has no --model, --system and --max-tokens")
    space = meant(namespace, kubeconfig=kubeconfig, context=context)

    async def work(kube: "Kube") -> None:
        from kaito_cli.requests import requests

        await _must_be_ready(kube, namespace=space, name=name)
        history: list[Message] = [{"role": "system", "content": system}] if system else []
        async with requests(kube) as api:
            for question in [prompt] if prompt is not None else _questions():
                if plain:
                    typer.echo(await ask(kube, question, namespace=space, name=name))
                    continue
                history.append({"role": "user", "content": question})
                at = f"/api/v1/namespaces/{space}/services/{name}:80/proxy/v1/chat/completions"
                answer = await stream(api, at, history, model=model, max_tokens=max_tokens)
                history.append({"role": "assistant", "content": answer})

    with contextlib.suppress(KeyboardInterrupt):
        on_cluster(work, kubeconfig=kubeconfig, context=context)


async def stream(
    api: "Requests", path: str, history: list[Message], *, model: str | None, max_tokens: int | None
) -> str:
    """The answer to a conversation, shown as it comes. Raises Complaint with what the server says."""
    from kaito_cli.conversation import Refused, new_text, request, told
    from kaito_operator.kube.errors import KubeError, NotFound

    answer: list[str] = []
    try:
        async for line in api.lines("POST", path, request(history, model=model, most_tokens=max_tokens)):
            text = new_text(line)
            answer.append(text)
            sys.stdout.write(text)
            sys.stdout.flush()
    except KubeError as refused:
        message = told(refused.message)
        no_api = isinstance(refused, NotFound) and "is not served here" not in message  # as KAITO's own images
        no_chat = "chat template" in message or no_api
        advice = "; try --plain" if no_chat else ""
        raise Complaint(f"no answer: {message}{advice}") from refused
    except Refused as refused:
        raise Complaint(f"the answer broke off: {refused}") from refused
    typer.echo()
    return "".join(answer)


async def ask(kube: "Kube", question: str, *, namespace: str, name: str) -> str:
    """POST /chat on the Workspace's Service; the new text. Raises Complaint with what the server says."""
    from kaito_operator.api.kinds import SERVICE
    from kaito_operator.kube.errors import KubeError
    from kaito_operator.plan import Ref

    body: dict[str, Any] = {
        "prompt": question,
        "return_full_text": False,
        "generate_kwargs": {"max_length": LONGEST_ANSWER, "do_sample": False},
    }
    service = Ref(SERVICE.api_version, SERVICE.kind, name, namespace)
    try:
        answer = await kube.proxy(service, port=80, path="/chat", body=body, timeout=PATIENCE)
    except KubeError as refused:
        raise Complaint(f"{name} did not answer: {refused.message}") from refused
    return str(answer["Result"]).strip()


async def _must_be_ready(kube: "Kube", *, namespace: str, name: str) -> None:
    from kaito_cli.look import look
    from kaito_cli.overview import overview

    found = overview(await look(kube, namespace=namespace, name=name))
    if not found.ready:
        raise Complaint(f"{name} is not ready: {found.waits_for}; see kaito status {name}")


def _questions() -> "_Lines":
    return _Lines()


class _Lines:
    """What a person types, line by line, until Ctrl-D."""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        while True:
            if sys.stdin.isatty():
                sys.stdout.write("> ")
                sys.stdout.flush()
            line = sys.stdin.readline()
            if not line:
                raise StopIteration
            if line.strip():
                return line.strip()
