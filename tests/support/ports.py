"""Ports for programs that are told one before they listen: nobody else is given the same meanwhile.

One that the kernel picks (port 0) is free again as soon as it is known, and a program that starts takes seconds to
listen there. In that time the kernel gives it to others, who also run tests on this machine. So these are not among
those that it picks from, and each process has some to itself.
"""

import itertools
import random
import socket
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PICKED = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST, MOST = 1024, 20_000
"""Below the former only root may listen; so many below those that the kernel picks from are shared out."""
TO_ITSELF = 200
"""One process has these, and uses them again after a while."""
CHANCE = random.SystemRandom()
"""Not that of the tests, which is the same each time: kubectl believes what it remembers of a port's last server."""


def free_ports(count: int) -> list[int]:
    """Different ones, on which nobody listens."""
    return list(itertools.islice(filter(_is_free, _own()), count))


def free_port() -> int:
    """One of them."""
    (port,) = free_ports(1)
    return port


@cache
def _own() -> Iterator[int]:
    """This process's, again and again. The claim to them is a socket that the kernel closes when the process ends."""
    picked = int(PICKED.read_text().split()[0])
    end = picked if picked > 2 * LOWEST else LOWEST + MOST  # where it picks from all, these are as good as any
    blocks = range(max(LOWEST, end - MOST), end - TO_ITSELF + 1, TO_ITSELF)
    for block in CHANCE.sample(blocks, len(blocks)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0kaito-test-ports-{block}")  # in the namespace of the network that the ports are of
        except OSError:
            claim.close()
            continue
        return _again(CHANCE.sample(range(block, block + TO_ITSELF), TO_ITSELF), claim=claim)
    raise RuntimeError(f"all ports between {blocks.start} and {end} are claimed by other test processes")


def _again(ports: Iterable[int], *, claim: socket.socket) -> Iterator[int]:
    with claim:
        yield from itertools.cycle(ports)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True
