"""An adapter goes to a real registry and comes back, through every trouble a registry can make."""

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local_cluster.registry import docker_config
from presets.tuning_steps import ExitCode
from tests.support.faulty_http import Fault, Site, serve
from tests.support.oci_registry import RunningRegistry, registry
from tests.support.told import check_told
from tests.support.waiting import eventually
from tuning_runner import registry as api
from tuning_runner.adapter_image import ARTIFACT_TYPE
from tuning_runner.address_guard import Guard
from tuning_runner.fetch import fetch
from tuning_runner.image_reference import parse_reference
from tuning_runner.patience import Patience
from tuning_runner.publish import publish
from tuning_runner.transfer_ending import StepFailed

QUICK = Patience(pauses=(0.01, 0.01, 0.01))
WEIGHTS = os.urandom(1 << 20) * 20 + b"end"
"""Larger than one chunk of an upload."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


@pytest.fixture
def proxy(running: RunningRegistry) -> Iterator[Site]:
    with serve(Site(upstream=running.host)) as site:
        yield site


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return make_results(tmp_path / "results", WEIGHTS)


def make_results(directory: Path, weights: bytes) -> Path:
    adapter = directory / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    (adapter / "adapter_model.safetensors").write_bytes(weights)
    marker = {
        "base_model": "smollm2-135m-instruct",
        "revision": "abc123",
        "method": "qlora",
        "steps": 40,
        "loss": 0.5,
        "data": [{"name": "rows.jsonl", "sha256": "d" * 64}],
        "files": {"adapter_model.safetensors": hashlib.sha256(weights).hexdigest()},
    }
    (directory / "results.json").write_text(json.dumps(marker))
    return directory


def push(results: Path, host: str, running: RunningRegistry, *, name: str = "team/house", password: str = "") -> str:
    image = parse_reference(f"{host}/{name}:v1")
    auth = [running.auth_file(results, host=host, **({"password": password} if password else {}))]
    guard = Guard(private=True, plain_http=frozenset({host}))
    said = publish(results, image=image, auth=auth, guard=guard, patience=QUICK)
    assert said["image"] == str(image)
    return str(said["digest"])


def pull(to: Path, host: str, running: RunningRegistry, *, name: str = "team/house") -> object:
    to.mkdir(exist_ok=True)
    return fetch(
        parse_reference(f"{host}/{name}:v1"),
        to=to,
        auth=[running.auth_file(to.parent, host=host)],
        guard=Guard(plain_http=frozenset({host})),
        max_bytes=1 << 30,
        patience=QUICK,
    )


def test_what_is_pushed_comes_back_and_is_a_typed_artifact(
    results: Path, running: RunningRegistry, tmp_path: Path
) -> None:
    digest = push(results, running.host, running, name="whole")
    said = pull(tmp_path / "got", running.host, running, name="whole")
    assert said == {"image": f"{running.host}/whole:v1", "digest": digest, "files": 3}
    names = ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "got").iterdir()) == names
    assert (tmp_path / "got/adapter_model.safetensors").read_bytes() == WEIGHTS
    card = (tmp_path / "got/README.md").read_text()
    assert all(words in card for words in ("smollm2-135m-instruct", "abc123", "qlora", "d" * 64, "0.5"))
    manifest = read_manifest(running, "whole")
    assert manifest["artifactType"] == ARTIFACT_TYPE
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert manifest["annotations"]["sh.kaito.model.name"] == "smollm2-135m-instruct"


def test_pushing_again_sends_nothing_and_says_the_same_digest(
    results: Path, running: RunningRegistry, proxy: Site, tmp_path: Path
) -> None:
    host = f"127.0.0.1:{proxy.port}"
    first = push(results, host, running, name="again")
    os.utime(results / "adapter/adapter_config.json", (1, 1))
    proxy.seen.clear()
    assert push(results, host, running, name="again") == first
    assert {method for method, _, _ in proxy.seen} == {"HEAD"}
    other = make_results(tmp_path / "elsewhere", WEIGHTS)
    assert push(other, host, running, name="moved") == first


FAULTS: dict[str, list[Fault]] = {
    **{
        f"{s} to {m}": [Fault(status=s, method=m)] * 2
        for s in (429, 500, 503)
        for m in ("POST", "PATCH", "PUT", "HEAD")
    },
    **{f"reset at {m}": [Fault(before=True, method=m)] for m in ("POST", "PATCH", "PUT", "HEAD")},
    "answer to a chunk lost": [Fault(cut=0, method="PATCH"), Fault(before=True, method="PATCH")],
    "upload lost": [Fault(status=404, method="PATCH")],
    "wrong offset": [Fault(status=416, method="PATCH")],
    "digest does not fit": [
        Fault(status=400, method="PUT", path="blobs", body=b'{"errors":[{"code":"DIGEST_INVALID"}]}')
    ],
    "token expired": [Fault(status=401, method="PATCH", headers={"www-authenticate": 'Basic realm="x"'})],
    "one retry-after": [Fault(status=429, method="POST", headers={"retry-after": "0"})],
}


@pytest.mark.faults
@pytest.mark.parametrize("name", FAULTS)
def test_a_push_gets_through_passing_troubles(
    name: str,
    results: Path,
    running: RunningRegistry,
    proxy: Site,
    tmp_path: Path,
    count_cases: Callable[[str, int], None],
) -> None:
    host = f"127.0.0.1:{proxy.port}"
    repository = f"f{hashlib.md5(name.encode()).hexdigest()[:8]}"
    small = make_results(tmp_path / "own", name.encode() * 1000)
    proxy.faults = list(FAULTS[name])
    digest = push(small, host, running, name=repository)
    assert proxy.faults == []
    assert pull(tmp_path / "got", running.host, running, name=repository) is not None
    assert (tmp_path / "got/adapter_model.safetensors").read_bytes() == name.encode() * 1000
    assert digest.startswith("sha256:")
    count_cases("faults of a registry", 1)


DENIALS: dict[str, tuple[list[Fault], ExitCode, str]] = {
    "401": ([Fault(status=401)] * 3, ExitCode.PUSH_DENIED, "give a secret"),
    "403 at HEAD": ([Fault(status=403, method="HEAD")], ExitCode.PUSH_DENIED, "may push to"),
    "403 at POST": (
        [Fault(status=403, method="POST", body=b'{"errors":[{"code":"DENIED","message":"m"}]}')],
        ExitCode.PUSH_DENIED,
        "DENIED",
    ),
    "404 at POST": ([Fault(status=404, method="POST")], ExitCode.PUSH_DENIED, "correct the name"),
    "403 at the manifest": ([Fault(status=403, path="manifests", method="PUT")], ExitCode.PUSH_DENIED, "may push to"),
    "413": ([Fault(status=413, method="PATCH")], ExitCode.PUSH_FAILED, "413"),
    "400 at the manifest": (
        [Fault(status=400, path="manifests", method="PUT", body=b'{"errors":[{"code":"MANIFEST_INVALID"}]}')],
        ExitCode.PUSH_FAILED,
        "MANIFEST_INVALID",
    ),
    "200 to POST": ([Fault(status=200, method="POST", body=b"<html>")], ExitCode.PUSH_FAILED, "answers 200"),
    "500 for ever": ([Fault(status=500)] * 99, ExitCode.PUSH_FAILED, "4 times"),
    "429 for ever": ([Fault(status=429)] * 99, ExitCode.PUSH_FAILED, "429, 4 times"),
    "reset for ever": ([Fault(before=True)] * 99, ExitCode.PUSH_FAILED, "4 times"),
    "redirect of a POST": (
        [Fault(status=307, method="POST", headers={"location": "http://169.254.169.254/"})],
        ExitCode.PUSH_FAILED,
        "307",
    ),
    "upload elsewhere": (
        [Fault(status=202, method="POST", headers={"location": "http://169.254.169.254/x"})],
        ExitCode.PUSH_DENIED,
        "metadata",
    ),
    "tokens elsewhere": (
        [Fault(status=401, headers={"www-authenticate": 'Bearer realm="http://169.254.169.254/t",service="s"'})],
        ExitCode.PUSH_DENIED,
        "token server",
    ),
    "wrong digest stored": (
        [Fault(status=201, path="manifests", method="PUT", headers={"docker-content-digest": "sha256:" + "0" * 64})],
        ExitCode.PUSH_FAILED,
        "another digest",
    ),
}


@pytest.mark.badinput
@pytest.mark.parametrize("name", DENIALS)
def test_a_registry_that_says_no_is_quoted_in_one_line(
    name: str, running: RunningRegistry, proxy: Site, tmp_path: Path, count_cases: Callable[[str, int], None]
) -> None:
    faults, code, words = DENIALS[name]
    proxy.faults = list(faults)
    small = make_results(tmp_path / "own", name.encode())
    with pytest.raises(StepFailed, match=words) as failure:
        push(small, f"127.0.0.1:{proxy.port}", running, name="denied")
    assert failure.value.code == code
    check_told("publish", failure.value)
    if code == ExitCode.PUSH_DENIED:
        assert len(proxy.seen) <= 11, "no more requests than a push that succeeds takes: nothing was tried again"
    count_cases("bad input of a tuning, as the status tells it", 1)


@pytest.mark.security
def test_a_wrong_password_is_denied_and_told_nowhere(results: Path, running: RunningRegistry, tmp_path: Path) -> None:
    canary = "CANARY91ce"
    running.auth_file(tmp_path, password=canary)
    ended = run_step(results, tmp_path, running.host)
    assert ended.returncode == ExitCode.PUSH_DENIED
    last = (tmp_path / "last").read_text()
    assert last.startswith("PushDenied: ")
    assert canary not in ended.stderr + ended.stdout + last


def test_plain_http_is_refused_unless_it_is_named(results: Path, running: RunningRegistry) -> None:
    image = parse_reference(f"{running.host}/plain:v1")
    with pytest.raises(StepFailed, match="this machine itself") as failure:
        publish(results, image=image, auth=[], guard=Guard(private=True), patience=QUICK)
    assert failure.value.code == ExitCode.PUSH_DENIED


@pytest.mark.faults
def test_a_killed_push_leaves_no_tag_and_the_next_one_succeeds(
    results: Path, running: RunningRegistry, proxy: Site, tmp_path: Path, count_cases: Callable[[str, int], None]
) -> None:
    host = f"127.0.0.1:{proxy.port}"
    running.auth_file(tmp_path, host=host)
    proxy.faults = [Fault(status=503, method="PUT", headers={"retry-after": "60"})] * 5
    process = subprocess.Popen(command(results, tmp_path, host, "killed"), env=environment(tmp_path))
    try:
        eventually(lambda: proxy.asked("PUT"), within=30, what="the push reached its last request")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    proxy.faults = []
    with pytest.raises(StepFailed, match="404"):
        pull(tmp_path / "none", host, running, name="killed")
    push(results, host, running, name="killed")
    assert pull(tmp_path / "got", host, running, name="killed") is not None
    count_cases("kills of a tuning", 1)


def test_the_step_says_image_and_digest(results: Path, running: RunningRegistry, tmp_path: Path) -> None:
    running.auth_file(tmp_path)
    ended = run_step(results, tmp_path, running.host)
    assert ended.returncode == 0, ended.stderr
    last = json.loads((tmp_path / "last").read_text())
    manifest = raw_manifest(running, "step")
    assert last == {"image": f"{running.host}/step:v1", "digest": api.digest_of(manifest)}


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda r: (r / "results.json").unlink(), "has not ended"),
        (lambda r: (r / "results.json").write_text("[]"), "no JSON object"),
        (lambda r: (r / "results.json").write_text("{"), "no JSON object"),
        (lambda r: (r / "adapter/adapter_config.json").unlink(), "is missing"),
        (lambda r: (r / "adapter/adapter_model.safetensors").write_bytes(b"x"), "not the file that was trained"),
    ],
)
def test_half_a_training_is_not_published(
    spoil: Callable[[Path], object], words: str, tmp_path: Path, running: RunningRegistry
) -> None:
    results = make_results(tmp_path / "own", b"weights")
    spoil(results)
    with pytest.raises(StepFailed, match=words) as failure:
        push(results, running.host, running)
    assert failure.value.code == ExitCode.CONFIG_INVALID


def command(results: Path, directory: Path, host: str, name: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tuning_runner.publish",
        f"--results={results}",
        f"--image={host}/{name}:v1",
        f"--auth={directory / '.dockerconfigjson'}",
        f"--plain_http={host}",
    ]


def environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "TERMINATION_LOG": str(directory / "last")}


def run_step(results: Path, directory: Path, host: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(results, directory, host, "step"),
        env=environment(directory),
        capture_output=True,
        text=True,
        check=False,
    )


def raw_manifest(running: RunningRegistry, name: str) -> bytes:
    connection = http.client.HTTPConnection(running.host)

    auth = docker_config("x")["auths"]["x"]["auth"]
    connection.request(
        "GET",
        f"/v2/{name}/manifests/v1",
        headers={"authorization": f"Basic {auth}", "accept": api.OCI_MANIFEST},
    )
    content = connection.getresponse().read()
    connection.close()
    return content


def read_manifest(running: RunningRegistry, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(raw_manifest(running, name))
    return found
