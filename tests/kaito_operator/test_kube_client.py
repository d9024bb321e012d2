"""The client against a real API server, and against servers that do not behave."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kaito_operator.api.kinds import CONFIG_MAP, LEASE, NODECLAIM
from kaito_operator.kube import errors
from kaito_operator.kube.client import PAGE, Kube
from kaito_operator.plan import Manifest, Ref
from local_cluster import credentials
from tests.support.control_plane import ApiServer

pytestmark = pytest.mark.controlplane


def a_config_map(namespace: str, name: str = "c", **data: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace, "labels": {"test": namespace}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


def ref(namespace: str, name: str = "c") -> Ref:
    return Ref("v1", "ConfigMap", name, namespace)


async def test_what_is_applied_is_what_is_got_listed_and_nothing_changes_when_applied_again(
    kube: Kube, namespace: str
) -> None:
    applied = await kube.apply(a_config_map(namespace, a="1"))
    assert applied["data"] == {"a": "1"}
    assert await kube.get(ref(namespace)) == applied
    listed = await kube.list(CONFIG_MAP, labels=f"test={namespace}")
    assert listed.items == [applied], "the items carry apiVersion and kind as a GET does"
    assert int(listed.resource_version) >= int(applied["metadata"]["resourceVersion"])
    again = await kube.apply(a_config_map(namespace, a="1"), uid=applied["metadata"]["uid"])
    assert again["metadata"]["resourceVersion"] == applied["metadata"]["resourceVersion"]


async def test_a_list_takes_as_many_pages_as_there_are(api_server: ApiServer, kube: Kube, namespace: str) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(PAGE + 1):
            group.create_task(kube.create(a_config_map(namespace, f"c{number:04}")))
    start = api_server.now()
    listed = await kube.list(CONFIG_MAP, labels=f"test={namespace}")
    assert [c["metadata"]["name"] for c in listed.items] == [f"c{number:04}" for number in range(PAGE + 1)]
    assert start.requests() == ["list configmaps", "list configmaps"]


async def test_a_namespaced_list_leaves_out_the_others(kube: Kube, namespace: str) -> None:
    await kube.apply(a_config_map("default", "elsewhere"))
    await kube.apply(a_config_map(namespace))
    assert [c["metadata"]["name"] for c in (await kube.list(CONFIG_MAP, namespace=namespace)).items] == ["c"]


async def test_a_delete_is_of_one_uid(kube: Kube, namespace: str) -> None:
    made = await kube.apply(a_config_map(namespace))
    with pytest.raises(errors.Conflict):
        await kube.delete(ref(namespace), uid="another")
    assert await kube.delete(ref(namespace), uid=made["metadata"]["uid"]) is None
    with pytest.raises(errors.NotFound):
        await kube.get(ref(namespace))


async def test_a_delete_that_a_finalizer_holds_up_answers_the_object(kube: Kube, namespace: str) -> None:
    made = await kube.create({**a_config_map(namespace), "metadata": {"name": "c", "namespace": namespace}})
    add = {"op": "add", "path": "/metadata/finalizers", "value": ["example.com/held"]}
    await kube.patch_json(ref(namespace), [add])
    left = await kube.delete(ref(namespace), uid=made["metadata"]["uid"])
    assert left is not None
    assert "deletionTimestamp" in left["metadata"]


Ask = Callable[[Kube, str], Awaitable[object]]
REFUSED: dict[str, tuple[Ask, type[errors.KubeError], str]] = {
    "an object that is not there": (lambda k, n: k.get(ref(n, "no")), errors.NotFound, "NotFound"),
    "a kind that is not installed": (lambda k, n: k.list(NODECLAIM), errors.NotFound, ""),  # in plain text, no Status
    "a name that is taken": (lambda k, n: k.create(a_config_map(n)), errors.Conflict, "AlreadyExists"),
    "an old version": (lambda k, n: k.replace(_at_version(a_config_map(n), "1")), errors.Conflict, "Conflict"),
    "a test that fails": (
        lambda k, n: k.patch_json(ref(n), [{"op": "test", "path": "/metadata/name", "value": "other"}]),
        errors.Invalid,
        "Invalid",
    ),
    "what is not valid": (lambda k, n: k.apply(a_config_map(n, **{"no such!": ""})), errors.Invalid, "Invalid"),
    "the uid of another": (lambda k, n: k.apply(a_config_map(n), uid="other"), errors.Invalid, "Invalid"),
    "the uid of what is gone": (lambda k, n: k.apply(a_config_map(n, "no"), uid="u"), errors.Conflict, "Conflict"),
}


def _at_version(manifest: Manifest, version: str) -> Manifest:
    return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": version}}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refusal_is_a_typed_error(kube: Kube, namespace: str, case: str) -> None:
    ask, kind, reason = REFUSED[case]
    await kube.apply(a_config_map(namespace))
    with pytest.raises(kind) as refused:
        await ask(kube, namespace)
    assert (type(refused.value), refused.value.reason) == (kind, reason)


@pytest.mark.security
async def test_rights_and_names_are_checked(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    stranger = await Kube.connect(str(api_server.kubeconfig("stranger")))
    with pytest.raises(errors.Forbidden, match="stranger"):
        await stranger.list(CONFIG_MAP)
    await stranger.close()
    nobody = await Kube.connect(str(a_kubeconfig(tmp_path, api_server.url, api_server.plane.authority.read_bytes())))
    with pytest.raises(errors.Forbidden, match="401"):
        await nobody.list(CONFIG_MAP)
    await nobody.close()


async def test_a_lease_is_replaced_at_its_version(kube: Kube, namespace: str) -> None:
    lease = {"apiVersion": LEASE.api_version, "kind": LEASE.kind, "metadata": {"name": "l", "namespace": namespace}}
    made = await kube.create({**lease, "spec": {"holderIdentity": "a"}})
    taken = await kube.replace({**made, "spec": {"holderIdentity": "b"}})
    assert taken["spec"]["holderIdentity"] == "b"


class TestServersThatDoNotBehave:
    """Whatever arrives or does not is Unavailable, or the error that the status says; nothing else comes out."""

    @pytest.mark.faults
    @pytest.mark.parametrize(
        ("answer", "kind", "retry_after"),
        [
            (b"", errors.Unavailable, None),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", errors.Unavailable, None),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{{{{", errors.Unavailable, None),
            (b"HTTP/1.1 503 No\r\nContent-Length: 5\r\n\r\nsorry", errors.Unavailable, None),
            (b"HTTP/1.1 429 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", errors.TooManyRequests, 7.0),
            (b"HTTP/1.1 410 No\r\nContent-Length: 2\r\n\r\n[]", errors.Gone, None),
            (b"not http at all\r\n\r\n", errors.Unavailable, None),
        ],
        ids=["hangs up", "cut off", "no json", "503", "429", "410", "no http"],
    )
    async def test_it_is_a_typed_error(
        self, tmp_path: Path, answer: bytes, kind: type[errors.KubeError], retry_after: float | None
    ) -> None:
        async with answering(answer) as url:
            kube = await Kube.connect(str(a_kubeconfig(tmp_path, url)))
            with pytest.raises(kind) as refused:
                await kube.patch_json(ref("n"), [])
            await kube.close()
        assert (type(refused.value), refused.value.retry_after) == (kind, retry_after)

    async def test_nobody_there_is_unavailable_and_no_file_too(self, tmp_path: Path) -> None:
        kube = await Kube.connect(str(a_kubeconfig(tmp_path, "http://127.0.0.1:1")))
        with pytest.raises(errors.Unavailable, match="GET /api/v1/configmaps"):
            await kube.list(CONFIG_MAP)
        await kube.close()
        with pytest.raises(errors.Unavailable, match="nowhere"):
            await Kube.connect(str(tmp_path / "nowhere"))


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """A server that answers every request so, and hangs up; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        # What is sent and not read makes of the end of a connection a reset of it.
        length = re.search(rb"(?i)content-length: ([0-9]+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def a_kubeconfig(directory: Path, url: str, authority: bytes = b"") -> Path:
    path = directory / "kubeconfig"
    content = credentials.kubeconfig(server=url, token="wrong", authority=authority, cluster="test")
    credentials.write_secret(path, content)
    return path
