"""Admission on the real API server: what a pass would refuse is refused at the door, all of it in one answer."""

import base64
import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kaito_operator.admission import LONGEST_ANSWER, refusal
from tests.kaito_operator.test_operator_process import answers, environment, operator
from tests.support.builders import a_workspace
from tests.support.control_plane import ApiServer, Refused
from tests.support.ports import free_port
from tests.support.waiting import eventually

WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


def certificate(directory: Path) -> str:
    """Writes tls.crt and tls.key for 127.0.0.1; the bundle by which to know it."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(loopback, critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = built.public_bytes(serialization.Encoding.PEM)
    (directory / "tls.crt").write_bytes(pem)
    (directory / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return base64.b64encode(pem).decode()


@pytest.fixture
def door(api_server: ApiServer, namespace: str, tmp_path: Path) -> Iterator[None]:
    """An operator that answers admission for this namespace, and an API server that asks it."""
    bundle, port = certificate(tmp_path), free_port()
    settings = {"KAITO_WEBHOOK_CERTIFICATES": str(tmp_path), "KAITO_WEBHOOK_PORT": str(port)}
    health = environment(namespace)["KAITO_HEALTH_PORT"]
    webhook: dict[str, Any] = {
        "name": "workspaces.kaito.sh",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "rules": [
            {
                "apiGroups": ["kaito.sh"],
                "apiVersions": ["v1alpha1"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["workspaces"],
            }
        ],
        "clientConfig": {"url": f"https://127.0.0.1:{port}/validate", "caBundle": bundle},
    }
    with operator(api_server, namespace, POD_NAME="one", KAITO_HEALTH_PORT=health, **settings):
        eventually(lambda: answers(health, "/readyz"), within=20, what="the operator is ready")
        configuration = {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": namespace},
            "webhooks": [webhook],
        }
        api_server.ask("POST", WEBHOOKS, configuration)
        eventually(lambda: refused(api_server, namespace, preset="no-such-preset"), within=20, what="it is asked")
        try:
            yield
        finally:
            api_server.ask("DELETE", f"{WEBHOOKS}/{namespace}")


def create(server: ApiServer, namespace: str, name: str, **changes: Any) -> None:
    body = a_workspace(name, finalizer=False, **changes)
    manifest = {**body, "metadata": {"name": name}}
    server.ask("POST", f"/apis/kaito.sh/v1alpha1/namespaces/{namespace}/workspaces", manifest)


def refused(server: ApiServer, namespace: str, **changes: Any) -> str:
    """What the API server says to a dry run of it; "" if it would be let in."""
    body = a_workspace("trial", finalizer=False, **changes)
    path = f"/apis/kaito.sh/v1alpha1/namespaces/{namespace}/workspaces?dryRun=All"
    try:
        server.ask("POST", path, {**body, "metadata": {"name": "trial"}})
    except Refused as answer:
        return str(answer) if " 422 " in str(answer) else ""
    return ""


@pytest.mark.controlplane
@pytest.mark.usefixtures("crds", "door")
def test_all_mistakes_are_told_at_once_and_what_is_right_gets_in(api_server: ApiServer, namespace: str) -> None:
    told = refused(api_server, namespace, preset="smollm2-135m", instance_type="Standard_X1")
    assert "inference.preset.name: there is no preset" in told
    assert "did you mean smollm2-135m-instruct" in told
    assert "resource.instanceType: there is no instance type" in told
    create(api_server, namespace, "right")


def test_an_object_stored_under_older_rules_can_be_labelled_finalized_and_deleted() -> None:
    old = a_workspace(preset="gone")
    new = {**old, "metadata": {**old["metadata"], "finalizers": [], "labels": {"a": "b"}}}
    assert refusal(new, old, mistakes=lambda _: "no") == ""
    dying = {**a_workspace(preset="other"), "metadata": {"deletionTimestamp": "2026-01-02T11:00:00Z"}}
    assert refusal(dying, old, mistakes=lambda _: "no") == ""


def test_a_changed_part_is_judged_anew() -> None:
    assert refusal(a_workspace(preset="other"), a_workspace(), mistakes=lambda _: "no") == "no"
    assert refusal(a_workspace(), None, mistakes=lambda _: "no") == "no"


def test_a_very_long_answer_is_cut() -> None:
    assert len(refusal(a_workspace(), None, mistakes=lambda _: "x" * 9000)) == LONGEST_ANSWER + 1
