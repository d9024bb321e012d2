import time
import pytest
from kaito_operator.kube.client import Kube

pytestmark = pytest.mark.controlplane


async def test_speed(kube: Kube, namespace: str) -> None:
    t = time.perf_counter()
    for n in range(200):
        await kube.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": f"a{n}", "namespace": namespace},
                "data": {"n": "1"},
            }
        )
    print(time.perf_counter() - t)


async def test_crds(crds: None, kube: Kube) -> None:
    pass
