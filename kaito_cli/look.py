"""One look at a Workspace and everything behind it, in parallel requests."""

import asyncio

from kaito_cli.connection import Complaint
from kaito_cli.overview import Seen
from kaito_operator.api import labels
from kaito_operator.api.kinds import DEPLOYMENT, JOB, MACHINE, NODE, POD, SERVICE, STATEFUL_SET, WORKSPACE, Kind
from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import NotFound
from kaito_operator.plan import Manifest, Ref


async def look(kube: Kube, *, namespace: str, name: str) -> Seen:
    """What is there now. Raises Complaint if there is no such Workspace."""
    of_name = f"{labels.WORKSPACE}={name}"
    of_both = f"{of_name},{labels.WORKSPACE_NAMESPACE}={namespace}"
    workspace, service = await asyncio.gather(
        _get(kube, WORKSPACE, name, namespace), _get(kube, SERVICE, name, namespace)
    )
    if workspace is None:
        raise Complaint(f"there is no Workspace {name} in namespace {namespace}")
    machines, nodes, deployments, sets, jobs, pods = await asyncio.gather(
        _list(kube, MACHINE, of_both),
        _list(kube, NODE, of_both),
        _list(kube, DEPLOYMENT, of_name, namespace),
        _list(kube, STATEFUL_SET, of_name, namespace),
        _list(kube, JOB, of_name, namespace),
        _list(kube, POD, of_name, namespace),
    )
    return Seen(workspace, machines, nodes, (*deployments, *sets), pods, service, jobs)


async def _get(kube: Kube, kind: Kind, name: str, namespace: str) -> Manifest | None:
    try:
        return await kube.get(Ref(kind.api_version, kind.kind, name, namespace))
    except NotFound:
        return None


async def _list(kube: Kube, kind: Kind, selector: str, namespace: str = "") -> tuple[Manifest, ...]:
    """Empty also where the kind is not installed."""
    try:
        return tuple((await kube.list(kind, labels=selector, namespace=namespace)).items)
    except NotFound:
        return ()
