"""What is not the operator, as fast as can be: Machines become Ready nodes, Deployments roll out."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.support.control_plane import MERGE, ApiServer

Json = dict[str, Any]
NOW = "2026-01-02T11:00:00Z"
MACHINES = "/apis/karpenter.sh/v1alpha5/machines"
DEPLOYMENTS = "/apis/apps/v1/deployments"
WORKSPACES = "/apis/kaito.sh/v1alpha1/workspaces"
STEPS = ("MachineLaunched", "MachineRegistered", "MachineInitialized", "Ready")


class StubWorld:
    """Provisioner, kubelets and the Deployment's controller, as the user admin: the audit log tells who asked."""

    def __init__(self, server: ApiServer, client: httpx.AsyncClient, *, boot_seconds: float) -> None:
        self._server, self._client, self._boot_seconds = server, client, boot_seconds
        self._known: set[str] = set()
        self.never: set[str] = set()
        """Workspaces whose Machines never come."""
        self.ready: dict[str, float] = {}
        """Workspace → when it was seen Ready, on the loop's clock."""
        self.gone: dict[str, float] = {}
        self._moved = asyncio.Condition()

    async def write(self, method: str, path: str, body: object, *, content: str = "application/json") -> None:
        """A request that must succeed, or find that somebody was faster."""
        answer = await self._client.request(method, path, content=json.dumps(body), headers={"Content-Type": content})
        if answer.status_code not in (200, 201, 202, 404, 409):
            raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text}")

    async def machine(self, type: str, seen: Json) -> None:
        """A node for each Machine, once."""
        meta = seen["metadata"]
        if type == "DELETED":
            await self.write("DELETE", f"/api/v1/nodes/n-{meta['name']}", {})
        elif meta["labels"]["kaito.sh/workspace"] in self.never:
            return
        elif meta["name"] not in self._known:
            self._known.add(meta["name"])
            await asyncio.sleep(self._boot_seconds)
            await self._boot(seen)

    async def _boot(self, machine: Json) -> None:
        name = machine["metadata"]["name"]
        size = next(r["values"][0] for r in machine["spec"]["requirements"] if r["key"].endswith("instance-type"))
        own = machine["metadata"]["labels"]
        node = {"name": f"n-{name}", "labels": {**own, "node.kubernetes.io/instance-type": size}}
        await self.write("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": node})
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastTransitionTime": NOW}
        await self.write("PATCH", f"/api/v1/nodes/n-{name}/status", {"status": {"conditions": [ready]}}, content=MERGE)
        done = [{"type": s, "status": "True", "reason": s, "message": "", "lastTransitionTime": NOW} for s in STEPS]
        status = {"status": {"conditions": done, "nodeName": f"n-{name}"}}
        await self.write("PATCH", f"{MACHINES}/{name}/status", status, content=MERGE)

    async def deployment(self, type: str, seen: Json) -> None:
        """Every generation is rolled out as soon as it is seen."""
        meta, wanted = seen["metadata"], seen["spec"]["replicas"]
        if type == "DELETED" or seen.get("status", {}).get("observedGeneration") == meta["generation"]:
            return
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), wanted)
        path = f"/apis/apps/v1/namespaces/{meta['namespace']}/deployments/{meta['name']}/status"
        await self.write("PATCH", path, {"status": {"observedGeneration": meta["generation"], **counts}}, content=MERGE)

    async def workspace(self, type: str, seen: Json) -> None:
        """Notes when it became Ready, and when it went."""
        name, now = seen["metadata"]["name"], asyncio.get_running_loop().time()
        conditions = seen.get("status", {}).get("conditions", [])
        if type == "DELETED":
            self.gone[name] = now
        elif any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
            self.ready.setdefault(name, now)
        async with self._moved:
            self._moved.notify_all()

    async def all_ready(self, count: int, *, within: float) -> None:
        """Returns when so many Workspaces have been Ready."""
        async with asyncio.timeout(within), self._moved:
            await self._moved.wait_for(lambda: len(self.ready) >= count)

    async def are_ready(self, names: set[str], *, within: float) -> None:
        """Returns when these Workspaces have been Ready."""
        async with asyncio.timeout(within), self._moved:
            await self._moved.wait_for(lambda: names <= self.ready.keys())

    async def all_gone(self, count: int, *, within: float) -> None:
        """Returns when so many Workspaces are gone."""
        async with asyncio.timeout(within), self._moved:
            await self._moved.wait_for(lambda: len(self.gone) >= count)

    async def follow(self, path: str, on_event: Callable[[str, Json], Coroutine[Any, Any, None]]) -> None:
        """Watches a kind until cancelled; nothing waits for the answer to another event.

        An API server under load ends the watches of those who read slowly: then everything is looked at again.
        """
        async with asyncio.TaskGroup() as under_way:
            while True:
                listed = (await self._client.get(path)).json()
                for item in listed["items"]:
                    under_way.create_task(on_event("ADDED", item))
                since = listed["metadata"]["resourceVersion"]
                async with self._client.stream("GET", f"{path}?watch=1&resourceVersion={since}") as lines:
                    async for line in lines.aiter_lines():
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            break
                        under_way.create_task(on_event(event["type"], event["object"]))


@asynccontextmanager
async def stub_world(server: ApiServer, *, boot_seconds: float) -> AsyncIterator[StubWorld]:
    """A running one."""
    headers = {"Authorization": f"Bearer {server.tokens['admin']}"}
    limits, trusted = httpx.Limits(max_connections=64), ssl.create_default_context(cafile=str(server.plane.authority))
    async with httpx.AsyncClient(
        base_url=server.url, headers=headers, verify=trusted, timeout=None, limits=limits
    ) as client:
        world = StubWorld(server, client, boot_seconds=boot_seconds)
        watches = ((MACHINES, world.machine), (DEPLOYMENTS, world.deployment), (WORKSPACES, world.workspace))
        tasks = [asyncio.create_task(world.follow(path, each)) for path, each in watches]
        try:
            yield world
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
