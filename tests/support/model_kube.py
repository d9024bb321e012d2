"""The model of a cluster behind our client's verbs: the real ``carry_out`` runs against it, late events and all."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kaito_operator.api.kinds import BY_NAME
from kaito_operator.api.labels import WORKSPACE_MANAGER
from kaito_operator.carry_out import carry_out
from kaito_operator.kube.client import Kube, Listed
from kaito_operator.kube.errors import Conflict, Invalid, KubeError, NotFound, Unavailable
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Apply, Delete, Manifest, Plan, Ref, Report, Selection
from kaito_operator.second_look import Stale
from kaito_operator.workspace.observe import Observed, observe
from tests.support.model_cluster import ModelCluster

Planned = Callable[[Observed, ModelCluster], Plan]


class ModelKube(Kube):
    """What the API server answers, by its rules for uids and versions. After ``writes`` of them it is dead."""

    def __init__(self, cluster: ModelCluster, *, writes: int | None = None) -> None:
        self.cluster, self.left = cluster, writes
        self.field_manager = WORKSPACE_MANAGER

    def fence(self) -> None:
        """Before each write: a process that is dead writes nothing."""
        if self.left == 0:
            raise Unavailable(0, "Killed", "the process is dead")
        if self.left is not None:
            self.left -= 1

    async def get(self, ref: Ref) -> Manifest:
        """The live object."""
        found = self._live(ref)
        if found is None:
            raise NotFound(404, "NotFound", str(ref))
        return found

    async def select(self, selection: Selection) -> Listed:
        """By labels."""
        wanted = selection.labels.items()
        found = [o for o in self.cluster.all(selection.kind) if wanted <= o["metadata"].get("labels", {}).items()]
        return Listed(list(found), self.cluster.version())

    async def apply(self, manifest: Manifest, *, uid: str | None = None) -> Manifest:
        """Server-side apply."""
        self.fence()
        ref, live = Ref.of(manifest), self._live(Ref.of(manifest))
        if uid is not None and live is None:
            raise Conflict(409, "Conflict", "uid mismatch: no existing object was found")
        if uid is not None and live is not None and live["metadata"]["uid"] != uid:
            raise Invalid(422, "Invalid", "metadata.uid: field is immutable")
        version = manifest["metadata"].get("resourceVersion")
        if version and live is not None and live["metadata"]["resourceVersion"] != version:
            raise Conflict(409, "Conflict", "the object has been modified")
        own = {key: value for key, value in manifest["metadata"].items() if key != "resourceVersion"}
        self.cluster.apply(Apply({**manifest, "metadata": own}, uid=uid))
        return await self.get(ref)

    async def apply_status(self, ref: Ref, *, uid: str, status: Manifest, version: str = "") -> Manifest:
        """Of the version that was seen alone."""
        self.fence()
        live = await self.get(ref)
        if version and live["metadata"]["resourceVersion"] != version:
            raise Conflict(409, "Conflict", "the object has been modified")
        self.cluster.report(Report(ref, uid, status))
        return await self.get(ref)

    async def patch_json(self, ref: Ref, operations: Sequence[Mapping[str, Any]]) -> Manifest:
        """Our one patch: the finalizers of the version that was seen."""
        self.fence()
        live = await self.get(ref)
        test, add = operations
        if live["metadata"]["resourceVersion"] != test["value"]:
            raise Invalid(422, "Invalid", "the server rejected our request due to an error in our request")
        return self.cluster.set_finalizers(ref, list(add["value"]))

    async def create(self, manifest: Manifest) -> Manifest:
        """Events, which nobody reads here."""
        self.fence()
        return manifest

    async def delete(self, ref: Ref, *, uid: str, grace_seconds: int | None = None) -> Manifest | None:
        """Of exactly this object."""
        self.fence()
        live = await self.get(ref)
        if live["metadata"]["uid"] != uid:
            raise Conflict(409, "Conflict", "the UID in the precondition does not match")
        self.cluster.delete(Delete(ref, uid))
        return self._live(ref)

    def _live(self, ref: Ref) -> Manifest | None:
        return self.cluster.objects.get((ref.kind, ref.namespace, ref.name))


class Process:
    """One process of the operator: a mirror that knows what it has heard, and what its own writes were answered."""

    def __init__(self, cluster: ModelCluster, *, plan: Planned) -> None:
        self.cluster, self.mirror, self._plan = cluster, Mirror(), plan
        self.hear()

    def hear(self, *, kinds: Sequence[str] = ()) -> None:
        """All events of these kinds so far, or of all."""
        known = [o for kind in BY_NAME.values() if not kinds or kind.kind in kinds for o in self.mirror.all(kind)]
        for manifest in sorted(self.cluster.objects.values(), key=lambda o: int(o["metadata"]["resourceVersion"])):
            if not kinds or manifest["kind"] in kinds:
                self.mirror.put(manifest)
        for old in known:
            meta = old["metadata"]
            live = self.cluster.objects.get((old["kind"], meta.get("namespace", ""), meta["name"]))
            if live is None or live["metadata"]["uid"] != meta["uid"]:
                self.mirror.remove({**old, "metadata": {**meta, "resourceVersion": self.cluster.version()}})

    def make_a_pass(self, loop: asyncio.AbstractEventLoop, *, writes: int | None = None) -> None:
        """One pass on what it knows. What is refused, or stale, is for the next one."""
        seen = observe(self.mirror, self.cluster.key)
        if seen is None:
            return
        kube = ModelKube(self.cluster, writes=writes)
        todo = self._plan(seen, self.cluster)
        try:
            loop.run_until_complete(
                carry_out(todo, kube=kube, mirror=self.mirror, cloud=None, clock=lambda: self.cluster.now)
            )
        except (KubeError, Stale):
            return
