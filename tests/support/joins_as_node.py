"""Virtual machines of Azure's stand-in that are Nodes of a test API server, and nothing else."""

import asyncio
from dataclasses import dataclass

from local_cluster.azure_machines import VirtualMachine
from local_cluster.errors import LocalClusterError
from tests.support.control_plane import ApiServer, Refused

NODES = "/api/v1/nodes"


@dataclass
class JoinsAsNode:
    """Virtual machines whose kubelets say Ready at once."""

    server: ApiServer

    async def start(self, machine: VirtualMachine) -> None:
        """The Node appears. Raises LocalClusterError, as a machine does that cannot be had."""
        try:
            await asyncio.to_thread(self._join, machine)
        except Refused as no:
            raise LocalClusterError(str(no)) from no

    async def stop(self, name: str) -> None:
        """The Node goes with its machine: it is not Ready any more, and then it is deleted."""
        await asyncio.to_thread(self._lose, name)

    def _lose(self, name: str) -> None:
        path = f"{NODES}/{name}"
        if self.server.get(path) is not None:
            silent = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": ""}
            self.server.merge(f"{path}/status", {"status": {"conditions": [silent]}})
            self.server.ask("DELETE", path)

    def _join(self, machine: VirtualMachine) -> None:
        meta = {"name": machine.name, "labels": dict(machine.labels)}
        spec = {"providerID": machine.provider_id}
        self.server.ask("POST", NODES, {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": spec})
        self.server.merge(f"{NODES}/{machine.name}", {"spec": {"taints": []}})  # admission taints every new node
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
        have = {"cpu": "12", "memory": "220Gi"}
        self.server.merge(
            f"{NODES}/{machine.name}/status", {"status": {"conditions": [ready], "capacity": have, "allocatable": have}}
        )
