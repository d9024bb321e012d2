"""``kaito chat NAME [PROMPT]``: a question or a conversation, through the API server: no address need be reachable."""

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kaito_cli.connection import Complaint, Kubeconfig, Namespace, on_cluster

if TYPE_CHECKING:
    from kaito_operator.kube.client import Kube

LONGEST_ANSWER = 1024
"""Tokens of prompt and answer together."""
PATIENCE = 300.0
"""Seconds for one answer."""


def mount(kaito: typer.Typer) -> None:
    """Adds ``chat`` to the command line."""
    kaito.command("chat")(chat)


def chat(
    name: Annotated[str, typer.Argument(help="The Workspace.")],
    prompt: Annotated[str | None, typer.Argument(help="What to ask; without it, a conversation.")] = None,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Talk to the model of a Workspace."""

    async def work(kube: "Kube") -> None:
        await _must_be_ready(kube, namespace=namespace, name=name)
        for question in [prompt] if prompt is not None else _questions():
            answer = await ask(kube, question, namespace=namespace, name=name)
            typer.echo(answer)

    with contextlib.suppress(KeyboardInterrupt):
        on_cluster(work, kubeconfig=kubeconfig)


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
