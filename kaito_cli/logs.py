"""``kaito logs NAME``: what the pods of a Workspace write, or wrote before they ended."""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlencode

import typer

from kaito_cli.connection import Complaint, Context, Kubeconfig, Namespace, meant, on_cluster

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kaito_cli.requests import Requests
    from kaito_operator.kube.client import Kube
    from kaito_operator.plan import Manifest


def mount(kaito: typer.Typer) -> None:
    """Adds ``logs`` to the command line."""
    kaito.command("logs")(logs)


def logs(
    name: Annotated[str, typer.Argument(help="The Workspace.")],
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    tail: Annotated[int | None, typer.Option(help="Only the last lines of each container.", min=1)] = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="Of containers before their restart.")] = False,
) -> None:
    """Show what the pods of a Workspace write; where there are several containers, each line says whose it is."""
    space = meant(namespace, kubeconfig=kubeconfig, context=context)

    async def work(kube: "Kube") -> None:
        from kaito_cli.requests import requests

        wanted = containers(await _pods(kube, namespace=space, name=name), previous=previous)
        if not wanted:
            what = "no container was restarted" if previous else "no container has started yet"
            raise Complaint(f"{what}; see kaito status {name}")
        asked = {"follow": "true"} if follow else {}
        asked |= {"tailLines": str(tail)} if tail else {}
        asked |= {"previous": "true"} if previous else {}
        async with requests(kube) as api:
            if follow:
                await asyncio.gather(*(_copied(api, space, w, asked, named=len(wanted) > 1) for w in wanted))
                return
            for who in wanted:
                await _copied(api, space, who, asked, named=len(wanted) > 1)

    with contextlib.suppress(KeyboardInterrupt):
        on_cluster(work, kubeconfig=kubeconfig, context=context)


def containers(pods: "Iterable[Manifest]", *, previous: bool) -> list[tuple[str, str]]:
    """Pod and container of everything that has written something, the older pods first, in the order of their start."""
    found: list[tuple[str, str]] = []
    for pod in sorted(pods, key=lambda p: (p["metadata"]["creationTimestamp"], p["metadata"]["name"])):
        status = pod.get("status", {})
        for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
            state = container.get("state", {})
            began = "running" in state or "terminated" in state
            if container.get("restartCount", 0) > 0 if previous else began or container.get("restartCount", 0) > 0:
                found.append((pod["metadata"]["name"], container["name"]))
    return found


async def _pods(kube: "Kube", *, namespace: str, name: str) -> "list[Manifest]":
    from kaito_cli.look import look

    seen = await look(kube, namespace=namespace, name=name)
    if not seen.pods:
        raise Complaint(f"{name} has no pods yet; see kaito status {name}")
    return list(seen.pods)


async def _copied(api: "Requests", namespace: str, who: tuple[str, str], asked: dict[str, str], *, named: bool) -> None:
    pod, container = who
    query = urlencode({"container": container, **asked})
    async for line in api.lines("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}/log?{query}"):
        typer.echo(f"{pod}/{container}: {line}" if named else line)
