"""``kaito deploy``: what the flags become, what is refused before anything is sent, and what an apply leaves behind."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito_cli.manifest import Unclear, Wish, consequences, manifest, mistakes, pairs
from kaito_operator.kube.client import Kube
from kaito_operator.plan import Ref
from tests.support.control_plane import ApiServer

SERVE = Wish("chat", "team", "smollm2-135m-instruct", "Standard_D2s_v5")


def a_wish(**changes: Any) -> Wish:
    return Wish(**{"name": "chat", "namespace": "team", "preset": "phi-3-mini-4k-instruct", "instance_type": "Standard_NC24ads_A100_v4", **changes})  # fmt: skip  # noqa: E501


def kaito(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kaito_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, stdin=subprocess.DEVNULL)


def test_the_least_that_can_be_asked_for_is_the_example_of_the_readme() -> None:
    example = yaml.safe_load((Path(__file__).parents[2] / "examples/01-chat-on-cpu/workspace.yaml").read_text())
    example["metadata"]["namespace"] = "team"
    assert manifest(SERVE) == example


@pytest.mark.parametrize(
    "wish",
    [
        SERVE,
        a_wish(count=2, labels={"pool": "a100"}),
        a_wish(adapters=("style=registry.example/a:1", "tone=registry.example/b:1,0.5")),
        a_wish(image="registry.example/own/phi:1", pull_secrets=("login",)),
        a_wish(method="qlora", data=("https://example.org/a",), result="registry.example/out:1", push_secret="login"),
        a_wish(instance_type="", labels={"own": "yes"}),
        a_wish(preset="llama-3.1-8b-instruct", hub_secret="hub-token", model_files="hub"),
        a_wish(preset="org/any"),
    ],
    ids=["serve", "two", "adapters", "private", "tune", "own-nodes", "gated", "of-the-hub"],
)
def test_what_is_written_is_what_the_operator_takes(wish: Wish) -> None:
    assert mistakes(manifest(wish)) == []


def test_tuning_and_adapters_are_written_where_the_api_has_them() -> None:
    tuned = manifest(
        a_wish(method="lora", data=("https://a", "https://b"), result="r/o:1", push_secret="s", config="c")
    )
    assert tuned["tuning"] == {
        "preset": {"name": "phi-3-mini-4k-instruct"},
        "method": "lora",
        "config": "c",
        "input": {"urls": ["https://a", "https://b"]},
        "output": {"image": "r/o:1", "imagePushSecret": "s"},
    }
    assert "inference" not in tuned
    served = manifest(a_wish(adapters=("style=r:5000/a:1,0.5",)))
    assert served["inference"]["adapters"] == [{"source": {"name": "style", "image": "r:5000/a:1"}, "strength": "0.5"}]


def test_where_model_files_come_from_is_written_where_the_operator_reads_it() -> None:
    written = manifest(a_wish(preset="llama-3.1-8b-instruct", hub_secret="hub-token", model_files="hub"))
    assert written["metadata"]["annotations"] == {"kaito.sh/model-files": "hub"}
    assert written["inference"]["preset"]["presetOptions"] == {"modelAccessSecret": "hub-token"}


@pytest.mark.badinput
def test_a_source_that_is_none_is_refused_before_it_is_sent() -> None:
    (told,) = mistakes(manifest(a_wish(model_files="ftp")))
    assert told.endswith("write one of auto, baked, kaito, volume, hub")


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"adapters": ("style",)}, "write NAME=REGISTRY/REPOSITORY:TAG"),
        ({"data": ("https://a",)}, "write --tune lora"),
        ({"method": "lora"}, "--tune needs --data"),
        ({"method": "lora", "data": ("https://a",)}, "--tune needs --result"),
        ({"method": "lora", "data": ("u",), "result": "r:1", "adapters": ("a=b",)}, "leave --tune out"),
        ({"pull_secrets": ("s",)}, "--pull-secret needs --image"),
    ],
)
def test_flags_that_do_not_go_together_say_which_to_write(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(Unclear, match=re.escape(told)):
        manifest(a_wish(**changes))


@pytest.mark.badinput
def test_labels_are_pairs() -> None:
    assert pairs(["a=b", "c="], option="--label") == {"a": "b", "c": ""}
    with pytest.raises(Unclear, match="--label a: write KEY=VALUE"):
        pairs(["a"], option="--label")


def test_what_it_leads_to_is_one_line() -> None:
    assert consequences(manifest(a_wish(count=2, labels={"pool": "a"}))) == (
        "Workspace team/chat serves phi-3-mini-4k-instruct on 2 machines of Standard_NC24ads_A100_v4, "
        "bought as far as no free node with pool=a exists"
    )
    assert "on nodes with app=chat" in consequences(manifest(a_wish(instance_type="")))


def test_a_dry_run_prints_a_manifest_and_needs_no_cluster() -> None:
    flags = ("--preset", "smollm2-135m-instruct", "--instance-type", "Standard_D2s_v5", "-n", "team", "--dry-run")
    done = kaito("deploy", "chat", *flags, "-o", "yaml", "--kubeconfig", "/does/not/exist")
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(done.stdout) == manifest(SERVE)


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("deploy", "chat"), 2, "--preset and --instance-type must be given"),
        (("deploy", "c", "--preset", "smollm2-135m-instuct", "--instance-type", "Standard_D2s_v5"), 1, "did you mean"),
        (("deploy", "c", "--preset", "p", "--instance-type", "s", "--adapter", "x"), 2, "write NAME="),
        (("deploy", "--count", "0"), 2, "see kaito deploy --help"),
        (("status",), 2, "see kaito status --help"),
        (("status", "x", "-o", "xml"), 2, "see kaito status --help"),
        (("chat", "x", "--plain", "--model", "y"), 2, "--plain"),
        (("doctor", "--kubeconfig", "/does/not/exist"), 1, "there is no kubeconfig"),
        (("logs", "x", "--kubeconfig", "/dev/null"), 1, "name another with --kubeconfig"),
    ],
)
def test_every_mistake_is_one_line_with_what_to_do(arguments: tuple[str, ...], code: int, told: str) -> None:
    done = kaito(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    assert told in done.stderr


@pytest.mark.controlplane
@pytest.mark.usefixtures("crds")
async def test_deploy_applies_as_its_own_field_manager_and_a_second_time_changes_nothing(
    api_server: ApiServer, kube: Kube, namespace: str
) -> None:
    flags = ("--preset", "smollm2-135m-instruct", "--instance-type", "Standard_D2s_v5", "-n", namespace)
    command = ("deploy", "chat", *flags, "--kubeconfig", str(api_server.kubeconfig("admin")))
    first = kaito(*command)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.endswith(f"follow it with: kaito status chat -n {namespace} --watch\n")
    ref = Ref("kaito.sh/v1alpha1", "Workspace", "chat", namespace)
    stored = await kube.get(ref)
    managers = {(entry["manager"], entry["operation"]) for entry in stored["metadata"]["managedFields"]}
    assert managers == {("kaito-cli", "Apply")}
    assert kaito(*command).returncode == 0
    assert (await kube.get(ref))["metadata"]["resourceVersion"] == stored["metadata"]["resourceVersion"]
    as_yaml = kaito(*command, "-o", "yaml")
    assert yaml.safe_load(as_yaml.stdout)["metadata"]["uid"] == stored["metadata"]["uid"]


@pytest.mark.controlplane
@pytest.mark.badinput
@pytest.mark.usefixtures("crds")
def test_a_namespace_that_is_not_there_is_one_line(api_server: ApiServer) -> None:
    flags = ("--preset", "smollm2-135m-instruct", "--instance-type", "Standard_D2s_v5", "-n", "nowhere", "-o", "json")
    done = kaito("deploy", "chat", *flags, "--kubeconfig", str(api_server.kubeconfig("admin")))
    assert (done.returncode, done.stdout) == (1, "")
    assert "does the namespace exist" in done.stderr.splitlines()[-1]
