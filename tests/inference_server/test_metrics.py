"""What /metrics says: cards by NVML, the engine's load, and both for Prometheus and for KAITO's clients."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference_server.engines.engine import Load
from inference_server.gpus import Gpus
from inference_server.limits import Admission
from inference_server.metrics import Metrics
from tests.support.nvml import GIB, Driver
from tests.support.scripted_engine import ScriptedEngine


def metrics(driver: Driver) -> Metrics:
    return Metrics(ScriptedEngine(), admission=Admission(places=lambda: 1), gpus=Gpus(driver))


def samples(of: Metrics, beginning: str) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(of.text().decode())
    found = [each for family in families for each in family.samples if each.name.startswith(beginning)]
    return {(each.name.removeprefix(beginning), each.labels.get("gpu", "")): each.value for each in found}


def test_prometheus_gets_of_each_card_what_its_driver_tells() -> None:
    assert samples(metrics(Driver()), "kaito_inference_gpu_") == {
        ("memory_used_bytes", "0"): 20 * GIB,
        ("memory_bytes", "0"): 80 * GIB,
        ("utilization_percent", "0"): 25,
        ("temperature_celsius", "0"): 55,
        ("memory_used_bytes", "1"): GIB,
        ("memory_bytes", "1"): 10 * GIB,
    }


def test_kaitos_clients_get_the_cards_in_its_shape() -> None:
    assert metrics(Driver()).hardware() == {
        "gpu_info": [
            {
                "id": "0",
                "name": "NVIDIA A100 80GB PCIe",
                "load": "25.00%",
                "temperature": "55 C",
                "memory": {"used": "20.00 GB", "total": "80.00 GB"},
            },
            {
                "id": "1",
                "name": "NVIDIA A100 MIG 1g.10gb",
                "load": "N/A",
                "temperature": "N/A",
                "memory": {"used": "1.00 GB", "total": "10.00 GB"},
            },
        ],
        "cpu_info": None,
    }


def test_without_a_driver_there_are_processors() -> None:
    of = metrics(Driver(there=False))
    assert samples(of, "kaito_inference_gpu_") == {}
    assert of.hardware()["gpu_info"] is None
    assert set(of.hardware()["cpu_info"]) == {"load_percentage", "physical_cores", "total_cores", "memory"}


def test_a_driver_that_comes_back_is_connected_to_again() -> None:
    driver = Driver()
    gpus = Gpus(driver)
    assert [len(gpus.read()), len(gpus.read()), driver.opened] == [2, 2, 1]
    driver.there = False
    assert gpus.read() == []
    driver.there = True
    assert [len(gpus.read()), driver.opened] == [2, 2]


@pytest.mark.parametrize("beginning", ["kaito_inference_requests_", "vllm:num_requests_"])
def test_the_engines_load_has_our_names_and_those_that_kaitos_scaler_reads(beginning: str) -> None:
    engine = ScriptedEngine()
    engine.load = Load(running=3, waiting=2, cache_blocks=64, cache_blocks_used=7)
    of = Metrics(engine, admission=Admission(places=lambda: 1), gpus=Gpus(Driver()))
    told = samples(of, beginning)
    assert (told["running", ""], told["waiting", ""]) == (3, 2)
    assert samples(of, "kaito_inference_cache_") == {("blocks", ""): 64, ("blocks_used", ""): 7}
