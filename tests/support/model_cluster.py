"""A small model of a cluster: what carrying out a plan does to its objects, and what the rest of the world does.

It is no stand-in for the API server (that is real in its own tests): it lets thousands of histories be run in a second.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import count
from typing import Any

from kaito_operator.api import labels
from kaito_operator.api.conditions import timestamp
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Apply, Delete, Finalizer, Key, Plan, Ref, Report
from kaito_operator.workspace.observe import Observed, observe
from tests.support.builders import NOON, a_container, a_node, a_pod, a_tuning_pod, condition, machine_conditions

Manifest = dict[str, Any]
Name = tuple[str, str, str]
Step = Callable[[], None]
SECOND = timedelta(seconds=1)


class ModelCluster:
    """Objects by kind, namespace and name; a clock; and a version that counts the writes."""

    def __init__(self, workspace: Manifest, *others: Manifest, now: datetime = NOON) -> None:
        self.now = now
        self.key = Key(workspace["metadata"]["namespace"], workspace["metadata"]["name"])
        self._versions, self._uids = count(10_000), count(1)
        self.objects: dict[Name, Manifest] = {}
        for manifest in (workspace, *others):
            self._store(manifest)

    def observed(self, *, backwards: bool = False) -> Observed | None:
        """What our own observe makes of it, whatever the order in which the objects came."""
        mirror = Mirror()
        for manifest in sorted(self.objects.values(), key=_version, reverse=backwards):
            mirror.put(manifest)
        return observe(mirror, self.key)

    def all(self, kind: str) -> list[Manifest]:
        """The objects of one kind."""
        return [manifest for (each, _, _), manifest in sorted(self.objects.items()) if each == kind]

    @property
    def workspace(self) -> Manifest | None:
        """The Workspace, while there is one."""
        return self.objects.get(("Workspace", *self.key))

    # What carrying out a plan does.

    def steps(self, todo: Plan) -> Iterator[Step]:
        """The writes of a plan one by one, in the order of ``carry_out``."""
        if todo.finalizer is Finalizer.ADD:
            yield lambda: self._finalizers(todo, [labels.WORKSPACE_FINALIZER])
        yield from (lambda step=step: self.apply(step) for step in todo.apply)
        yield from (lambda step=step: self.delete(step) for step in todo.delete)
        yield from (lambda report=report: self.report(report) for report in todo.report)
        if todo.finalizer is Finalizer.DROP and not self._left(todo):
            yield lambda: self._finalizers(todo, [])

    def apply(self, step: Apply) -> None:
        """Server-side apply under our manager."""
        manifest = step.manifest
        name = _name(manifest)
        seen = self.objects.get(name)
        if seen is None:
            if step.uid is not None:
                raise AssertionError(f"{name}: an update of what is gone")
            self._store({**manifest, "metadata": {**manifest["metadata"], "generation": 1}})
        elif manifest["kind"] == "Node":
            self._store(_relabelled(seen, manifest))
        else:
            self._store(_merged(seen, manifest))

    def delete(self, step: Delete) -> None:
        """Deletion; a Machine lives on until its provisioner lets go of it."""
        name = (step.ref.kind, step.ref.namespace, step.ref.name)
        seen = self.objects.get(name)
        if seen is None or seen["metadata"]["uid"] != step.uid:
            return
        if step.ref.kind == "Machine":
            self._store({**seen, "metadata": {**seen["metadata"], "deletionTimestamp": timestamp(self.now)}})
        else:
            del self.objects[name]
            self.objects = {n: each for n, each in self.objects.items() if n[0] != "Pod" or _job_of(each) != name[2]}

    def report(self, report: Report) -> None:
        """Writes a status."""
        seen = self.objects[(report.ref.kind, report.ref.namespace, report.ref.name)]
        self._store({**seen, "status": dict(report.status)})

    def _finalizers(self, todo: Plan, wanted: list[str]) -> None:
        seen = self.objects[("Workspace", *self.key)]
        if todo.subject.deleting and not wanted:
            del self.objects[("Workspace", *self.key)]
        else:
            self._store({**seen, "metadata": {**seen["metadata"], "finalizers": wanted}})

    def set_finalizers(self, ref: Ref, wanted: list[str]) -> Manifest:
        """Writes the finalizers; an object that is being deleted goes with its last one."""
        name = (ref.kind, ref.namespace, ref.name)
        seen = self.objects[name]
        self._store({**seen, "metadata": {**seen["metadata"], "finalizers": wanted}})
        stored = self.objects[name]
        if not wanted and "deletionTimestamp" in stored["metadata"]:
            del self.objects[name]
        return stored

    def version(self) -> str:
        """A resourceVersion that is younger than all objects."""
        return str(next(self._versions))

    def _left(self, todo: Plan) -> bool:
        wanted = [(selection.kind, selection.labels.items()) for selection in todo.gone_in_cluster]
        return any(own <= each["metadata"].get("labels", {}).items() for kind, own in wanted for each in self.all(kind))

    # What the rest of the world does.

    def provision(self) -> None:
        """The provisioner takes every Machine a step further; those that are deleted go, and their nodes with them."""
        for machine in self.all("Machine"):
            meta = machine["metadata"]
            if "deletionTimestamp" in meta:
                del self.objects[_name(machine)]
                self.objects.pop(("Node", "", f"node-of-{meta['name']}"), None)
                continue
            done = sum(c["status"] == "True" for c in machine.get("status", {}).get("conditions", []))
            if done < 4:
                node = f"node-of-{meta['name']}" if done else ""
                conditions = machine_conditions(min(done + 2, 4), "NodeNotFound")
                self._store({**machine, "status": {"conditions": conditions, "nodeName": node}})
            if done:
                self._join(machine)

    def _join(self, machine: Manifest) -> None:
        meta = machine["metadata"]
        node = f"node-of-{meta['name']}"
        if ("Node", "", node) not in self.objects:
            own = meta.get("labels", {})
            held = {"held_by": own[labels.WORKSPACE], "namespace": own[labels.WORKSPACE_NAMESPACE]}
            self._store(a_node(node, pool=meta["name"], **held))

    def roll_out(self) -> None:
        """The Deployment's controller and the kubelets: a ready pod for every replica; none without the Deployment."""
        wanted = self.objects.get(("Deployment", *self.key))
        jobs = {job["metadata"]["name"] for job in self.all("Job")}
        if wanted is None:
            self.objects = {n: each for n, each in self.objects.items() if n[0] != "Pod" or _job_of(each) in jobs}
            return
        replicas = wanted["spec"]["replicas"]
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), replicas)
        self._store({**wanted, "status": {"observedGeneration": wanted["metadata"]["generation"], **counts}})
        nodes = [node["metadata"]["name"] for node in self.all("Node")] or [""]
        for replica in range(replicas):
            ready = a_container(ready=True, started=True)
            where = nodes[replica % len(nodes)]
            self._store(a_pod(f"{self.key.name}-{replica}", node=where, phase="Running", containers=[ready]))

    def work_off_jobs(self) -> None:
        """The Job's controller and the kubelets: every Job gets its pod, then publishes and is over."""
        for job in self.all("Job") if self.all("Node") else []:
            name = job["metadata"]["name"]
            pod = f"{name}-abcde"
            if ("Pod", self.key.namespace, pod) not in self.objects:
                self._store(a_tuning_pod(name, uid=job["metadata"]["uid"], running="trainer"))
            elif not job.get("status", {}).get("conditions"):
                digest = json.dumps({"digest": f"sha256:{name}"})
                self._store(
                    a_tuning_pod(name, uid=job["metadata"]["uid"], ended=("publish", 0, digest), phase="Succeeded")
                )
                self._store({**job, "status": {"conditions": [condition("Complete", "True")]}})

    def fail_jobs(self) -> None:
        """Every Job that is not over is given up."""
        for job in self.all("Job"):
            name = job["metadata"]["name"]
            if not job.get("status", {}).get("conditions"):
                self._store(
                    a_tuning_pod(
                        name, uid=job["metadata"]["uid"], ended=("trainer", 65, "DataInvalid: row 1"), phase="Failed"
                    )
                )
                self._store({**job, "status": {"conditions": [condition("Failed", "True", "PodFailurePolicy")]}})

    def crash(self) -> None:
        """The server ends in every pod."""
        wanted = self.objects.get(("Deployment", *self.key))
        if wanted is not None and "status" in wanted:
            self._store({**wanted, "status": {**wanted["status"], "readyReplicas": 0, "availableReplicas": 0}})
        for pod in (pod for pod in self.all("Pod") if not _job_of(pod)):
            ended = {"exitCode": 1, "reason": "Error", "message": "no"}
            statuses = [a_container(restarts=1, before=ended)]
            self._store({**pod, "status": {**pod["status"], "containerStatuses": statuses}})

    def lose(self, kind: str) -> None:
        """Somebody deletes the first object of a kind."""
        found = next(iter(self.all(kind)), None)
        if found is None:
            return
        if kind == "Machine":
            self._store({**found, "metadata": {**found["metadata"], "deletionTimestamp": timestamp(self.now)}})
        else:
            del self.objects[_name(found)]

    def set_nodes_ready(self, ready: bool) -> None:
        """Every kubelet stops, or comes back."""
        for node in self.all("Node"):
            conditions = [
                {**c, "status": str(ready)} if c["type"] == "Ready" else c for c in node["status"]["conditions"]
            ]
            self._store({**node, "status": {**node["status"], "conditions": conditions}})

    def edit(self) -> None:
        """The user asks for one adapter more, or after two for none again."""
        workspace = self.workspace
        if workspace is None or "deletionTimestamp" in workspace["metadata"] or "inference" not in workspace:
            return
        there = workspace["inference"].get("adapters", [])
        more = {"source": {"name": f"a{len(there)}", "image": "r.io/team/a:1"}}
        meta = {**workspace["metadata"], "generation": workspace["metadata"]["generation"] + 1}
        inference = {**workspace["inference"], "adapters": [*there, more] if len(there) < 2 else []}
        self._store({**workspace, "metadata": meta, "inference": inference})

    def ask_for_deletion(self) -> None:
        """The user deletes the Workspace."""
        seen = self.workspace
        if seen is None or "deletionTimestamp" in seen["metadata"]:
            return
        if not seen["metadata"].get("finalizers"):
            del self.objects[_name(seen)]
        else:
            self._store({**seen, "metadata": {**seen["metadata"], "deletionTimestamp": timestamp(self.now)}})

    def later(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds * SECOND

    def _store(self, manifest: Manifest | Mapping[str, Any]) -> None:
        meta = manifest["metadata"]
        name = _name(manifest)
        known = self.objects.get(name, {}).get("metadata", {})
        self.objects[name] = {
            **manifest,
            "metadata": {
                "creationTimestamp": timestamp(self.now),
                **meta,
                "uid": meta.get("uid") or known.get("uid") or f"uid-{next(self._uids)}",
                "resourceVersion": str(next(self._versions)),
            },
        }


def _name(manifest: Mapping[str, Any]) -> Name:
    return manifest["kind"], manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]


def _job_of(pod: Manifest) -> str:
    return next((str(o["name"]) for o in pod["metadata"].get("ownerReferences", []) if o["kind"] == "Job"), "")


def _version(manifest: Manifest) -> int:
    return int(manifest["metadata"]["resourceVersion"])


def _relabelled(node: Manifest, wanted: Mapping[str, Any]) -> Manifest:
    """Labels that our manager owned and no longer sends go; those it sends are set, and are its own."""
    meta, sent = node["metadata"], wanted["metadata"]["labels"]
    own = [entry for entry in meta["managedFields"] if entry["manager"] == labels.WORKSPACE_MANAGER]
    owned = {key[2:] for entry in own for key in entry["fieldsV1"]["f:metadata"]["f:labels"]}
    kept = {key: value for key, value in meta["labels"].items() if key not in owned - sent.keys()}
    fields: Manifest = {"f:metadata": {"f:labels": {f"f:{key}": {} for key in sent}}}
    managed = [{"manager": labels.WORKSPACE_MANAGER, "operation": "Apply", "fieldsV1": fields}]
    return {**node, "metadata": {**meta, "labels": {**kept, **sent}, "managedFields": managed}}


def _merged(seen: Manifest, wanted: Mapping[str, Any]) -> Manifest:
    """What was sent over what is there; a changed spec is a new generation."""
    meta = seen["metadata"]
    changed = {key: value for key, value in wanted.items() if key != "metadata" and seen.get(key) != value}
    generation = meta["generation"] + bool(changed)
    return {**seen, **changed, "metadata": {**meta, **wanted["metadata"], "generation": generation}}
