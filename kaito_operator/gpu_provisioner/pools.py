"""What is known of the agent pools, and the only way to write them: each write looks at the live pool first.

Known are: the pools of the last LIST and of every answer since, refusals with the time until which asking again is
useless, and since when a name has been absent. All of it may be lost at any time: what a restart forgets is asked anew.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from kaito_operator.api.conditions import by_type, is_true
from kaito_operator.api.kinds import MACHINE, Kind
from kaito_operator.clock import Clock, system_clock
from kaito_operator.gpu_provisioner.cloud import SETTLED, AgentPool, Cloud, CloudError
from kaito_operator.gpu_provisioner.errors import LONGEST_WAIT, THROTTLED, Refusal
from kaito_operator.gpu_provisioner.known import Known
from kaito_operator.gpu_provisioner.looks import FEW, Looks
from kaito_operator.gpu_provisioner.observe import is_ours
from kaito_operator.gpu_provisioner.offerings import Offering, Offerings
from kaito_operator.gpu_provisioner.orphans import OWNERSHIP
from kaito_operator.gpu_provisioner.status import READY, step_types
from kaito_operator.mirror import Mirror
from kaito_operator.plan import CreateInCloud, DeleteInCloud, Key, LookInCloud, Manifest

log = logging.getLogger(__name__)

APART_SECONDS = 2.0
"""A pass takes two requests, and AKS lets one a second through once its bucket is empty."""


class Pools:
    """The CloudDoor of gpu-provisioner."""

    def __init__(
        self,
        cloud: Cloud,
        *,
        poll_seconds: float,
        most_pools: int,
        creates_per_10_minutes: int,
        kind: Kind = MACHINE,
        clock: Clock = system_clock,
    ) -> None:
        """``kind``: of the objects that ask for pools."""
        self._kind = kind
        self._cloud, self._poll_seconds, self._clock = cloud, poll_seconds, clock
        self._most_pools, self._most_creates = most_pools, creates_per_10_minutes
        self._known: dict[str, Known] = {}
        self._asking: set[str] = set()
        self._creates: deque[datetime] = deque()
        self._offerings = Offerings()
        self._looks = Looks(cloud, clock=clock)

    def known(self, name: str) -> Known:
        """What is known of a name."""
        return self._known.get(name, Known())

    # The door

    async def create(self, step: CreateInCloud) -> None:
        """Second look, then a conditional PUT. An existing pool is adopted if it bears the same ownership tags."""
        name, tags = step.name, step.wanted["properties"]["tags"]
        try:
            live = await self._glance(name)
            if live is not None:
                return self._adopted(live, {tag: tags[tag] for tag in OWNERSHIP})
            if (no := self._at_a_cap() or await self._hopeless(step)) is not None:
                return self._no_create(name, no)
            await self._ask_for(step)
        except CloudError as error:
            self._offerings.refused(_offering(step), error.refusal, now=self._clock())
            self._no_create(name, error.refusal)

    async def delete(self, step: DeleteInCloud) -> None:
        """Second look, then a conditional DELETE, by name, of nothing but our own."""
        try:
            live = await self._glance(step.name)
            if live is None and self.known(step.name).absent_since is None:
                live = await self._look(step.name)  # a LIST that does not show it is no 404
            if live is None or live.state == "Deleting" or (step.etag and step.etag != live.etag):
                return None
            if not live.bears(step.owner):
                return self._no_delete(step.name, _taken(step.name))
            await self._ask_away(live)
            self._see(replace(live, state="Deleting"))  # as the next LIST will show; a GET for each costs too many
        except CloudError as error:
            self._no_delete(step.name, error.refusal)

    async def look(self, step: LookInCloud) -> None:
        """What there is under the name, whoever it belongs to."""
        try:
            await self._look(step.name)
        except CloudError as error:
            self._no_create(step.name, error.refusal)

    async def _ask_away(self, live: AgentPool) -> None:
        """DELETE; where a creation in progress stands in its way, that is aborted, and the next try comes later."""
        try:
            await self._cloud.delete(live.name, etag=live.etag)
        except CloudError as error:
            if live.state == "Creating" and error.refusal.reason == "OperationInProgress":
                await self._abort(live.name)
            raise

    async def _abort(self, name: str) -> None:
        """Only speeds things up: without it the creation comes to its own end."""
        try:
            await self._cloud.abort(name)
        except CloudError as error:
            log.info("the creation of agent pool %s cannot be aborted: %s", name, error.refusal.message)

    async def gone(self, name: str) -> bool:
        """Whether the cloud answers, now, that there is no such pool. Not being able to tell is a no."""
        try:
            return await self._look(name) is None
        except CloudError as error:
            self._no_delete(name, error.refusal)
            return False

    async def there(self, name: str) -> bool:
        """Whether there is such a pool, now, with the machine that it had. Not being able to tell is a no."""
        try:
            live = await self._look(name)
        except CloudError as error:
            self._no_delete(name, error.refusal)
            return False
        return live is not None and live.state in SETTLED and not live.was_taken_back

    async def _hopeless(self, step: CreateInCloud) -> Refusal | None:
        """What is known against the size, from another Machine's try or from Azure's own figures."""
        known = self._offerings.unavailable(_offering(step), now=self._clock())
        return known or await self._cloud.outlook(step.wanted)

    async def _ask_for(self, step: CreateInCloud) -> None:
        self._creates.append(self._clock())
        self._known[step.name] = self.known(step.name).asked()
        self._asking.add(step.name)
        try:
            self._see(await self._cloud.create(step.name, step.wanted))
        finally:
            self._asking.discard(step.name)

    def _adopted(self, live: AgentPool, owner: dict[str, str]) -> None:
        if not live.bears(owner):
            self._no_create(live.name, _taken(live.name))

    async def _glance(self, name: str) -> AgentPool | None:
        """The live pool, as far as a conditional write has to know it; after a no, as it is now in any case."""
        if self.known(name).was_refused or not self._looks.are_many():
            return await self._look(name)
        live = (await self._looks.shared()).get(name)
        if live is not None:
            self._see(live)
        return live

    async def _look(self, name: str) -> AgentPool | None:
        """The live pool. Raises CloudError: nothing is decided on what cannot be read."""
        live = await self._looks.by_name(name)
        if live is None:
            self._known[name] = self.known(name).absent(now=self._clock())
        else:
            self._see(live)
        return live

    def _see(self, pool: AgentPool) -> None:
        if pool.problem is not None and pool != self.known(pool.name).pool:
            offering = Offering(pool.vm_size, pool.spot, pool.zones)
            self._offerings.refused(offering, pool.problem, now=self._clock())
        self._known[pool.name] = self.known(pool.name).seen(pool, now=self._clock())

    def _no_create(self, name: str, refusal: Refusal) -> None:
        self._known[name] = self.known(name).no_create(self._in_turn(refusal), now=self._clock())

    def _no_delete(self, name: str, refusal: Refusal) -> None:
        self._known[name] = self.known(name).no_delete(self._in_turn(refusal), now=self._clock())

    def _in_turn(self, refusal: Refusal) -> Refusal:
        """Those who are throttled come back one after another, not all at once when the bucket holds one token."""
        if refusal.reason != THROTTLED.reason:
            return refusal
        waiting = sum(known.throttled_at(self._clock()) for known in self._known.values())
        return replace(refusal, retry_after=min(refusal.retry_after + waiting * APART_SECONDS, LONGEST_WAIT))

    def _at_a_cap(self) -> Refusal | None:
        """M9: so many pools, so many creates in ten minutes, whatever anybody asks for."""
        since = self._clock() - timedelta(minutes=10)
        while self._creates and self._creates[0] < since:
            self._creates.popleft()
        if len(self._creates) >= self._most_creates:
            return Refusal("CreateLimit", f"{self._most_creates} pools were asked for in ten minutes; waiting", 60.0)
        if len({name for name, known in self._known.items() if known.pool} | self._asking) >= self._most_pools:
            return Refusal("PoolLimit", f"there are {self._most_pools} agent pools of ours already", 60.0)
        return None

    # One LIST for all

    async def follow(self, add: Callable[[Key], None], mirror: Mirror) -> None:
        """While anything is in flight, one LIST for all of it; what it changed is looked at. Runs until cancelled."""
        try:
            while True:
                pause = await self.follow_once(add, mirror)
                await asyncio.sleep(pause)
        finally:
            await self.close()

    async def close(self) -> None:
        """Lets go of the connections to the cloud."""
        await self._cloud.close()

    async def follow_once(self, add: Callable[[Key], None], mirror: Mirror) -> float:
        """One round of it. Answers in how many seconds the next is due."""
        machines = {machine["metadata"]["name"]: machine for machine in mirror.all(self._kind) if is_ours(machine)}
        for forgotten in self._known.keys() - machines.keys():
            del self._known[forgotten]
        flying = [name for name, machine in machines.items() if self._flies(name, machine)]
        if not flying:
            return self._poll_seconds
        before, pause = dict(self._known), self._poll_seconds
        try:
            await self._list(machines.keys(), flying)
        except CloudError as error:
            log.warning("the agent pools cannot be listed: %s", error.refusal.message)
            self._known |= {name: self.known(name).lost(error.refusal) for name in flying}
            pause = max(pause, error.refusal.retry_after)
        for name in machines:
            if self._known.get(name) != before.get(name):
                add(Key("", name))
        return pause

    def _flies(self, name: str, machine: Manifest) -> bool:
        """Whether the pool is on its way up or down; or must be there, and was never asked for since we started."""
        known = self.known(name)
        conditions = by_type((machine.get("status") or {}).get("conditions") or ())
        launched, ready = (is_true(conditions, step) for step in (step_types(machine["kind"])[0], READY))
        settled = ready and "deletionTimestamp" not in machine["metadata"]
        return launched if known.nothing else known.pool is not None and not settled

    async def _list(self, names: Iterable[str], flying: Iterable[str]) -> None:
        """A LIST may lag behind: what it does not show is looked for by name before it counts as absent.

        Of many that were seen to be on their way out its silence is the first no; the second is asked for by name.
        """
        listed = await self._looks.every()
        for name in names:
            if name in listed:
                self._see(listed[name])
        silent = [name for name in flying if name not in listed]
        for name in silent:
            if len(silent) > FEW and self._goes(name):
                self._known[name] = self.known(name).absent(now=self._clock())
            else:
                await self._look(name)

    def _goes(self, name: str) -> bool:
        pool = self.known(name).pool
        return pool is not None and pool.state == "Deleting"


def _offering(step: CreateInCloud) -> Offering:
    properties = step.wanted["properties"]
    zones = tuple(properties.get("availabilityZones", ()))
    return Offering(properties["vmSize"], properties.get("scaleSetPriority") == "Spot", zones)


def _taken(name: str) -> Refusal:
    return Refusal("NameTaken", f"agent pool {name} does not bear the tags of this Machine: it is left alone", 300.0)
