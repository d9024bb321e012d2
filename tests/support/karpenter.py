"""A real Karpenter with a provider that needs no cloud (kwok), and what plays kubelet on the nodes it makes."""

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from local_cluster import binaries, go_build
from tests.support.control_plane import ApiServer, establish
from tests.support.ports import free_ports

Json = dict[str, Any]
CLAIMS = "/apis/karpenter.sh/v1/nodeclaims"
CLASSES = "/apis/karpenter.kwok.sh/v1alpha1/kwoknodeclasses"
NODES = "/api/v1/nodes"
NODE_CLASS = "default"
PROGRAM = binaries.PROGRAMS["karpenter"]
NOT_NEEDED = ("karpenter.sh_nodeoverlays.yaml", "autoscaling.x-k8s.io_capacitybuffers.yaml")


def definitions() -> list[Json]:
    """Karpenter's own CRDs, out of the source that go.mod pins."""
    go = go_build.find_go()
    if go is None:
        raise binaries.BinariesMissing("Karpenter's CRDs are read from its source: install Go 1.26")
    said = subprocess.run(
        [go, "mod", "download", "-json", f"{PROGRAM.module}@{PROGRAM.version}"],
        cwd=PROGRAM.directory,
        capture_output=True,
        text=True,
        check=True,
    )
    source = Path(json.loads(said.stdout)["Dir"])
    paths = [*source.glob("pkg/apis/crds/*.yaml"), *source.glob("kwok/apis/crds/*.yaml")]
    return [yaml.safe_load(path.read_text()) for path in sorted(paths) if path.name not in NOT_NEEDED]


def instance_types(*names: str) -> list[Json]:
    """What the provider offers: each size on demand and as a spot machine, which is cheaper."""
    return [
        {
            "name": name,
            "offerings": [
                {
                    "Price": price,
                    "Available": True,
                    "Requirements": [
                        {"key": "karpenter.sh/capacity-type", "operator": "In", "values": [capacity]},
                        {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["test-zone-a"]},
                    ],
                }
                for capacity, price in (("spot", 0.1), ("on-demand", 0.2))
            ],
            "architecture": "amd64",
            "operatingSystems": ["linux"],
            "resources": {"cpu": "2", "memory": "8Gi", "pods": "110", "ephemeral-storage": "100Gi"},
        }
        for name in names
    ]


@dataclass
class Karpenter:
    """The cluster as Karpenter keeps it."""

    server: ApiServer
    offers: Path
    log: Path

    @contextmanager
    def process(self) -> Iterator[subprocess.Popen[bytes]]:
        """A running Karpenter."""
        metrics, health = free_ports(2)
        environment = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(self.server.kubeconfig("karpenter")),
            "KUBERNETES_MIN_VERSION": "1.19.0-0",
            "SYSTEM_NAMESPACE": "kube-system",
            "KARPENTER_SERVICE": "karpenter",
            "DISABLE_LEADER_ELECTION": "true",
            "METRICS_PORT": str(metrics),
            "HEALTH_PROBE_PORT": str(health),
            "INSTANCE_TYPES_FILE_PATH": str(self.offers),
        }
        program = binaries.find("karpenter")["karpenter"]
        with (
            self.log.open("ab") as out,
            subprocess.Popen([program], env=environment, stdout=out, stderr=out) as running,
        ):
            try:
                yield running
            finally:
                running.kill()

    def claims(self, namespace: str = "") -> list[Json]:
        """The claims, of all Workspaces or of those of one namespace."""
        found: list[Json] = self.server.ask("GET", CLAIMS)["items"]
        return [c for c in found if not namespace or c["metadata"]["labels"].get(OF) == namespace]

    def nodes(self, namespace: str) -> list[Json]:
        """The nodes that bear its Workspaces' labels."""
        found: list[Json] = self.server.ask("GET", NODES)["items"]
        return [node for node in found if node["metadata"].get("labels", {}).get(OF) == namespace]

    def ready(self, claim: Mapping[str, Any]) -> bool:
        """Whether Karpenter calls the claim Ready."""
        conditions = claim.get("status", {}).get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def node_class(self, name: str = NODE_CLASS, *, ready: bool = True, message: str = "") -> None:
        """A class of nodes, and what it says of itself."""
        if self.server.get(f"{CLASSES}/{name}") is None:
            made = {"apiVersion": "karpenter.kwok.sh/v1alpha1", "kind": "KWOKNodeClass", "metadata": {"name": name}}
            self.server.ask("POST", CLASSES, {**made, "spec": {}})
        condition = {
            "type": "Ready",
            "status": str(ready),
            "reason": "Ready" if ready else "NotReady",
            "message": message,
            "lastTransitionTime": "2026-01-02T11:00:00Z",
        }
        self.server.merge(f"{CLASSES}/{name}/status", {"status": {"conditions": [condition]}})

    async def play_kubelets(self) -> None:
        """Makes every node Ready that is not, as its kubelet and the node controller would, until cancelled."""
        while True:
            for node in await asyncio.to_thread(self._nodes):
                if node["spec"].get("providerID", "").startswith("kwok://") and not _says_ready(node):
                    await asyncio.to_thread(self.post_ready, node["metadata"]["name"])
            await asyncio.sleep(0.2)

    def _nodes(self) -> list[Json]:
        found: list[Json] = self.server.ask("GET", NODES)["items"]
        return found

    def post_ready(self, name: str, *, ready: bool = True) -> None:
        """The kubelet's own condition, and the taint that goes with it."""
        said = {"type": "Ready", "status": str(ready), "reason": "KubeletReady", "message": ""}
        status = {"status": {"conditions": [{**said, "lastTransitionTime": "2026-01-02T11:00:00Z"}]}}
        self.server.merge(f"{NODES}/{name}/status", status)
        node = self.server.get(f"{NODES}/{name}") or {"spec": {}}
        kept = [t for t in node["spec"].get("taints", []) if t["key"] != "node.kubernetes.io/not-ready"]
        self.server.merge(f"{NODES}/{name}", {"spec": {"taints": kept or None}})


OF = "kaito.sh/workspacenamespace"


def _says_ready(node: Json) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def prepared(server: ApiServer, directory: Path, *sizes: str) -> Karpenter:
    """The CRDs, the default class of nodes, and what is on offer; Karpenter itself is still to be started."""
    for definition in definitions():
        establish(server, definition)
    offers = directory / "offers.json"
    offers.write_text(json.dumps(instance_types(*sizes)))
    karpenter = Karpenter(server, offers, directory / "karpenter.log")
    karpenter.node_class()
    return karpenter
