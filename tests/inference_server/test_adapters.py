"""Adapters: peft's own numbers, the exact weighted sum, and what does not fit is refused while the rest serves."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from inference_server.app import create_app
from inference_server.engines.adapters import COMBINED, Adapters, DoesNotFit, read, sizes
from inference_server.engines.engine import Engine, Loading
from inference_server.engines.native_engine import NativeEngine
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.settings import Settings, parse
from tests.support.cluster import eventually

pytestmark = [
    pytest.mark.server,
    # peft 0.21, the reference here, asks transformers 5.23 under a name that is on its way out.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
PROMPT = torch.tensor([[10, 20, 30, 40]])


def write_adapter(base: Path, to: Path, *, seed: int = 1, **settings: Any) -> Path:
    """A random adapter, written by peft."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    made = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 8, "init_lora_weights": False, **settings}))
    made.save_pretrained(to, save_embedding_layers=False)
    return to


@pytest.fixture
def two(tiny_model: Path, tmp_path: Path) -> Path:
    """A directory with the adapters "one" and "other", of different ranks and layers."""
    write_adapter(tiny_model, tmp_path / "one", target_modules=["q_proj", "v_proj"])
    write_adapter(tiny_model, tmp_path / "other", seed=2, r=2, lora_alpha=6, target_modules="all-linear")
    return tmp_path


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(PROMPT).logits
    return found


def served(base: Path, directory: Path, **strengths: float) -> tuple[Any, Adapters]:
    model = AutoModelForCausalLM.from_pretrained(base)
    return model, Adapters(model, directory=directory, strengths=strengths)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"v_proj": 3}, "rank_pattern": {"q_proj": 2}},
    ],
    ids=["plain", "rsLoRA on all layers", "patterns"],
)
def test_an_adapter_gives_the_logits_that_peft_gives(tiny_model: Path, tmp_path: Path, settings: Any) -> None:
    write_adapter(tiny_model, tmp_path / "one", **settings)
    wanted = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path / "one"))
    model, adapters = served(tiny_model, tmp_path)
    base = logits(model)
    with adapters.active("one"):
        torch.testing.assert_close(logits(model), wanted)
    assert not torch.allclose(base, wanted, atol=1e-3)
    torch.testing.assert_close(logits(model), base)


def test_the_mix_is_the_base_plus_the_weighted_changes_of_each(tiny_model: Path, two: Path) -> None:
    merged = AutoModelForCausalLM.from_pretrained(tiny_model)
    weights = {name: tensor.clone() for name, tensor in merged.state_dict().items()}
    for name, strength in (("one", 0.25), ("other", 0.5)):
        alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), two / name)
        for key, tensor in alone.merge_and_unload().state_dict().items():
            weights[key] += strength * (tensor - merged.state_dict()[key])
    merged.load_state_dict(weights)
    model, adapters = served(tiny_model, two, one=0.25, other=0.5)
    assert (adapters.names, adapters.default) == (("one", "other", COMBINED), COMBINED)
    with adapters.active(COMBINED):
        torch.testing.assert_close(logits(model), logits(merged), rtol=1e-4, atol=1e-5)


def test_no_strength_at_all_is_the_base(tiny_model: Path, two: Path) -> None:
    model, adapters = served(tiny_model, two, one=0.0, other=0.0)
    base = logits(model)
    with adapters.active(adapters.default):
        torch.testing.assert_close(logits(model), base)


def test_the_only_adapter_is_the_default_and_of_several_none_is(tiny_model: Path, two: Path) -> None:
    assert served(tiny_model, two)[1].default is None
    for file in (two / "other").iterdir():
        file.unlink()
    assert served(tiny_model, two)[1].default == "one"


def test_without_a_directory_there_are_none(tiny_model: Path, tmp_path: Path) -> None:
    adapters = served(tiny_model, tmp_path / "nothing")[1]
    assert (adapters.names, adapters.default, adapters.refused) == ((), None, {})


def no_settings(at: Path) -> None:
    (at / "adapter_config.json").write_text("{")


def another_method(at: Path) -> None:
    (at / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))


def a_pickle(at: Path) -> None:
    torch.save(load_file(at / "adapter_model.safetensors"), at / "adapter_model.bin")
    (at / "adapter_model.safetensors").unlink()


def cut_short(at: Path) -> None:
    (at / "adapter_model.safetensors").write_bytes((at / "adapter_model.safetensors").read_bytes()[:100])


def without_a_half(at: Path) -> None:
    tensors = load_file(at / "adapter_model.safetensors")
    save_file({key: t for key, t in tensors.items() if "lora_A" in key}, at / "adapter_model.safetensors")


def not_finite(at: Path) -> None:
    tensors = load_file(at / "adapter_model.safetensors")
    save_file({key: t * torch.nan for key, t in tensors.items()}, at / "adapter_model.safetensors")


def another_layer(at: Path) -> None:
    tensors = load_file(at / "adapter_model.safetensors")
    save_file({key.replace("layers.0", "layers.9"): t for key, t in tensors.items()}, at / "adapter_model.safetensors")


def another_width(at: Path) -> None:
    LlamaForCausalLM(LlamaConfig(vocab_size=65, hidden_size=16, intermediate_size=8, num_hidden_layers=2,
                                 num_attention_heads=2)).save_pretrained(at / "base")  # fmt: skip
    write_adapter(at / "base", at, target_modules=["q_proj"])


def dora(at: Path) -> None:
    settings = json.loads((at / "adapter_config.json").read_text())
    (at / "adapter_config.json").write_text(json.dumps({**settings, "use_dora": True}))


def a_whole_layer(at: Path) -> None:
    tensors = load_file(at / "adapter_model.safetensors")
    save_file({**tensors, "base_model.model.lm_head.weight": torch.zeros(65, 32)}, at / "adapter_model.safetensors")


BROKEN = {
    no_settings: "adapter_config.json cannot be read: JSONDecodeError",
    another_method: "peft_type: Input should be 'LORA'",
    a_pickle: "no adapter_model.safetensors; other formats .adapter_model.bin. are pickles",
    cut_short: "adapter_model.safetensors cannot be read",
    without_a_half: "lora_A alone: the file is not complete",
    not_finite: "not finite: the training went wrong",
    another_layer: "no linear layer model.layers.9.*it was tuned on .*serve it on the model it was tuned on",
    another_width: r"A \[4, 16\] and B \[16, 4\] do not fit 32 inputs and 32 outputs; it was tuned on",
    dora: "use_dora is not supported",
    a_whole_layer: "tensor base_model.model.lm_head.weight is not one of LoRA",
}


@pytest.mark.badinput
@pytest.mark.parametrize("break_it", BROKEN, ids=lambda each: each.__name__)
def test_what_does_not_fit_is_refused_with_a_reason_and_the_rest_serves(
    break_it: Any, tiny_model: Path, two: Path
) -> None:
    break_it(two / "other")
    model, adapters = served(tiny_model, two)
    assert (adapters.names, adapters.default, list(adapters.refused)) == (("one",), "one", ["other"])
    with pytest.raises(DoesNotFit, match=BROKEN[break_it]):
        read(two / "other", sizes=sizes(dict(model.named_modules())))


def test_a_strength_without_its_adapter_is_said(tiny_model: Path, two: Path) -> None:
    adapters = served(tiny_model, two, one=0.5, third=0.5)[1]
    assert (adapters.default, list(adapters.refused)) == (COMBINED, ["third"])


def test_strengths_are_read_from_the_command_line() -> None:
    settings, idle = parse(["--adapter_strength=a-b=0.5", "--adapter-strength", "c=1.0"])
    assert (settings.adapter_strength, idle) == ((("a-b", 0.5), ("c", 1.0)), [])


@pytest.mark.badinput
@pytest.mark.parametrize("written", ["a", "a=x", "a=2", "a=nan", "=0.5"])
def test_a_strength_that_is_none_ends_the_process(written: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([f"--adapter_strength={written}"])
    assert f"write NAME=NUMBER with a number from 0 to 1, not {written}" in capsys.readouterr().err


@contextmanager
def engine_of(make: Callable[[Settings], Engine], base: Path, directory: Path) -> Iterator[Engine]:
    engine = make(Settings(pretrained_model_name_or_path=str(base), device_map="cpu", adapters_dir=str(directory)))
    engine.start()
    eventually(lambda: not isinstance(engine.state, Loading), within=60, what="the model is loaded")
    yield engine
    engine.stop()


@pytest.mark.parametrize("make", [TransformersEngine, NativeEngine])
async def test_a_tuned_workspace_answers_chat_in_the_tuned_manner(
    make: Callable[[Settings], Engine], tiny_model: Path, two: Path
) -> None:
    no_settings(two / "other")
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), two / "one").eval()
    body = {"prompt": "w1 w2", "generate_kwargs": {"do_sample": False, "max_new_tokens": 8}}
    with engine_of(make, tiny_model, two) as engine:
        app = create_app(engine, Settings())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
            replies = await asyncio.gather(*(client.post("/chat", json=body) for _ in range(3)))
            ready = (await client.get("/readyz")).json()
        tokenizer = engine.state.model.tokenizer  # type: ignore[union-attr]
    prompt = torch.tensor([tokenizer.encode("w1 w2")])
    wanted = tuned.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=8
    )[0].tolist()
    assert {reply.json()["Result"] for reply in replies} == {tokenizer.decode(wanted)}
    assert (ready["model"], list(ready["refused_adapters"])) == ("one", ["other"])
