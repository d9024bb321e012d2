"""A process that holds a Lease, for tests that stop or kill it.

``python -m tests.support.lease_holder KUBECONFIG NAMESPACE HOST`` says ``leading`` when it leads, and then writes a
ConfigMap named after HOST again and again, one number higher each time. A line on its standard input has it block its
event loop.
"""

import asyncio
import sys
import threading

from kaito_operator.kube.client import Kube
from kaito_operator.leader import Leader

SECONDS = 3.0
"""Short, and still long enough that a busy machine renews within two thirds of it."""
LEASE = "held"


async def hold(kubeconfig: str, namespace: str, host: str) -> None:
    """Until the end."""
    leader = Leader(await Kube.connect(kubeconfig), name=LEASE, namespace=namespace, host=host, seconds=SECONDS)
    kube = await Kube.connect(kubeconfig, may_write=lambda: leader.leads)
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin, lambda: threading.Event().wait(60))
    async with leader.term():
        sys.stdout.write("leading\n")
        sys.stdout.flush()
        number = 0
        while True:
            number += 1
            meta = {"name": host, "namespace": namespace}
            await kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"n": str(number)}})
            await asyncio.sleep(0.01)


if __name__ == "__main__":
    asyncio.run(hold(*sys.argv[1:]))
