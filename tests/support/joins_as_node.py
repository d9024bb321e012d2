"""Virtual machines of Azure's stand-in that are Nodes of a test API server, and nothing else."""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kaito_operator.api.conditions import timestamp
from local_cluster.azure_machines import VirtualMachine
from local_cluster.errors import LocalClusterError
from tests.support.control_plane import ApiServer, Refused
from tests.support.waiting import surely

NODES = "/api/v1/nodes"


@dataclass
class JoinsAsNode:
    """Virtual machines whose kubelets say Ready at once, and ask again where a busy API server does not answer."""

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
        if surely(lambda: self.server.get(path)) is not None:
            silent = {"status": {"conditions": [_ready("Unknown", "NodeStatusUnknown")]}}
            surely(lambda: self.server.merge(f"{path}/status", silent))
            surely(lambda: self.server.ask("DELETE", path))

    def _join(self, machine: VirtualMachine) -> None:
        have = {"cpu": "12", "memory": "220Gi"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": machine.name, "labels": dict(machine.labels)},
            "spec": {"providerID": machine.provider_id},
            "status": {"conditions": [_ready("True", "KubeletReady")], "capacity": have, "allocatable": have},
        }
        surely(lambda: self._registered(node))
        # admission taints every new node
        surely(lambda: self.server.merge(f"{NODES}/{machine.name}", {"spec": {"taints": []}}))

    def _registered(self, node: dict[str, Any]) -> None:
        """As a kubelet registers: a Node that is there already is its own."""
        if self.server.get(f"{NODES}/{node['metadata']['name']}") is None:
            self.server.ask("POST", NODES, node)


def _ready(truth: str, reason: str) -> dict[str, str]:
    since = timestamp(datetime.now(UTC))
    return {"type": "Ready", "status": truth, "reason": reason, "message": "", "lastTransitionTime": since}
