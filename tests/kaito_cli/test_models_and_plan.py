"""``kaito models`` and ``kaito plan``: what they tell, their exit codes, and that they ask nobody when told so."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from presets.catalog import load_catalog
from presets.loading import loading
from presets.prices.price import DEFAULT_REGION
from presets.prices.price_list import PATH
from tests.support.faulty_http import Fault, Site, serve
from tests.support.hub import Repository, header, tensors

ROOT = Path(__file__).parent.parent.parent
ENDS = {
    "07-own-nodes": ["Deployment", "Service (80, 29500)"],
    "08-tune-only": ["1 × Machine (Standard_NC24ads_A100_v4)", "ConfigMap", "Job"],
    "11-kaitos-own-image": ["2 × Machine (Standard_NC6s_v3)", "StatefulSet", "Service (80, 29500)"],
}
CLOUDS = tuple(DEFAULT_REGION)
A100 = "Standard_NC24ads_A100_v4"
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000,
    "max_position_embeddings": 8192,
}  # fmt: skip


def kaito(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kaito_cli", *arguments],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
    )


def answered(*arguments: str, **environment: str) -> Any:
    ended = kaito(*arguments, "-o", "json", **environment)
    assert ended.stderr == ""
    return json.loads(ended.stdout)


def test_the_list_has_every_model_uncut_in_a_pipe() -> None:
    ended = kaito("models", "--offline")
    lines = ended.stdout.splitlines()
    assert lines[0].split()[:2] == ["NAME", "PARAMETERS"]
    assert lines[-1] == "prices: USD in eastus, 2024-12-01"
    assert any(line.startswith("qwen3-coder-30b-a3b-instruct ") for line in lines)
    assert len(lines) > 60


def test_the_list_can_be_narrowed() -> None:
    rows = answered("models", "--fits", "standard_nc4as_t4_v3", "--max-price", "0.6", "--tuning", "--offline")
    assert {"falcon-7b", "phi-4-mini-instruct"} <= {row["name"] for row in rows}
    assert all(row["tuning"] and row["hourly"] <= 0.6 for row in rows)
    assert "llama-3.1-8b-instruct" not in {row["name"] for row in rows}


def test_of_one_model_all_is_told() -> None:
    row = answered("models", "phi-4-mini", "--offline")
    assert row["hub"] == "microsoft/Phi-4-mini-instruct"
    assert row["price"]["as_of"] == "2024-12-01"
    told = kaito("models", "microsoft/phi-4", "--offline").stdout
    assert "also called" not in told
    assert "Standard_NV72ads_A10_v5" in told


def test_a_plan_tells_memory_price_alternatives_and_objects() -> None:
    ended = kaito("plan", "--model", "llama-3.1-8b-instruct", "--context", "4096", "--offline")
    assert ended.returncode == 0
    for part in ("weights", "KV cache", "fits", "3.20 USD an hour, 2,336 a month (eastus, 2024-12-01)", "fastest",
                 "start       about 10 min on a new machine",
                 "1 × Machine (Standard_NV36ads_A10_v5), Deployment, Service (80, 29500)"):  # fmt: skip
        assert part in ended.stdout, part


def test_a_machine_without_a_gpu_is_not_offered_without_saying_so() -> None:
    asked = ("plan", "--model", "Qwen/Qwen3-4B", "--offline")
    cheapest, *_ = (line for line in kaito(*asked).stdout.splitlines() if line.startswith("cheapest"))
    assert cheapest.split(maxsplit=1)[1].endswith("0.11 USD an hour, without a GPU: 2 CPUs")
    found = answered(*asked)
    assert [choice.get("cpus") for choice in found["cheapest"]] == [2, 2, 2]
    assert all("cpus" not in choice for choice in found["fastest"])


def test_what_does_not_fit_is_exit_code_2_with_what_does() -> None:
    ended = kaito("plan", "-m", "phi-4", "-t", "Standard_NC4as_T4_v3", "--offline")
    assert ended.returncode == 2
    assert "does not fit: phi-4 needs 29.3 GiB of GPU memory, Standard_NC4as_T4_v3 gives 15.0 GiB" in ended.stdout
    assert "instead     take Standard_NC24ads_A100_v4, 3.67 USD an hour (eastus, 2024-12-01)" in ended.stdout
    assert "creates" not in ended.stdout  # the operator says DoesNotFit and buys nothing


def test_a_context_that_does_not_fit_keeps_the_operator_from_nothing() -> None:
    found = answered("plan", "-m", "phi-4", "-t", "Standard_NC24ads_A100_v4", "--concurrency", "99", "--offline")
    assert not found["fits"]
    assert found["objects"] == ["1 × Machine (Standard_NC24ads_A100_v4)", "Deployment", "Service (80, 29500)"]


def test_more_than_any_machine_has_is_exit_code_2_with_how_far_one_gets() -> None:
    found = answered("plan", "-m", "gemma-3-27b-it", "--context", "1000000", "--offline")
    assert not found["fits"]
    assert found["cure"] == "a context of 131,072 tokens fits on Standard_ND96isr_H200_v5"


def test_a_tuning_is_planned() -> None:
    found = answered(
        "plan", "-m", "phi-3-mini-128k-instruct", "--tuning", "qlora", "-t", "Standard_NC4as_T4_v3", "--offline"
    )
    assert found["fits"]
    assert set(found["memoryGiB"]) == {"weights", "adapter", "activations", "logits", "overhead", "room"}
    assert found["objects"][2] == "Job"
    assert found["loadingSeconds"] is None  # the adapter is what takes long


V100 = "Standard_NC6s_v3"
TOO_OLD = "the V100 cards of Standard_NC6s_v3 are of compute capability 7.0, and the runtime is built for 7.5 and newer"
T4 = "take Standard_NC4as_T4_v3, 0.53 USD an hour (eastus, 2024-12-01)"
OLD_CARDS = {
    "served": (("-m", "falcon-7b"), f"{T4}, or serve KAITO's own image of it (annotation kaito.sh/model-files: kaito)"),
    "served, and KAITO has no image": (("-m", "gemma-3-4b-it"), T4),
    "served, and it is too long as well": (
        ("-m", "phi-2", "--concurrency", "99"),
        "take Standard_NC24ads_A100_v4, 3.67 USD an hour (eastus, 2024-12-01)",
    ),
    "tuned": (("-m", "phi-3-mini-128k-instruct", "--tuning", "qlora"), T4),
}


@pytest.mark.money
@pytest.mark.parametrize("case", OLD_CARDS)
def test_cards_that_the_runtime_has_no_code_for_do_not_fit(case: str) -> None:
    asked, cure = OLD_CARDS[case]
    found = answered("plan", *asked, "-t", V100, "--offline")
    assert (found["fits"], found["problem"], found["cure"], found["objects"]) == (False, TOO_OLD, cure, [])


def on_v100(files: str, image: str) -> str:
    """A Workspace whose image and files are said to come from there."""
    options = {"presetOptions": {"image": image}} if image else {}
    workspace = {
        "kind": "Workspace",
        "metadata": {"name": "chat", "annotations": {"kaito.sh/model-files": files}},
        "resource": {"instanceType": V100, "labelSelector": {"matchLabels": {"app": "chat"}}},
        "inference": {"preset": {"name": "falcon-7b", **options}},
    }
    return json.dumps(workspace)


@pytest.mark.parametrize(
    ("files", "image", "fits"),
    [("", "", False), ("kaito", "", True), ("", "r.io/own:1", True), ("hub", "", False), ("volume", "r.io/o:1", False)],
)
def test_an_image_that_brings_its_own_torch_is_not_judged(files: str, image: str, fits: bool) -> None:
    ended = kaito("plan", "-f", "-", "--offline", "-o", "json", stdin=on_v100(files, image))
    assert json.loads(ended.stdout)["fits"] == fits


def test_models_that_fit_on_old_cards_are_not_looked_for() -> None:
    ended = kaito("models", "--fits", V100, "--offline")
    assert ended.returncode == 2
    assert f"{TOO_OLD}; take Standard_NC4as_T4_v3 or Standard_NC8as_T4_v3 or" in ended.stderr


def test_a_plan_says_how_long_a_new_machine_needs_until_it_answers() -> None:
    times = [answered("plan", "-m", "phi-4", "--cloud", cloud, "--offline")["loadingSeconds"] for cloud in CLOUDS]
    model = load_catalog().model("phi-4")
    assert times == [
        {"pull": round(found.pull), "load": round(found.load)}
        for found in (loading(model.file_bytes, disk_gib=model.disk_gib, cloud=cloud) for cloud in CLOUDS)
    ]
    assert "start" not in kaito("plan", "-m", "phi-4", "-t", "Standard_NC4as_T4_v3", "--offline").stdout


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*/workspace.yaml")), ids=lambda path: path.parent.name)
def test_every_example_fits_but_one_of_which_nothing_is_known(example: Path) -> None:
    ended = kaito("plan", "-f", str(example), "--offline")
    unknown = example.parent.name == "05-template"
    assert ("own cannot be planned" in ended.stderr, ended.returncode) == (unknown, int(unknown)), ended.stderr


def test_one_copy_over_machines_that_do_not_divide_it_is_refused_in_the_operators_words() -> None:
    text = (ROOT / "examples/11-kaitos-own-image/workspace.yaml").read_text()
    found = json.loads(
        kaito("plan", "-f", "-", "--offline", "-o", "json", stdin=text.replace("count: 2", "count: 3")).stdout
    )
    assert (found["fits"], found["objects"]) == (False, [])
    assert found["problem"].endswith("has 2 parts, one for each GPU: resource.count must divide that")


def test_no_context_is_short_enough_for_too_few_cards() -> None:
    found = answered("plan", "-m", "falcon-40b", "-t", A100, "--offline")
    assert found["cure"] == "take Standard_NC48ads_A100_v4, 7.35 USD an hour (eastus, 2024-12-01)"


@pytest.mark.badinput
def test_a_manifest_that_the_operator_would_refuse_is_not_planned_and_all_mistakes_are_said() -> None:
    text = """
apiVersion: kaito.sh/v1alpha1
kind: Workspace
metadata: {name: Bad_Name}
resource: {count: 2, instanceType: Standard_NC24ads_A100_v4, labelSelector: {matchLabels: {app: x}}}
tuning:
  preset: {name: falcon-7b}
  method: lora
  input: {urls: ["https://example.com/rows"]}
  output: {image: "r.io/x:1"}
"""
    ended = kaito("plan", "-f", "-", "--offline", stdin=text)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines() == [
        "metadata.name: write at most 63 lower-case letters, digits and '-', a letter or digit at both ends",
        "resource.count: tuning runs on one node, write 1",
        "tuning.output.imagePushSecret: image needs imagePushSecret: write the name of the Secret to push with",
    ]


def test_what_is_not_bought_and_not_served_is_not_among_what_is_created() -> None:
    objects = {name: answered("plan", "-f", f"examples/{name}/workspace.yaml", "--offline")["objects"] for name in ENDS}
    assert objects == ENDS


def test_a_manifest_comes_by_standard_input_too() -> None:
    text = (ROOT / "examples/01-chat-on-cpu/workspace.yaml").read_text()
    ended = kaito("plan", "-f", "-", "--offline", "-o", "json", stdin=text)
    assert json.loads(ended.stdout)["model"] == "smollm2-135m-instruct"


WRONG = {
    ("models", "phi-4-mni"): "there is no preset 'phi-4-mni'; did you mean phi-4-mini?",
    ("models", "--fits", "Standard_NC24ads"): "there is no instance type 'Standard_NC24ads'; did you mean",
    ("plan",): "write either --filename FILE or --model NAME",
    ("plan", "-m", "a", "-f", "b"): "write either --filename FILE or --model NAME",
    ("plan", "-m", "nothing-like-it"): "there is no preset 'nothing-like-it'",
    ("plan", "-m", "phi-4", "-t", "Standard_X"): "there is no instance type 'Standard_X'",
    ("plan", "-m", "phi-4", "--context", "-1"): "'--context': Input should be greater than or equal to 0",
    ("plan", "-m", "phi-4", "--concurrency", "0"): "'--concurrency': Input should be greater than or equal to 1",
    ("plan", "-m", "phi-4", "--count", "1e9"): "'--count': Input should be a valid integer",
    ("plan", "-m", "phi-4", "--tuning", "full"): "'full' is not one of",
    ("plan", "-m", "phi-4", "--cloud", "gcp"): "'gcp' is not one of",
    ("plan", "-f", "/nonexistent"): "/nonexistent cannot be read: No such file or directory",
    ("plan", "-f", "README.md"): "README.md",
}


@pytest.mark.badinput
@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_what_is_wrong_is_one_line_that_says_what_to_write(arguments: tuple[str, ...]) -> None:
    ended = kaito(*arguments, "--offline")
    assert ended.returncode in (1, 2)
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert WRONG[arguments] in ended.stderr


@pytest.mark.badinput
def test_a_manifest_that_is_none_is_refused_with_the_field() -> None:
    ended = kaito("plan", "-f", "-", "--offline", stdin="kind: Workspace\nresource: {count: many}\n")
    assert ended.returncode == 1
    assert ended.stderr.startswith("resource.")


def test_prices_come_from_azures_list_and_are_remembered(tmp_path: Path) -> None:
    item = {
        "currencyCode": "USD", "retailPrice": 1.25, "armRegionName": "westeurope", "armSkuName": A100,
        "productName": "Virtual Machines", "skuName": "NC24ads", "unitOfMeasure": "1 Hour",
    }  # fmt: skip
    with serve(Site(files={PATH: json.dumps({"Items": [item]}).encode()})) as site:
        asked = ("plan", "-m", "phi-4", "-t", A100, "--region", "westeurope")
        for _ in range(2):
            found = answered(*asked, KAITO_PRICE_LIST=site.url, XDG_CACHE_HOME=str(tmp_path))
            assert found["price"]["hourly"] == 1.25
            assert found["price"]["region"] == "westeurope"
            assert found["price"]["asOf"] == datetime.now(UTC).date().isoformat()
        assert len(site.asked("GET")) == 1


def test_a_price_list_that_is_down_is_said_and_the_dated_table_taken(tmp_path: Path) -> None:
    with serve(Site(faults=[Fault(status=403)])) as site:
        ended = kaito("models", "phi-4", KAITO_PRICE_LIST=site.url, XDG_CACHE_HOME=str(tmp_path))
    assert ended.stderr == "Azure's price list did not answer (HTTP 403): prices are of 2024-12-01\n"
    assert "3.67 USD (eastus, 2024-12-01)" in ended.stdout


def test_of_another_region_nothing_is_made_up() -> None:
    ended = kaito("plan", "-m", "phi-4", "-t", A100, "--region", "westeurope", "--offline")
    assert ended.stderr == "offline, prices are known for eastus alone\n"
    assert "price       unknown" in ended.stdout
    assert (
        kaito("models", "phi-4", "--spot", "--offline").stderr == "spot prices are known online and for Azure alone\n"
    )


def test_any_model_of_the_hub_can_be_planned(tmp_path: Path) -> None:
    with serve(Site()) as site:
        Repository("org/tiny-llama", LLAMA, {"model.safetensors": header(tensors(LLAMA))}).put_on(site)
        there = {"HF_ENDPOINT": site.url, "HF_TOKEN": "hf_secret", "XDG_CACHE_HOME": str(tmp_path)}
        there["KAITO_PRICE_LIST"] = f"{site.url}/none"
        ended = kaito("plan", "-m", "org/tiny-llama", "--context", "4096", "-t", A100, **there)
        gated = kaito("models", "org/other", **there)
    assert ended.returncode == 0
    assert "weights" in ended.stdout
    assert gated.returncode == 1
    assert gated.stderr == "the Hub has no org/other, or it is private and the token in HF_TOKEN may not read it\n"
    assert "hf_secret" not in ended.stdout + ended.stderr + gated.stderr
    offline = kaito("plan", "-m", "org/tiny-llama", "--offline")
    assert offline.stderr == "org/tiny-llama is not in the catalogue, and the Hub is not asked with --offline\n"


def test_neither_command_loads_what_is_heavy() -> None:
    code = """
import sys
from kaito_cli.__main__ import application
try:
    application(sys.argv[1])(sys.argv[1:], standalone_mode=False)
except SystemExit:
    pass
print([name for name in ("torch", "transformers", "kubernetes", "httpx", "kopf") if name in sys.modules])
"""
    for arguments in (("models", "--offline"), ("plan", "-m", "phi-4", "--offline")):
        ended = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert ended.stdout.splitlines()[-1] == "[]"
