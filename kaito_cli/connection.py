"""How the commands reach a cluster: the kubeconfig that was asked for, the environment's, or the local cluster's."""

import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from kaito_cli.formats import Format

if TYPE_CHECKING:
    from kaito_operator.kube.client import Kube

Answer = TypeVar("Answer")

Namespace = Annotated[str, typer.Option("--namespace", "-n", help="The Workspace's namespace; else the context's.")]
Kubeconfig = Annotated[str | None, typer.Option("--kubeconfig", help="A kubeconfig file.")]
Context = Annotated[str | None, typer.Option("--context", help="A context of the kubeconfig.")]
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print it.")]
DEFAULT_NAMESPACE = "default"
LOCAL = "local"
"""The name of the local cluster that is meant when none is named."""


class Complaint(Exception):
    """One line for the user; exit code 1."""


@dataclass(frozen=True, slots=True)
class Place:
    """A kubeconfig, and a word on where it came from if nobody asked for it by name."""

    kubeconfig: str | None
    remark: str = ""


def local_cluster_meant() -> str:
    """The name of the local cluster, as `kaito local` has it."""
    return os.environ.get("KAITO_CLUSTER") or LOCAL


def place(asked: str | None, *, context: str | None = None) -> Place:
    """Which cluster is meant. A local one that runs is taken only where nothing else is named."""
    if asked is not None:
        if not Path(asked).exists():
            raise Complaint(f"there is no kubeconfig {asked}")
        return Place(asked)
    if os.environ.get("KUBECONFIG") or context is not None:
        return Place(None)
    from local_cluster import cluster
    from local_cluster.state import ClusterDirectory

    local = local_cluster_meant()
    if cluster.is_up(local):
        return Place(str(ClusterDirectory.of(local).kubeconfig), f"(on the local cluster {local})")
    if (Path.home() / ".kube/config").exists():
        return Place(None)
    raise Complaint("no cluster: start one with `kaito local up`, or name a kubeconfig with --kubeconfig")


def meant(namespace: str, *, kubeconfig: str | None, context: str | None) -> str:
    """The namespace: the one asked for, else the context's, else default, as kubectl has it."""
    if namespace:
        return namespace
    try:
        found = place(kubeconfig, context=context)
    except Complaint:
        return DEFAULT_NAMESPACE  # there is no cluster, which whoever needs one says better
    usual = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube/config")
    configs = [_read(Path(file)) for file in (found.kubeconfig or usual).split(os.pathsep)]
    current = context or next((name for config in configs if (name := config.get("current-context"))), None)
    contexts = [each for config in configs for each in config.get("contexts") or () if each.get("name") == current]
    return (contexts[0].get("context") or {}).get("namespace") or DEFAULT_NAMESPACE if contexts else DEFAULT_NAMESPACE


def _read(file: Path) -> dict[str, Any]:
    """A kubeconfig; what cannot be read has nothing to say here, and is complained of when it is connected by."""
    import yaml

    try:
        found = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def on_cluster(
    work: Callable[["Kube"], Awaitable[Answer]], *, kubeconfig: str | None, context: str | None = None
) -> Answer:
    """Connects and works; what goes wrong is one line and exit code 1."""
    import asyncio  # with ssl behind it, which a command without a cluster needs not wait for

    try:
        found = place(kubeconfig, context=context)
        if found.remark:
            sys.stderr.write(f"{found.remark}\n")
        return asyncio.run(_connected(work, found.kubeconfig, context))
    except Complaint as complaint:
        sys.stderr.write(f"{complaint}\n")
        raise typer.Exit(1) from None


async def _connected(
    work: Callable[["Kube"], Awaitable[Answer]], kubeconfig: str | None, context: str | None
) -> Answer:
    from kaito_operator.kube.client import Kube
    from kaito_operator.kube.errors import KubeError

    try:
        kube = await Kube.connect(kubeconfig, field_manager="kaito-cli", context=context)
    except KubeError as wrong:
        raise Complaint(f"the kubeconfig cannot be used: {wrong.message}; name another with --kubeconfig") from wrong
    try:
        return await work(kube)
    except KubeError as refused:
        raise Complaint(f"the cluster says: {refused}") from refused
    finally:
        await kube.close()
