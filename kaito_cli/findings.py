"""What ``kaito doctor`` makes of what it saw: each part ok, missing or wrong, and what to do about it. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kaito_cli.installed import OPERATOR, environment, runs_as
from kaito_operator.api.conditions import by_type
from kaito_operator.api.labels import GPU_RESOURCE
from kaito_operator.gpu_provisioner.errors import NO_CLUSTER, NO_ROLE, NO_SUBNET_ROLE, NO_TOKEN

Manifest = Mapping[str, Any]
WORKSPACES, MACHINES, NODECLAIMS = "workspaces.kaito.sh", "machines.karpenter.sh", "nodeclaims.karpenter.sh"
PROVISIONER = "gpu-provisioner"
GPU_MAKERS = ("nvidia.com/gpu.present", "kubernetes.azure.com/accelerator", "accelerator")
"""Labels by which a node is known to have a GPU, whatever its device plugin says."""
NEEDED = (
    ("kaito.sh", "workspaces", ("get", "list", "create", "patch", "delete")),
    ("", "pods", ("list",)),
    ("", "pods/log", ("get",)),
    ("", "services/proxy", ("create",)),
)
"""API group, resource and verbs that the commands need; without services/proxy there is no `kaito chat`."""
CREDENTIALS = {meaning.reason for meaning in (NO_ROLE, NO_SUBNET_ROLE, NO_TOKEN, NO_CLUSTER)}
"""Reasons by which a Machine says that the cloud does not accept who we are, or knows no such cluster."""


class Verdict(StrEnum):
    """How a part is. ``missing`` is wrong only where the part is needed."""

    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    what: str
    verdict: Verdict
    told: str = ""
    remedy: str = ""
    needed: bool = True

    @property
    def harmful(self) -> bool:
        """Whether something has to be done about it."""
        return self.verdict is Verdict.WRONG or (self.verdict is Verdict.MISSING and self.needed)


@dataclass(frozen=True, slots=True)
class Examined:
    """What was seen. ``refused`` are the paths that the user may not read; what is behind them is not judged."""

    crds: Mapping[str, Manifest]
    deployments: tuple[Manifest, ...]
    webhooks: tuple[Manifest, ...]
    nodes: tuple[Manifest, ...]
    machines: tuple[Manifest, ...]
    denied: tuple[str, ...]
    """``verb resource`` of what the user may not do."""
    refused: tuple[str, ...] = ()


def findings(seen: Examined) -> Iterator[Finding]:
    """The report, in the order in which things depend on each other."""
    for path in seen.refused:
        yield Finding(f"reading {path}", Verdict.WRONG, "not allowed, so not judged", "ask an administrator to run it")
    for reads, judged in (
        (("customresourcedefinitions",), _definitions(seen.crds)),
        (("deployments",), _controllers(seen)),
        (("validatingwebhookconfigurations",), _admission(seen)),
        (("nodes",), _gpus(seen.nodes)),
        (("customresourcedefinitions", "machines", "nodeclaims"), _credentials(seen.machines)),
        (("selfsubjectaccessreviews",), _rights(seen.denied)),
    ):
        if not set(reads) & set(seen.refused):
            yield from judged


def _definitions(crds: Mapping[str, Manifest]) -> Iterator[Finding]:
    what = f"CRD {WORKSPACES}"
    if WORKSPACES not in crds:
        yield Finding(
            what, Verdict.MISSING, "no Workspace can be stored", "helm install kaito-workspace charts/workspace"
        )
    else:
        yield _established(what, crds[WORKSPACES])
    there = [name for name in (MACHINES, NODECLAIMS) if name in crds]
    for name in there:
        yield _established(f"CRD {name}", crds[name])
    if not there:
        told = "no machine can be bought; nodes of your own do without"
        yield Finding("node provisioner", Verdict.MISSING, told, "install gpu-provisioner or Karpenter", needed=False)


def _established(what: str, crd: Manifest) -> Finding:
    condition = by_type(crd.get("status", {}).get("conditions", [])).get("Established", {})
    if condition.get("status") == "True":
        return Finding(what, Verdict.OK)
    told = condition.get("message", "") or "not established"
    return Finding(what, Verdict.WRONG, told, f"kubectl describe crd {what.removeprefix('CRD ')}")


def _controllers(seen: Examined) -> Iterator[Finding]:
    yield _controller(seen.deployments, "workspace operator", OPERATOR, "helm install kaito-workspace charts/workspace")
    needed = MACHINES in seen.crds and NODECLAIMS not in seen.crds
    install = "helm install gpu-provisioner charts/gpu-provisioner"
    yield _controller(seen.deployments, "gpu-provisioner", PROVISIONER, install, needed=needed)
    yield from _model_files(next((each for each in seen.deployments if runs_as(each, OPERATOR)), None))


def _model_files(operator: Manifest | None) -> Iterator[Finding]:
    """Without a runtime image there are KAITO's own images, and so KAITO's own models, alone."""
    env = environment(operator)
    asked, runtime = env.get("KAITO_MODEL_FILES", ""), env.get("KAITO_RUNTIME_IMAGE", "")
    if asked in ("volume", "hub") and not runtime:
        told = f"modelFiles is {asked}, and there is no image to run over the files"
        yield Finding("runtime image", Verdict.WRONG, told, "--set runtimeImage=…, see docs/guide/model-files.md")
    elif asked in ("auto", "kaito") and not runtime:
        told = "models run in KAITO's own images: those of KAITO 0.3 alone, /chat alone, no tuning"
        yield Finding("runtime image", Verdict.MISSING, told, "--set runtimeImage=…", needed=False)
    elif runtime:
        yield Finding("runtime image", Verdict.OK, runtime)


def _controller(all: Iterable[Manifest], what: str, runs: str, install: str, *, needed: bool = True) -> Finding:
    found = next((d for d in all if runs_as(d, runs)), None)
    if found is None:
        return Finding(what, Verdict.MISSING, "no Deployment of it", install, needed=needed)
    meta, ready = found["metadata"], found.get("status", {}).get("readyReplicas", 0)
    who = f"Deployment {meta['namespace']}/{meta['name']}"
    if ready:
        return Finding(what, Verdict.OK, f"{who}, {ready} ready")
    look = f"kubectl -n {meta['namespace']} logs deployment/{meta['name']}"
    return Finding(what, Verdict.WRONG, f"{who} has no ready pod", look)


def _admission(seen: Examined) -> Iterator[Finding]:
    ours = [w for c in seen.webhooks for w in c.get("webhooks", []) if _about_workspaces(w)]
    if not ours:
        told = "mistakes are told in the status, not at kubectl apply"
        yield Finding("admission webhook", Verdict.MISSING, told, "--set webhook.enabled=true", needed=False)
    for webhook in ours:
        if webhook.get("clientConfig", {}).get("caBundle"):
            yield Finding("admission webhook", Verdict.OK)
        else:
            told = "it has no caBundle, so the API server does not trust it"
            yield Finding("admission webhook", Verdict.WRONG, told, "helm upgrade, or see that cert-manager runs")


def _about_workspaces(webhook: Manifest) -> bool:
    return any("kaito.sh" in r.get("apiGroups", []) for r in webhook.get("rules", []))


def _gpus(nodes: Iterable[Manifest]) -> Iterator[Finding]:
    with_gpu = [n for n in nodes if any(label in n["metadata"].get("labels", {}) for label in GPU_MAKERS)]
    allocatable = [n for n in nodes if n.get("status", {}).get("allocatable", {}).get(GPU_RESOURCE, "0") != "0"]
    names = {n["metadata"]["name"] for n in allocatable}
    without = [n["metadata"]["name"] for n in with_gpu if n["metadata"]["name"] not in names]
    what = "NVIDIA device plugin"
    if without:
        told = f"{without[0]} has a GPU label and no allocatable {GPU_RESOURCE}"
        remedy = "install the NVIDIA device plugin, and look at its pod on that node"
        yield Finding(what, Verdict.WRONG, told, remedy)
    elif allocatable:
        yield Finding(what, Verdict.OK, f"{GPU_RESOURCE} on {len(allocatable)} of the nodes")
    else:
        told = "there is no GPU node to judge by"
        yield Finding(what, Verdict.MISSING, told, "needed once a GPU node joins; AKS pools bring it", needed=False)


def _credentials(machines: Iterable[Manifest]) -> Iterator[Finding]:
    for machine in machines:
        for condition in machine.get("status", {}).get("conditions", []):
            if condition.get("status") == "False" and condition.get("reason") in CREDENTIALS:
                told = f"{machine['metadata']['name']}: {condition.get('message') or condition['reason']}"
                remedy = "see docs/guide/aks.md: identity, role and federated credential"
                yield Finding("credentials of gpu-provisioner", Verdict.WRONG, told, remedy)
                return
    yield Finding("credentials of gpu-provisioner", Verdict.OK, "no Machine complains of them")


def _rights(denied: tuple[str, ...]) -> Iterator[Finding]:
    if denied:
        remedy = "ask an administrator for a role that allows it"
        yield Finding("your rights", Verdict.WRONG, f"you may not {', '.join(denied)}", remedy)
    else:
        yield Finding("your rights", Verdict.OK)
