"""gpu-provisioner as the reconciler takes it: what it watches, whom that concerns, how it decides."""

from collections.abc import Iterable
from functools import partial

from prometheus_client import CollectorRegistry

from kaito_operator.api import labels
from kaito_operator.api.kinds import MACHINE, NODE, NODECLAIM, Kind
from kaito_operator.clock import Clock, system_clock
from kaito_operator.gpu_provisioner.cloud import Cloud
from kaito_operator.gpu_provisioner.garbage import Garbage
from kaito_operator.gpu_provisioner.identity import Identity
from kaito_operator.gpu_provisioner.limits import Limits
from kaito_operator.gpu_provisioner.lives import Lives
from kaito_operator.gpu_provisioner.measured import CloudMetrics, Measured
from kaito_operator.gpu_provisioner.observe import Observed, observe, reads
from kaito_operator.gpu_provisioner.plan import plan
from kaito_operator.gpu_provisioner.pools import Pools
from kaito_operator.gpu_provisioner.turns import InTurn
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key, Manifest
from kaito_operator.reconciler import Controller, Watch
from kaito_operator.settings import ProvisionerSettings

OURS: dict[str, str | None] = {labels.WORKSPACE: None}
"""Other people's Machines are other provisioners' business. Whose a NodeClaim is, no label need say."""


def provisioner_controller(
    settings: ProvisionerSettings, cloud: Cloud | None = None, *, clock: Clock = system_clock
) -> Controller[Observed]:
    """Machine → agent pool → Node. Without ``cloud``, the AKS cluster that the settings name."""
    registry = CollectorRegistry()
    lives = Lives(registry)
    cloud = _asked_in_turn(settings, cloud, registry, clock)
    kind = NODECLAIM if settings.objects == "nodeclaims" else MACHINE
    pools = Pools(
        cloud,
        kind=kind,
        poll_seconds=settings.poll_seconds,
        most_pools=settings.most_pools,
        creates_per_10_minutes=settings.creates_per_10_minutes,
        clock=clock,
    )
    garbage = _garbage(settings, cloud, pools, kind=kind, clock=clock)
    identity = Identity(cloud)
    return Controller(
        name="gpu-provisioner",
        field_manager=labels.PROVISIONER_MANAGER,
        parent=kind,
        watches=(Watch(MACHINE, OURS) if kind == MACHINE else Watch(NODECLAIM), Watch(NODE)),
        concerns=partial(concerns, kind=kind),
        observe=partial(observe, pools=pools, kind=kind),
        plan=partial(plan, cluster=settings.cluster, limits=_limits(settings)),
        cloud=pools,
        reads=partial(reads, pools=pools, kind=kind),
        background=(pools.follow,),
        sweeps=(garbage.sweeps,),
        from_the_start=(identity.watch,),
        unready=lambda: identity.problem,
        registry=registry,
        done=lives.done,
        requested=lives.requested,
    )


def _asked_in_turn(
    settings: ProvisionerSettings, cloud: Cloud | None, registry: CollectorRegistry, clock: Clock
) -> Cloud:
    if cloud is None:
        from kaito_operator.gpu_provisioner.azure import connect

        cloud = connect(settings)
    measured = Measured(cloud, CloudMetrics(registry))
    burst, per_second = settings.requests_at_once, settings.requests_per_second
    return InTurn(measured, burst=burst, per_second=per_second, clock=clock)


def _garbage(settings: ProvisionerSettings, cloud: Cloud, pools: Pools, *, kind: Kind, clock: Clock) -> Garbage:
    return Garbage(
        cloud,
        pools,
        kind=kind,
        cluster=settings.cluster,
        every_seconds=settings.garbage_seconds,
        grace_seconds=settings.garbage_grace_seconds,
        most_per_hour=settings.garbage_per_hour,
        clock=clock,
    )


def _limits(settings: ProvisionerSettings) -> Limits:
    return Limits(
        gone=settings.gone_seconds,
        launch=settings.launch_seconds,
        registration=settings.registration_seconds,
        repair=settings.repair_seconds or None,
        drain=settings.drain_seconds or None,
    )


def concerns(manifest: Manifest, mirror: Mirror, *, kind: Kind = MACHINE) -> Iterable[Key]:
    """A Machine concerns itself, a node the Machine whose pool it is in."""
    meta = manifest["metadata"]
    if manifest["kind"] == kind.kind:
        return (Key("", meta["name"]),)
    pool = (meta.get("labels") or {}).get(labels.AGENT_POOL, "")
    return (Key("", pool),) if mirror.get(kind, pool) is not None else ()
