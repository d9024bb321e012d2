"""``kaito demo``: a cluster, a Workspace, an answer, and what to try next. Every step shown is read off the objects."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer
import yaml
from rich.console import Console

from kaito_cli.connection import Complaint, local_cluster_meant, on_cluster

if TYPE_CHECKING:
    from kaito_cli.overview import Seen
    from kaito_operator.kube.client import Kube

EXAMPLE = Path(__file__).parent.parent / "examples/01-chat-on-cpu/workspace.yaml"
QUESTION = "What is the capital of France?"
PATIENCE = 300.0
"""Seconds from the Workspace to its answer, after which something is wrong."""
BETWEEN_LOOKS = 0.25


def mount(kaito: typer.Typer) -> None:
    """Adds ``demo`` to the command line."""
    kaito.command("demo")(demo)


def demo() -> None:
    """Start a cluster on this machine and turn a 12-line Workspace into a model that answers."""
    from local_cluster import cluster

    console, started = Console(highlight=False), time.monotonic()

    def say(text: str) -> None:
        console.print(f"[green]✓[/] {text:<64} {time.monotonic() - started:6.1f} s")

    local = local_cluster_meant()
    if cluster.is_up(local):
        say("the cluster is up already")
    else:
        _start(local, cluster.up, console, say)
    kubeconfig = cluster.status(local).kubeconfig
    name, address, answer = on_cluster(lambda kube: _question(kube, say), kubeconfig=kubeconfig)
    console.print(f"\n  [bold]you[/]    {QUESTION}\n  [bold]model[/]  {answer}\n")
    console.print(_next(name, kubeconfig, address), markup=False, soft_wrap=True)


def _start(local: str, up: Callable[..., object], console: Console, say: Callable[[str], None]) -> None:
    from local_cluster.state import Outcome, Progress

    with console.status("starting the cluster") as spinner:

        def show(progress: Progress) -> None:
            if progress.outcome in (Outcome.DONE, Outcome.UP):
                say(progress.text)
            elif progress.outcome is Outcome.NOTED:
                console.print(f"[yellow]![/] {progress.text}")
            else:
                spinner.update(progress.text)

        up(local, bare=False, show=show)


async def _question(kube: "Kube", say: Callable[[str], None]) -> tuple[str, str, str]:
    """Applies the example, follows it to ready, asks. The Workspace's name, its address, and the answer."""
    from kaito_cli.chat import ask

    manifest = yaml.safe_load(EXAMPLE.read_text())
    manifest["metadata"].setdefault("namespace", "default")
    name, namespace = manifest["metadata"]["name"], manifest["metadata"]["namespace"]
    await kube.apply(manifest)
    say(f"Workspace {name} applied ({EXAMPLE.relative_to(EXAMPLE.parent.parent.parent)})")
    seen = await _followed(kube, say, namespace=namespace, name=name)
    answer = await ask(kube, QUESTION, namespace=namespace, name=name)
    say("answered")
    address: str = (seen.service or {}).get("spec", {}).get("clusterIP", "")
    return name, address, answer


async def _followed(kube: "Kube", say: Callable[[str], None], *, namespace: str, name: str) -> "Seen":
    """Says each milestone once, when it is reached, until the Workspace is ready."""
    from kaito_cli.look import look
    from kaito_cli.overview import overview

    said: set[str] = set()
    deadline = time.monotonic() + PATIENCE
    while True:
        seen = await look(kube, namespace=namespace, name=name)
        found = overview(seen)
        for milestone in milestones(seen, ready=found.ready):
            if milestone not in said:
                said.add(milestone)
                say(milestone)
        if found.ready:
            return seen
        if time.monotonic() > deadline:
            raise Complaint(f"{name} is not ready after {PATIENCE:.0f} s: {found.waits_for}; see kaito status {name}")
        await asyncio.sleep(BETWEEN_LOOKS)


def milestones(seen: "Seen", *, ready: bool) -> list[str]:
    """What is reached, in order, told by the objects themselves."""
    from kaito_operator.api.conditions import by_type

    reached = []
    for machine in seen.machines:
        name, status = machine["metadata"]["name"], machine.get("status", {})
        conditions = by_type(status.get("conditions", []))
        reached.append(f"Machine {name} asked for")
        launched = conditions.get("MachineLaunched", {})
        if launched.get("status") == "True" or launched.get("reason") == "Creating":
            reached.append(f"agent pool {name} Creating")
        if status.get("nodeName"):
            reached.append(f"node {status['nodeName']} joined")
    running = [p["metadata"]["name"] for p in seen.pods if p.get("status", {}).get("phase") == "Running"]
    reached += [f"pod {name} loads the model" for name in running[:1]]
    return [*reached, *(["ready"] if ready else [])]


def _next(name: str, kubeconfig: str, address: str) -> str:
    inside = ".venv/bin/kaito local run --"
    return f"""Try next:
  .venv/bin/kaito status {name}
  .venv/bin/kaito chat {name}
  {inside} kubectl get workspace,machines,nodes,pods
  {inside} curl -s http://{address}/chat -H content-type:application/json -d '{{"prompt": "Hi!"}}'
  {inside} kubectl delete workspace {name}   # Machine, agent pool and node go with it
  export KUBECONFIG={kubeconfig}   # for a kubectl of your own
  make down   # stops the cluster; nothing stays behind"""
