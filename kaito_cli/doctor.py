"""``kaito doctor``: what of KAITO is installed, missing or wrong in a cluster, and what to do about it."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from kaito_cli.connection import Context, Kubeconfig, Namespace, Output, meant, on_cluster
from kaito_cli.formats import Format, printed

if TYPE_CHECKING:
    from kaito_cli.findings import Examined, Finding
    from kaito_cli.requests import Requests
    from kaito_operator.kube.client import Kube

SIGNS = {"ok": "✓", "missing": "-", "wrong": "✗"}
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


def mount(kaito: typer.Typer) -> None:
    """Adds ``doctor`` to the command line."""
    kaito.command("doctor")(doctor)


def doctor(
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    output: Output = Format.TEXT,
) -> None:
    """Say what is installed, missing or wrong, and what to do. Exit code 1 when something is wrong."""
    from kaito_cli.findings import findings

    space = meant(namespace, kubeconfig=kubeconfig, context=context)
    found = list(findings(on_cluster(lambda k: examine(k, space), kubeconfig=kubeconfig, context=context)))
    if output is Format.TEXT:
        typer.echo("\n".join(line(one) for one in found))
    else:
        typer.echo(printed([asdict(one) for one in found], output))
    raise typer.Exit(1 if any(one.harmful for one in found) else 0)


def line(finding: "Finding") -> str:
    """One finding as a person reads it."""
    told = f": {finding.told}" if finding.told else ""
    remedy = f" → {finding.remedy}" if finding.remedy else ""
    return f"{SIGNS[finding.verdict]} {finding.verdict:<8} {finding.what}{told}{remedy}"


async def examine(kube: "Kube", namespace: str) -> "Examined":
    """Looks at everything at once. What may not be read is named as such."""
    from kaito_cli.findings import MACHINES, NODECLAIMS, Examined
    from kaito_cli.requests import requests

    refused: list[str] = []
    async with requests(kube) as api:
        definitions, deployments, webhooks, nodes, denied = await asyncio.gather(
            _items(api, DEFINITIONS, refused),
            _items(api, "/apis/apps/v1/deployments", refused),
            _items(api, WEBHOOKS, refused),
            _items(api, "/api/v1/nodes", refused),
            _denied(api, namespace, refused),
        )
        crds = {crd["metadata"]["name"]: crd for crd in definitions}
        paths = {MACHINES: "/apis/karpenter.sh/v1alpha5/machines", NODECLAIMS: "/apis/karpenter.sh/v1/nodeclaims"}
        machines = [m for name, at in paths.items() if name in crds for m in await _items(api, at, refused)]
    return Examined(crds, deployments, webhooks, nodes, tuple(machines), denied, tuple(refused))


async def _items(api: "Requests", path: str, refused: list[str]) -> "tuple[dict[str, Any], ...]":
    from kaito_operator.kube.errors import Forbidden, NotFound

    try:
        return tuple((await api.get(path))["items"])
    except NotFound:
        return ()  # the kind is not served in this version
    except Forbidden:
        refused.append(path.rpartition("/")[2])
        return ()


async def _denied(api: "Requests", namespace: str, refused: list[str]) -> tuple[str, ...]:
    """What the commands need and the user may not do, where the user may ask that."""
    from kaito_cli.findings import NEEDED
    from kaito_operator.kube.errors import Forbidden

    wanted = [(group, resource, verb) for group, resource, verbs in NEEDED for verb in verbs]
    try:
        allowed = await asyncio.gather(*(_allowed(api, namespace, *right) for right in wanted))
    except Forbidden:
        refused.append(REVIEWS.rpartition("/")[2])
        return ()
    return tuple(f"{verb} {resource}" for (_, resource, verb), may in zip(wanted, allowed, strict=True) if not may)


async def _allowed(api: "Requests", namespace: str, group: str, resource: str, verb: str) -> bool:
    plural, _, subresource = resource.partition("/")
    attributes = {"namespace": namespace, "group": group, "resource": plural, "subresource": subresource, "verb": verb}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = await api.post(REVIEWS, body)
    return bool(answer["status"]["allowed"])
