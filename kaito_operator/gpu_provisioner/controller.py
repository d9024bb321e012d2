"""gpu-provisioner as the reconciler takes it: what it watches, whom that concerns, how it decides."""

from collections.abc import Iterable
from functools import partial

from kaito_operator.api import labels
from kaito_operator.api.kinds import MACHINE, NODE
from kaito_operator.clock import Clock, system_clock
from kaito_operator.gpu_provisioner.cloud import Cloud
from kaito_operator.gpu_provisioner.observe import Observed, observe
from kaito_operator.gpu_provisioner.plan import Limits, plan
from kaito_operator.gpu_provisioner.pools import Pools
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest
from kaito_operator.reconciler import Controller, Watch
from kaito_operator.settings import ProvisionerSettings

OURS: dict[str, str | None] = {labels.WORKSPACE: None}
"""Other people's Machines are other provisioners' business."""


def provisioner_controller(
    settings: ProvisionerSettings, cloud: Cloud | None = None, *, clock: Clock = system_clock
) -> Controller[Observed]:
    """Machine → agent pool → Node. Without ``cloud``, the AKS cluster that the settings name."""
    if cloud is None:
        from kaito_operator.gpu_provisioner.azure import connect

        cloud = connect(settings)
    pools = Pools(
        cloud,
        poll_seconds=settings.poll_seconds,
        most_pools=settings.most_pools,
        creates_per_10_minutes=settings.creates_per_10_minutes,
        clock=clock,
    )
    limits = Limits(
        gone=settings.gone_seconds, launch=settings.launch_seconds, registration=settings.registration_seconds
    )
    return Controller(
        name="gpu-provisioner",
        field_manager=labels.PROVISIONER_MANAGER,
        parent=MACHINE,
        watches=(Watch(MACHINE, OURS), Watch(NODE)),
        concerns=concerns,
        observe=partial(observe, pools=pools),
        plan=partial(plan, cluster=settings.cluster, limits=limits),
        cloud=pools,
        background=(pools.follow,),
    )


def concerns(manifest: Manifest, mirror: Mirror) -> Iterable[Key]:
    """A Machine concerns itself, a node the Machine whose pool it is in."""
    meta = manifest["metadata"]
    if manifest["kind"] == MACHINE.kind:
        return (Key("", meta["name"]),)
    pool = (meta.get("labels") or {}).get(labels.AGENT_POOL, "")
    return (Key("", pool),) if mirror.get(MACHINE, pool) is not None else ()
