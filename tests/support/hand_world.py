"""What is not the operator, moved by hand and one step at a time: machines become nodes, workloads roll out, Jobs end.

For tests on a real API server with nobody behind it. Each step is decided by what is stored, so that two runs which
store the same are moved the same way.
"""

import json
from dataclasses import dataclass
from typing import Any

from tests.support.control_plane import ApiServer

Json = dict[str, Any]
NOW = "2026-01-02T11:00:00Z"
MACHINES = "/apis/karpenter.sh/v1alpha5/machines"
STEPS = ("MachineLaunched", "MachineRegistered", "MachineInitialized", "Ready")
TRAINED = json.dumps({"digest": f"sha256:{'0' * 64}"})


@dataclass(frozen=True)
class HandWorld:
    """The rest of the world for the Workspaces of one namespace."""

    server: ApiServer
    namespace: str

    def step(self) -> bool:
        """Moves everything one step further; False if nothing moved."""
        moved = [
            *(self._provision(machine) for machine in self.machines()),
            *(self.roll_out(each) for each in self.all("/apis/apps/v1", "deployments")),
            *(self._work_off(job) for job in self.all("/apis/batch/v1", "jobs")),
            *(self._collect(pod) for pod in self.all("/api/v1", "pods")),
        ]
        return any(moved)

    def machines(self) -> list[Json]:
        """The Machines of the namespace's Workspaces."""
        selector = f"?labelSelector=kaito.sh%2Fworkspacenamespace%3D{self.namespace}"
        found: list[Json] = self.server.ask("GET", MACHINES + selector)["items"]
        return found

    def nodes(self) -> list[Json]:
        """Their nodes."""
        selector = f"?labelSelector=kaito.sh%2Fworkspacenamespace%3D{self.namespace}"
        found: list[Json] = self.server.ask("GET", f"/api/v1/nodes{selector}")["items"]
        return found

    def all(self, group: str, plural: str) -> list[Json]:
        """Everything of a kind in the namespace."""
        found: list[Json] = self.server.ask("GET", f"{group}/namespaces/{self.namespace}/{plural}")["items"]
        return found

    def _provision(self, machine: Json) -> bool:
        """As gpu-provisioner does it: its finalizer first, a node, Ready; and the way back."""
        meta, path = machine["metadata"], f"{MACHINES}/{machine['metadata']['name']}"
        node = f"n-{meta['name']}"
        if "deletionTimestamp" in meta:
            if self.server.get(f"/api/v1/nodes/{node}") is not None:
                self.server.ask("DELETE", f"/api/v1/nodes/{node}")
            self.server.merge(path, {"metadata": {"finalizers": []}})
            return True
        if "finalizers" not in meta:
            self.server.merge(path, {"metadata": {"finalizers": ["karpenter.sh/termination"]}})
            return True
        if machine.get("status"):
            return False
        self._join(machine, node)
        done = [{"type": s, "status": "True", "reason": s, "message": "", "lastTransitionTime": NOW} for s in STEPS]
        self.server.merge(f"{path}/status", {"status": {"conditions": done, "nodeName": node}})
        return True

    def _join(self, machine: Json, node: str) -> None:
        size = next(r["values"][0] for r in machine["spec"]["requirements"] if r["key"].endswith("instance-type"))
        labels = {**machine["metadata"]["labels"], "node.kubernetes.io/instance-type": size}
        made = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}}
        self.server.ask("POST", "/api/v1/nodes", made)
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastTransitionTime": NOW}
        self.server.merge(f"/api/v1/nodes/{node}/status", {"status": {"conditions": [ready]}})
        self.server.merge(f"/api/v1/nodes/{node}", {"spec": {"taints": None}})

    def roll_out(self, deployment: Json) -> bool:
        """A Deployment is rolled out as soon as it is seen; False if it is already."""
        meta, wanted = deployment["metadata"], deployment["spec"]["replicas"]
        if deployment.get("status", {}).get("observedGeneration") == meta["generation"]:
            return False
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), wanted)
        path = f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{meta['name']}/status"
        self.server.merge(path, {"status": {"observedGeneration": meta["generation"], **counts}})
        return True

    def _work_off(self, job: Json) -> bool:
        """Its pod, then the pod's end, then the Job's."""
        meta = job["metadata"]
        pods = f"/api/v1/namespaces/{self.namespace}/pods"
        path = f"{pods}/{meta['name']}-abcde"
        pod = self.server.get(path)
        if pod is None:
            owner = {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": meta["name"],
                "uid": meta["uid"],
                "controller": True,
            }
            labels = job["spec"]["template"]["metadata"]["labels"]
            made = {"name": f"{meta['name']}-abcde", "labels": labels, "ownerReferences": [owner]}
            spec = {"restartPolicy": "Never", "containers": [{"name": "publish", "image": "x"}]}
            self.server.ask("POST", pods, {"metadata": made, "spec": spec})
            return True
        if pod["status"]["phase"] == "Pending":
            ended = {"exitCode": 0, "reason": "Completed", "message": TRAINED}
            container = {"name": "publish", "image": "x", "imageID": "x", "ready": False, "restartCount": 0}
            status = {"phase": "Succeeded", "containerStatuses": [{**container, "state": {"terminated": ended}}]}
            self.server.merge(f"{path}/status", {"status": status})
            return True
        if job.get("status", {}).get("conditions"):
            return False
        over = [
            {"type": type, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": NOW}
            for type in ("SuccessCriteriaMet", "Complete")
        ]
        counted = {"succeeded": 1, "startTime": NOW, "completionTime": NOW, "conditions": over}
        self.server.merge(
            f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{meta['name']}/status",
            {"status": {**counted, "uncountedTerminatedPods": {}}},
        )
        return True

    def _collect(self, pod: Json) -> bool:
        """Pods of Jobs that are gone: nobody else collects them here."""
        owners = [owner["name"] for owner in pod["metadata"].get("ownerReferences", ()) if owner["kind"] == "Job"]
        jobs = {job["metadata"]["name"] for job in self.all("/apis/batch/v1", "jobs")}
        if not owners or set(owners) <= jobs:
            return False
        self.server.ask(
            "DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}?gracePeriodSeconds=0"
        )
        return True
