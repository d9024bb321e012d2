"""Who may speak to the API server, and how: tokens, the key for service accounts, kubeconfigs."""

import base64
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ADMIN = "admin"
USERS = {
    ADMIN: "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
}
"""User → group. The bootstrap roles of Kubernetes know the last three by name."""

P256 = bytes.fromhex("a00a06082a8648ce3d030107")
"""[0] the named curve prime256v1, the parameters of an ECPrivateKey (RFC 5915)."""


def new_tokens() -> dict[str, str]:
    """A fresh secret for every user."""
    return {user: secrets.token_urlsafe(32) for user in USERS}


def token_file(tokens: Mapping[str, str]) -> str:
    """The API server's static token file: token, user, uid, groups."""
    return "".join(f'{token},{user},{user},"{USERS[user]}"\n' for user, token in tokens.items())


def new_signing_key() -> str:
    """A private key in PEM that signs service-account tokens.

    An ECPrivateKey needs no public part (RFC 5915), so 32 random bytes make one, without a library for it.
    """
    scalar = bytes([secrets.randbelow(0xFF)]) + secrets.token_bytes(31)  # below the order, which begins with FF FF
    der = bytes.fromhex("30310201010420") + scalar + P256
    return f"-----BEGIN EC PRIVATE KEY-----\n{base64.b64encode(der).decode()}\n-----END EC PRIVATE KEY-----\n"


def kubeconfig(
    *, server: str, token: str, authority: bytes, cluster: str, acts_as: str = "", group: str = ""
) -> dict[str, Any]:
    """A kubeconfig that carries all it needs.

    ``acts_as`` and ``group`` are impersonated: how kubelets get an identity each from one token.
    """
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": cluster,
        "clusters": [
            {
                "name": cluster,
                "cluster": {
                    "server": server,
                    "certificate-authority-data": base64.b64encode(authority).decode(),
                },
            }
        ],
        "users": [
            {
                "name": cluster,
                "user": {"token": token, **({"as": acts_as, "as-groups": [group]} if acts_as else {})},
            }
        ],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster, "namespace": "default"}}],
    }


def write_secret(path: Path, content: str | Mapping[str, Any]) -> None:
    """A file for its owner alone, whole or not at all; mappings are written as JSON, which is YAML too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    part.rename(path)
