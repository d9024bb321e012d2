"""Who we say we are to a registry: tokens by password and by identity token, and to nobody else."""

import hashlib
import json
from pathlib import Path

import pytest

from presets.tuning_steps import ExitCode
from tests.support.faulty_http import Fault, Site, serve
from tuning_runner.address_guard import Guard
from tuning_runner.image_reference import parse_reference
from tuning_runner.patience import Patience
from tuning_runner.registry import get_blob, get_manifest
from tuning_runner.registry_auth import Credentials
from tuning_runner.registry_session import RegistrySession
from tuning_runner.transfer_ending import StepFailed

pytestmark = pytest.mark.security
MANIFEST = json.dumps({"layers": [1]}).encode()


def session(site: Site, credentials: Credentials | None, *, others: tuple[Site, ...] = ()) -> RegistrySession:
    hosts = frozenset(f"127.0.0.1:{each.port}" for each in (site, *others))
    return RegistrySession(
        parse_reference(f"127.0.0.1:{site.port}/a/b:v1"),
        guard=Guard(plain_http=hosts),
        credentials=credentials,
        failed=ExitCode.DOWNLOAD_FAILED,
        denied=ExitCode.DOWNLOAD_REFUSED,
        patience=Patience(pauses=(0.01,)),
    )


def asks_for_token(tokens: Site) -> Fault:
    challenge = f'Bearer realm="{tokens.url}/token",service="reg",scope="repository:a/b:pull"'
    return Fault(status=401, path="manifests", headers={"www-authenticate": challenge})


@pytest.mark.parametrize(
    ("credentials", "method", "authorization"),
    [
        (None, "GET", None),
        (Credentials(user="u", password="p"), "GET", "Basic dTpw"),
        (Credentials(user="0", identity_token="refresh"), "POST", None),
    ],
)
def test_a_token_is_asked_for_as_the_challenge_says(
    credentials: Credentials | None, method: str, authorization: str | None
) -> None:
    with serve(Site(files={"/v2/a/b/manifests/v1": MANIFEST})) as site:
        with serve(Site(files={"/token": b'{"access_token": "t0k"}'})) as tokens:
            site.faults = [asks_for_token(tokens)]
            talk = session(site, credentials, others=(tokens,))
            assert get_manifest(talk, "v1").body == {"layers": [1]}
            talk.close()
            [(asked, path, headers)] = tokens.seen
        assert site.seen[-1][2]["authorization"] == "Bearer t0k"
    assert (asked, headers.get("authorization")) == (method, authorization)
    assert method == "POST" or path == "/token?service=reg&scope=repository%3Aa%2Fb%3Apull"


@pytest.mark.parametrize("answer", [b"", b"[]", b'{"token": 5}', b'{"token": ""}'])
def test_a_token_server_without_a_token_is_named(answer: bytes) -> None:
    with serve(Site()) as site, serve(Site(files={"/token": answer})) as tokens:
        site.faults = [asks_for_token(tokens)]
        with pytest.raises(StepFailed, match="gave no token"):
            get_manifest(session(site, None, others=(tokens,)), "v1")


def test_a_redirect_to_another_host_does_not_see_who_we_are(tmp_path: Path) -> None:
    """Registries send layers from elsewhere; that place gets no password."""
    digest = f"sha256:{hashlib.sha256(b'layer').hexdigest()}"
    with serve(Site()) as site, serve(Site(files={"/blob": b"layer"})) as elsewhere:
        site.redirects = {f"/v2/a/b/blobs/{digest}": f"{elsewhere.url}/blob"}
        site.faults = [Fault(status=401, headers={"www-authenticate": 'Basic realm="r"'})]
        talk = session(site, Credentials(user="u", password="p"), others=(elsewhere,))
        get_blob(talk, digest, size=5, to=tmp_path / "blob")
        talk.close()
        assert site.seen[-1][2]["authorization"] == "Basic dTpw"
        assert "authorization" not in elsewhere.seen[0][2]
    assert (tmp_path / "blob").read_bytes() == b"layer"
