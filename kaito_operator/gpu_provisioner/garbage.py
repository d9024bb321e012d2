"""The sweep for what is left over: a pool that is paid for and has no Machine, a Node whose machine is gone.

The cloud is listed before the cluster: a Machine that is made in between is seen with its pool, never without.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from datetime import datetime, timedelta

from kaito_operator.api.kinds import MACHINE, NODE, NODECLAIM, Kind
from kaito_operator.clock import Clock, system_clock
from kaito_operator.finalizers import release
from kaito_operator.gpu_provisioner.cloud import AgentPool, Cloud, CloudError
from kaito_operator.gpu_provisioner.orphans import (
    OWNERSHIP,
    Left,
    Sightings,
    held_nodes,
    left_nodes,
    left_pools,
    pool_of,
    why_not,
)
from kaito_operator.gpu_provisioner.pools import Pools
from kaito_operator.kube.client import Kube
from kaito_operator.kube.errors import KubeError, NotFound
from kaito_operator.mirror import Mirror
from kaito_operator.plan import DeleteInCloud, Manifest, Ref, Release
from kaito_operator.second_look import Stale

log = logging.getLogger(__name__)


class Garbage:
    """The sweeper of one cluster. What it remembers is how often it saw a thing; a restart begins anew."""

    def __init__(
        self,
        cloud: Cloud,
        pools: Pools,
        *,
        cluster: str,
        every_seconds: float,
        grace_seconds: float,
        most_per_hour: int,
        kind: Kind = MACHINE,
        clock: Clock = system_clock,
    ) -> None:
        """``kind``: of the objects that ask for pools."""
        self._kind = kind
        self._cloud, self._pools, self._cluster, self._clock = cloud, pools, cluster, clock
        self._every_seconds, self._grace_seconds, self._most = every_seconds, grace_seconds, most_per_hour
        self._sightings = Sightings()
        self._collected: deque[datetime] = deque()

    async def sweeps(self, kube: Kube, mirror: Mirror) -> None:
        """Sweeps every now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._every_seconds)
            try:
                await self.sweep(kube, mirror)
            except (CloudError, KubeError) as failed:
                log.warning("garbage collection: %s; again in %.0f s", failed, self._every_seconds)

    async def sweep(self, kube: Kube, mirror: Mirror) -> None:
        """One sweep. Raises CloudError and KubeError: on what cannot be seen, nothing is collected."""
        pools = await self._cloud.list()
        left = self._left(pools, mirror.all(self._kind), mirror.all(NODE))
        if left != Left():  # by the mirror; now by the cluster itself
            machines = await _machines(kube, self._kind)
            left = self._left(pools, machines, (await kube.list(NODE)).items)
        found = [*map(_id, left.pools), *(node["metadata"]["uid"] for node in left.nodes)]
        self._sightings = self._sightings.again(found)
        for pool in left.pools:
            if self._may(_id(pool), f"agent pool {pool.name}"):
                kube.fence()
                owner = {tag: pool.tags[tag] for tag in OWNERSHIP}
                await self._pools.delete(DeleteInCloud(pool.name, owner, etag=pool.etag))
        for node in left.nodes:
            if self._may(node["metadata"]["uid"], f"node {node['metadata']['name']}"):
                await _delete(kube, node)
        for node in left.held:
            await self._let_go(node, kube=kube, mirror=mirror)

    async def _let_go(self, node: Manifest, *, kube: Kube, mirror: Mirror) -> None:
        """Drops the finalizer, unless the cloud, asked by name, still has the pool: a LIST may lag behind."""
        if await self._cloud.get(pool_of(node)) is not None:
            return
        log.warning("node %s waits for a Machine that is gone, and so is its pool: it may go", node["metadata"]["name"])
        try:
            await release(Release(Ref.of(node), node["metadata"]["uid"]), kube=kube, mirror=mirror)
        except Stale as stale:
            log.info("%s; again with the next sweep", stale)

    def _left(self, pools: list[AgentPool], machines: Iterable[Manifest], nodes: list[Manifest]) -> Left:
        """Pools and Nodes without a Machine, none while the cluster does not look well; and Nodes that wait for us."""
        uids = {machine["metadata"]["uid"] for machine in machines}
        now, grace = self._clock(), self._grace_seconds
        left = left_pools(pools, uids, cluster=self._cluster, now=now, grace_seconds=grace)
        names = {pool.name for pool in pools}
        lost = left_nodes(nodes, uids, names, now=now, grace_seconds=grace)
        held = held_nodes(nodes, uids, names)
        if (left or lost) and (unwell := why_not(pools, nodes)):
            log.warning("garbage collection: %s, so nothing is collected", unwell)
            return Left(held=tuple(held))
        return Left(tuple(left), tuple(lost), tuple(held))

    def _may(self, uid: str, what: str) -> bool:
        """Whether it was seen often enough, and few enough others were collected within the hour (M9)."""
        if not self._sightings.sure(uid):
            return False
        since = self._clock() - timedelta(hours=1)
        while self._collected and self._collected[0] < since:
            self._collected.popleft()
        if len(self._collected) >= self._most:
            log.warning("%s is left over, and stays: %d were collected within the hour", what, self._most)
            return False
        self._collected.append(self._clock())
        log.warning("%s is left over: nothing in the cluster asks for it; deleting it", what)
        return True


def _id(pool: AgentPool) -> str:
    """The pool of this name and this birth: its successor under the name begins anew."""
    return f"{pool.name}/{pool.asked_at}"


async def _machines(kube: Kube, kind: Kind) -> list[Manifest]:
    """All that may own a pool, live. A cluster that does not know our kind looks broken: NotFound goes up."""
    found = (await kube.list(kind)).items
    try:
        return found + (await kube.list(MACHINE if kind == NODECLAIM else NODECLAIM)).items
    except NotFound:
        return found  # one of the two kinds is all there need be


async def _delete(kube: Kube, node: Manifest) -> None:
    try:
        await kube.delete(Ref.of(node), uid=node["metadata"]["uid"])
    except NotFound:
        return
