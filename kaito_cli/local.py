"""``kaito local``: a real Kubernetes with both operators on this machine, without Docker and without root."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from kaito_cli.formats import Format, printed
from local_cluster.state import ContainerRuntime

if TYPE_CHECKING:
    from local_cluster.cluster import Status
    from local_cluster.state import Progress

app = typer.Typer(help="A real Kubernetes on this machine, without Docker and without root.", no_args_is_help=True)

Name = Annotated[str, typer.Option("--name", envvar="KAITO_CLUSTER", help="Which cluster, if there are several.")]
DEFAULT_NAME = "local"


def mount(kaito: typer.Typer) -> None:
    """Adds ``local`` to the command line."""
    kaito.add_typer(app, name="local")


@app.command()
def up(
    name: Name = DEFAULT_NAME,
    *,
    bare: Annotated[bool, typer.Option("--bare", help="Without the operators.")] = False,
    runtime: Annotated[
        ContainerRuntime, typer.Option("--runtime", help="What containers are; containerd takes root and built images.")
    ] = ContainerRuntime.PROCESSES,
) -> None:
    """Start the cluster, or say that it is up already."""
    from local_cluster import cluster

    console = Console(highlight=False)
    try:
        with console.status("starting") as spinner:
            started = cluster.up(
                name, bare=bare, runtime=runtime, show=lambda progress: _show(progress, console, spinner.update)
            )
    except KeyboardInterrupt:
        console.print(f"still starting in the background; kaito local down --name {name} stops it")
        raise typer.Exit(1) from None
    if not started:
        console.print(f"cluster {name} is up already")
        return
    console.print(f"  kubeconfig  {cluster.status(name).kubeconfig}")
    console.print(f"  or inside   kaito local run{_naming(name)} -- kubectl get nodes")


@app.command()
def down(name: Name = DEFAULT_NAME) -> None:
    """Stop the cluster; no process, mount, address or file stays behind."""
    from local_cluster import cluster

    existed = cluster.down(name)
    Console(highlight=False).print(f"cluster {name} is {'down' if existed else 'not there; nothing to do'}")


@app.command()
def status(
    name: Name = DEFAULT_NAME,
    output: Annotated[Format, typer.Option("--output", "-o", help="How to print it.")] = Format.TEXT,
) -> None:
    """Show nodes, processes, memory, addresses and the kubeconfig's path."""
    from local_cluster import cluster

    found = cluster.status(name)
    if output is not Format.TEXT:
        typer.echo(printed({**asdict(found), "rss_mb": found.rss_mb}, output))
    else:
        _print_status(found)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="What to run.")], name: Name = DEFAULT_NAME
) -> None:
    """Run a command in the cluster's network, with KUBECONFIG set and kubectl and helm on PATH."""
    from local_cluster import cluster

    argv, environment = cluster.inside(name, command)
    os.execvpe(argv[0], argv, environment)  # noqa: S606 - no shell is meant; the exit code is the command's own


@app.command()
def expose(
    service: Annotated[str, typer.Argument(help="NAME or NAMESPACE/NAME")],
    port: Annotated[int | None, typer.Argument(help="The port on 127.0.0.1.", min=1, max=65535)] = None,
    name: Name = DEFAULT_NAME,
) -> None:
    """Make a Service answer on a port of 127.0.0.1 until Ctrl-C."""
    import asyncio

    from local_cluster import cluster

    def tell(local: int) -> None:
        typer.echo(f"http://127.0.0.1:{local} is Service {service}; Ctrl-C ends it")

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(cluster.expose(name, service, port=port, ready=tell))


def _show(progress: "Progress", console: Console, update: Callable[[str], None]) -> None:
    """Steps that are done stay on the screen, the one under way turns."""
    from local_cluster.state import Outcome

    match progress.outcome:
        case Outcome.BEGUN:
            update(progress.text)
        case Outcome.NOTED:
            console.print(f"[yellow]![/] {progress.text}")
        case Outcome.DONE | Outcome.UP:
            console.print(f"[green]✓[/] {progress.text:<50} {progress.at:6.1f} s")
        case Outcome.FAILED:
            pass  # the error says it


def _print_status(found: "Status") -> None:
    from local_cluster import hub
    from local_cluster.registry import PASSWORD, SECRET, USER

    console = Console(highlight=False)
    console.print(f"cluster {found.name}: {'up' if found.up else found.step}; started {found.seconds:.0f} s ago")
    console.print(f"  kubeconfig  {found.kubeconfig}\n  server      {found.server}")
    console.print(f"  registry    {found.registry} as {USER}, password {PASSWORD}; Secret {SECRET} in default")
    console.print(f"  data        {found.data}/EXAMPLE/data/FILE")
    console.print(f"  hub         {found.hub} has {hub.PUBLIC}, and {hub.GATED} by the Secret {hub.SECRET}\n")
    nodes = Table("NODE", "READY", "ADDRESS", box=None)
    for node in found.nodes:
        nodes.add_row(node.name, str(node.ready), node.address)
    processes = Table("PROCESS", "PID", "RSS MB", box=None)
    for process in found.processes:
        processes.add_row(process.name, str(process.pid), str(process.rss_mb))
    processes.add_row("together", "", str(found.rss_mb))
    console.print(nodes, "", processes, sep="\n")


def _naming(name: str) -> str:
    return "" if name == DEFAULT_NAME else f" --name {name}"
