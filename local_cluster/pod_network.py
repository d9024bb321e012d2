"""The network of a node's pods: each pod has a network namespace and an address that only a route leads to.

A pair of virtual Ethernet devices joins every pod with the cluster's namespace, which routes between them, as the ptp
plugin of CNI does. There are no bridges, and no process keeps a namespace alive: the open file does.
"""

import asyncio
import os
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from pyroute2 import IPRoute

from local_cluster import linux
from local_cluster.errors import LocalClusterError

POD_INTERFACE = "eth0"
LINK = 253
"""RT_SCOPE_LINK of rtnetlink(7): the other end is at the end of the wire."""


@dataclass(frozen=True, slots=True)
class PodLink:
    """A pod's connection: its address, its network namespace (an open file) and the device at our end."""

    address: str
    namespace: int
    device: str

    @property
    def namespace_path(self) -> str:
        """Where other processes find the namespace."""
        return f"/proc/{os.getpid()}/fd/{self.namespace}"


class PodNetwork:
    """Connects pods and gives them addresses; ``node_address`` is their gateway."""

    def __init__(self, *, node_address: str, pod_range: str) -> None:
        self.node_address = node_address
        self._hosts = tuple(str(host) for host in IPv4Network(pod_range).hosts())
        self._taken: set[str] = set()
        self._next = 0
        self._one_at_a_time = asyncio.Lock()

    async def open(self) -> None:
        """Gives the node its address, unless it has it."""
        await asyncio.to_thread(self._add_node_address)

    async def attach(self) -> PodLink:
        """A new network namespace with an address. Raises LocalClusterError if the node has none left."""
        with ExitStack() as undo:
            address = self._take_address()
            undo.callback(self.release, address)
            link = await asyncio.to_thread(self._connect, address)
            undo.pop_all()
        return link

    async def detach(self, link: PodLink) -> None:
        """Ends the connection; processes still in the namespace are alone there. The address stays taken."""
        await asyncio.to_thread(_disconnect, link)

    def release(self, address: str) -> None:
        """Lets another pod have the address."""
        self._taken.discard(address)

    def _take_address(self) -> str:
        """The next free one; an address just released is the last to be given again, as some may remember it."""
        for _ in self._hosts:
            address = self._hosts[self._next % len(self._hosts)]
            self._next += 1
            if address not in self._taken:
                self._taken.add(address)
                return address
        raise LocalClusterError(f"all {len(self._hosts)} pod addresses of the node are taken")

    def _add_node_address(self) -> None:
        with IPRoute() as network:
            loopback = network.link_lookup(ifname="lo")[0]
            if not network.get_addr(index=loopback, address=self.node_address):
                network.addr("add", index=loopback, address=self.node_address, prefixlen=32)

    def _connect(self, address: str) -> PodLink:
        device = f"pod{address.split('.', 2)[2]}"
        with linux.new_network_namespace() as namespace:
            inside = IPRoute()
            # As containerd's enable_unprivileged_ports: in a namespace of one's own, port 80 needs no privilege.
            Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
        with ExitStack() as undo, inside, IPRoute() as outside:
            undo.callback(os.close, namespace)
            outside.link("add", ifname=device, kind="veth", peer={"ifname": POD_INTERFACE, "net_ns_fd": namespace})
            index = outside.link_lookup(ifname=device)[0]
            outside.link("set", index=index, state="up")
            outside.route("add", dst=f"{address}/32", oif=index, prefsrc=self.node_address, scope=LINK)
            self._furnish(inside, address=address)
            undo.pop_all()
        return PodLink(address=address, namespace=namespace, device=device)

    def _furnish(self, pod: IPRoute, *, address: str) -> None:
        """The pod's end: loopback, its address, and the node as the way to everywhere."""
        pod.link("set", index=pod.link_lookup(ifname="lo")[0], state="up")
        index = pod.link_lookup(ifname=POD_INTERFACE)[0]
        pod.addr("add", index=index, address=address, prefixlen=32)
        pod.link("set", index=index, state="up")
        pod.route("add", dst=f"{self.node_address}/32", oif=index, scope=LINK)
        pod.route("add", dst="default", gateway=self.node_address, oif=index, prefsrc=address)


def _disconnect(link: PodLink) -> None:
    with IPRoute() as network:
        for index in network.link_lookup(ifname=link.device):
            network.link("del", index=index)
    os.close(link.namespace)
