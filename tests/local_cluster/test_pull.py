"""What a node is told of an image that is not in its table: by a real registry with a password."""

import hashlib
import json
from collections.abc import Iterator

import httpx
import pytest

from local_cluster import pull
from local_cluster.cri_server import CriError, NotFound, NotSupported
from local_cluster.registry import PASSWORD, USER
from tests.support.oci_registry import RunningRegistry, registry
from tests.support.ports import free_port

DENIED = "pull access denied, repository does not exist or may require authorization: authorization failed"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """A registry that holds team/private:1."""
    with registry(tmp_path_factory.mktemp("registry")) as found:
        push(found.host, "team/private", b"{}")
        yield found


def push(host: str, repository: str, config: bytes) -> None:
    """An image of no layers."""
    digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    kind = "application/vnd.oci.image.{}.v1+json"
    described = {"mediaType": kind.format("config"), "digest": digest, "size": len(config)}
    manifest = {"schemaVersion": 2, "mediaType": kind.format("manifest"), "config": described, "layers": []}
    with httpx.Client(base_url=f"http://{host}/v2/{repository}", auth=(USER, PASSWORD)) as client:
        begun = client.post("/blobs/uploads/").headers["location"]
        client.put(httpx.URL(f"http://{host}").join(begun).copy_merge_params({"digest": digest}), content=config)
        headers = {"Content-Type": kind.format("manifest")}
        client.put("/manifests/1", content=json.dumps(manifest), headers=headers).raise_for_status()


async def refusal(reference: str, *, host: str, user: str = "", password: str = "") -> tuple[type[CriError], str]:
    with pytest.raises(CriError) as refused:
        await pull.refuse(reference, host=host, user=user, password=password)
    return refused.type, str(refused.value)


async def test_who_has_no_password_or_a_wrong_one_is_denied_in_containerds_words(running: RunningRegistry) -> None:
    image = f"{running.host}/team/private:1"
    failed = f'failed to pull and unpack image "{image}": failed to resolve reference "{image}"'
    nobody = await refusal(image, host=running.host)
    assert nobody == (pull.NotPulled, f"{failed}: {DENIED}: no basic auth credentials")
    asked = f"HEAD request to http://{running.host}/v2/team/private/manifests/1"
    wrong = await refusal(image, host=running.host, user=USER, password="guessed")
    assert wrong == (pull.NotPulled, f"{failed}: unexpected status from {asked}: 401 Unauthorized")


async def test_who_may_pull_is_told_what_is_there(running: RunningRegistry) -> None:
    login = {"host": running.host, "user": USER, "password": PASSWORD}
    kind, told = await refusal(f"{running.host}/team/private:1", **login)
    assert kind is NotSupported
    assert "the containers of this cluster are processes" in told
    for missing in ("team/private:2", "team/none", f"team/private@sha256:{'0' * 64}"):
        kind, told = await refusal(f"{running.host}/{missing}", **login)
        assert (kind, told.rpartition(": ")[2]) == (NotFound, "not found")


async def test_no_other_registry_is_asked(running: RunningRegistry) -> None:
    assert await refusal("example.com/none:1", host=running.host) == (NotFound, "example.com/none:1: not found")
    assert await refusal("local/none:1", host="") == (NotFound, "local/none:1: not found")


async def test_a_registry_that_does_not_answer_is_named() -> None:
    host = f"127.0.0.1:{free_port()}"
    kind, told = await refusal(f"{host}/team/private:1", host=host)
    assert kind is pull.NotPulled
    assert f"failed to do request: Head http://{host}/v2/team/private/manifests/1: " in told
