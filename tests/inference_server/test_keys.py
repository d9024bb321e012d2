"""Bearer keys: who has one asks, who has none gets 401 in the envelope, and keys change without a restart."""

from pathlib import Path

import httpx
import pytest

from tests.inference_server.test_app import PROMPT, client_of
from tests.support.scripted_engine import ScriptedEngine

pytestmark = pytest.mark.security


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def asked(client: httpx.AsyncClient, **headers: str) -> int:
    return (await client.post("/chat", json=PROMPT, headers=headers)).status_code


async def test_one_of_several_keys_opens_and_they_rotate(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\nsecond\n")
    async with client_of(ScriptedEngine(), api_keys_file=str(keys)) as client:
        assert [await asked(client, **bearer(key)) for key in ("first", "second", "third")] == [200, 200, 401]
        keys.write_text("third\n")
        assert [await asked(client, **bearer(key)) for key in ("first", "second", "third")] == [401, 401, 200]
        keys.unlink()
        assert await asked(client, **bearer("third")) == 401


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic first", "first", "Bearer fir", "Bearer first second"]
)
async def test_whatever_is_not_a_key_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "keys").write_text("first\n")
    async with client_of(ScriptedEngine(), api_keys_file=str(tmp_path / "keys")) as client:
        reply = await client.get("/v1/models", headers={"Authorization": header})
    assert (reply.status_code, reply.json()["error"]["type"]) == (401, "authentication_error")
    assert reply.headers["www-authenticate"] == "Bearer"


async def test_probes_and_metrics_need_no_key(tmp_path: Path) -> None:
    async with client_of(ScriptedEngine(), api_keys_file=str(tmp_path / "none")) as client:
        assert [(await client.get(path)).status_code for path in ("/", "/healthz", "/readyz", "/metrics")] == [200] * 4


async def test_no_other_origin_is_let_in_by_a_browser() -> None:
    async with client_of(ScriptedEngine()) as client:
        reply = await client.get("/v1/models", headers={"Origin": "http://elsewhere"})
    assert not [name for name in reply.headers if name.startswith("access-control")]
