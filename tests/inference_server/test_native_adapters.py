"""Adapters in the native engine: each request its own in one batch, with the numbers that peft has."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, Phi3Config

from inference_server.engines.adapters import COMBINED
from inference_server.engines.decode_graphs import Record, Step, recorded
from inference_server.engines.native import architecture
from inference_server.engines.native.kv_cache import BlockAllocator
from inference_server.engines.native.served import NativeModel
from inference_server.engines.sampler import Chooser, Sampling
from inference_server.settings import Settings
from tests.inference_server.test_adapters import write_adapter
from tests.support import tape
from tests.support.tiny_model import write_tiny_model

pytestmark = [
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # peft, see above
]
PROMPT = [5 + number % 50 for number in range(37)]
"""Longer than two blocks, so that a wrong sharing of prefixes would show."""
NEW = 8
STRENGTHS = {"one": 0.25, "other": 0.5}


def phi3(directory: Path) -> Path:
    """Its q, k, v and its gate, up are one module each in the checkpoint too."""
    write_tiny_model(directory)
    torch.manual_seed(5)
    config = Phi3Config(
        vocab_size=65, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


@pytest.fixture(params=[write_tiny_model, phi3], ids=["llama", "phi 3"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make: Callable[[Path], Path] = request.param
    return make(tmp_path / "base")


@pytest.fixture
def two(base: Path, tmp_path: Path) -> Path:
    """Adapters of different ranks and layers."""
    phi = "phi3" in (base / "config.json").read_text()
    write_adapter(
        base, tmp_path / "two" / "one", target_modules=["qkv_proj", "lm_head"] if phi else ["q_proj", "v_proj"]
    )
    write_adapter(base, tmp_path / "two" / "other", seed=2, r=2, lora_alpha=60, target_modules="all-linear")
    return tmp_path / "two"


def native(base: Path, directory: Path, **strengths: float) -> NativeModel:
    settings = Settings(
        pretrained_model_name_or_path=str(base),
        torch_dtype="float32",
        adapters_dir=str(directory),
        adapter_strength=tuple(strengths.items()),
    )
    return NativeModel.load(settings, say=lambda _: None)


def answers(model: NativeModel, names: Sequence[str | None]) -> dict[str | None, tuple[list[int], list[float]]]:
    """Tokens with their log-probabilities, all names in one batch."""
    told: dict[str | None, tuple[list[int], list[float]]] = {name: ([], []) for name in names}
    running = {
        model.sequence(PROMPT, NEW, Chooser(Sampling(temperature=0.0, top_logprobs=1)), adapter=name): name
        for name in names
    }
    for sequence in running:
        model.add(sequence)
    while model.busy:
        for sequence, token in model.step():
            tokens, logprobs = told[running[sequence]]
            tokens.append(token)
            logprobs.append(sequence.chooser.told[0].logprob)
            if sequence.full:
                model.finish(sequence)
    return told


def wanted(model: Any) -> tuple[list[int], list[float]]:
    """The same by a model of transformers."""
    tokens: list[int] = []
    logprobs: list[float] = []
    for _ in range(NEW):
        with torch.no_grad():
            row = model(torch.tensor([[*PROMPT, *tokens]])).logits[0, -1].log_softmax(-1)
        tokens.append(int(row.argmax()))
        logprobs.append(float(row.max()))
    return tokens, logprobs


def reference(base: Path, two: Path) -> dict[str | None, Any]:
    """Base, adapters by peft, and their sum merged into the weights."""
    models: dict[str | None, Any] = {None: AutoModelForCausalLM.from_pretrained(base)}
    mixed = AutoModelForCausalLM.from_pretrained(base)
    weights = {name: tensor.clone() for name, tensor in mixed.state_dict().items()}
    for name, strength in STRENGTHS.items():
        models[name] = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), two / name).eval()
        alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), two / name).merge_and_unload()
        for key, tensor in alone.state_dict().items():
            weights[key] += strength * (tensor - mixed.state_dict()[key])
    mixed.load_state_dict(weights)
    return {**models, COMBINED: mixed}


def replaying(model: NativeModel, base: Path, record: Record) -> NativeModel:
    """The same with recorded steps; the block that padding is written to is taken from those of the requests."""
    runner, blocks = model._runner, model._scheduler.allocator.blocks - 1
    runner._allocator = model._scheduler.allocator = BlockAllocator(blocks)
    of = architecture.read(base)
    known = {"most": 8, "context": of.context, "spare": blocks, "dtype": torch.float32, "device": torch.device("cpu")}
    runner._graphs = recorded(runner._model, of, **known, record=record)
    return model


def test_requests_with_an_adapter_are_computed_beside_replayed_steps(base: Path, two: Path) -> None:
    replays: list[int] = []

    def record(step: Step) -> Step:
        replay = tape.record(step)

        def counted() -> None:
            replays.append(1)
            replay()

        return counted

    eager, replayed = native(base, two), replaying(native(base, two), base, record)
    for names, replayed_steps in (([None], NEW - 1), (["one"], 0), ([None, "one", "other"], 0)):
        replays.clear()
        found, wanted = answers(replayed, names), answers(eager, names)
        assert len(replays) == replayed_steps
        for name in names:
            assert found[name][0] == wanted[name][0]
            assert found[name][1] == pytest.approx(wanted[name][1], abs=1e-4)


def test_each_request_of_a_batch_has_its_own_adapter_with_pefts_numbers(base: Path, two: Path) -> None:
    model = native(base, two, **STRENGTHS)
    assert (model.served.adapters, model.served.default_adapter) == (("one", "other", COMBINED), COMBINED)
    models = reference(base, two)
    expected = {name: wanted(each) for name, each in models.items()}
    assert len({tuple(tokens) for tokens, _ in expected.values()}) > 2, "the adapters would make no difference"
    alone = {name: answers(model, [name])[name] for name in models}
    together = answers(model, list(models))
    for name, (tokens, logprobs) in expected.items():
        for found in (alone[name], together[name]):
            assert found[0] == tokens, name
            assert found[1] == pytest.approx(logprobs, abs=1e-3), name
