"""When only the push failed, the next Job pushes what was trained, and trains nothing."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from presets.tuning_steps import ExitCode
from tests.support.faulty_http import Fault, Site, serve
from tests.support.oci_registry import RunningRegistry, registry
from tests.support.tiny_model import write_tiny_model
from tests.support.warm_process import ended, run_tuning
from tuning_runner.address_guard import Guard
from tuning_runner.fetch import fetch
from tuning_runner.image_reference import parse_reference
from tuning_runner.patience import Patience
from tuning_runner.publish import publish
from tuning_runner.transfer_ending import StepFailed

pytestmark = [pytest.mark.tuning, pytest.mark.faults]
QUICK = Patience(pauses=(0.01,))
TROUBLES = {
    "denied": ([Fault(status=403, method="POST")], ExitCode.PUSH_DENIED),
    "down": ([Fault(status=503)] * 9, ExitCode.PUSH_FAILED),
    "broken off": ([Fault(before=True, method="PUT")] * 9, ExitCode.PUSH_FAILED),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A training of two steps."""
    write_tiny_model(tmp_path / "model")
    (tmp_path / "data").mkdir()
    rows = [{"prompt": f"w{i} w{i + 1}", "completion": "w5"} for i in range(4)]
    (tmp_path / "data/rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sections = {"ModelConfig": {"torch_dtype": "float32"}, "TrainingArguments": {"max_steps": 2, "save_strategy": "no"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"training_config": sections}))
    return tmp_path


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_push_that_failed_is_made_again_without_training_again(
    trouble: str, place: Path, running: RunningRegistry, count_cases: Callable[[str, int], None]
) -> None:
    faults, code = TROUBLES[trouble]
    assert ended(run_tuning, str(place)) == ExitCode.DONE
    trained = (place / "results/adapter/adapter_model.safetensors").read_bytes()
    with serve(Site(upstream=running.host)) as proxy:
        host = f"127.0.0.1:{proxy.port}"
        image = parse_reference(f"{host}/again/{trouble.replace(' ', '-')}:v1")
        auth = [running.auth_file(place, host=host)]
        guard = Guard(private=True, plain_http=frozenset({host}))
        proxy.faults = list(faults)
        with pytest.raises(StepFailed) as failed:
            publish(place / "results", image=image, auth=auth, guard=guard, patience=QUICK)
        assert failed.value.code == code
        proxy.faults = []
        assert ended(run_tuning, str(place)) == ExitCode.DONE
        again = json.loads((place / "words").read_text())
        assert (again["trained"], again["steps"]) == (False, 2)
        said = publish(place / "results", image=image, auth=auth, guard=guard, patience=QUICK)
        (place / "got").mkdir()
        got = fetch(image, to=place / "got", auth=auth, guard=guard, max_bytes=1 << 30, patience=QUICK)
    assert isinstance(got, dict)
    assert got["digest"] == said["digest"]
    assert (place / "got/adapter_model.safetensors").read_bytes() == trained
    card = (place / "got/README.md").read_text()
    assert all(row in card for row in ("| base model | tiny |", "| method | lora |", "| steps | 2 |", "rows.jsonl"))
    count_cases("pushes made again without training", 1)
