"""Who we are to a registry: entries of dockerconfigjson files, and what a challenge of the registry asks for. Pure."""

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tuning_runner.image_reference import DOCKER_HUB, ImageReference

DOCKER_HUB_ENTRY = "index.docker.io"
"""As docker login writes it: https://index.docker.io/v1/."""
TOKEN_USER = "00000000-0000-0000-0000-000000000000"  # noqa: S105 - the user name Azure gives identity tokens


class BadAuthFile(ValueError):
    """A file of credentials that cannot be read; the message says what is wrong, never what is in it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user with a password, or an identity token. Never in a repr: those end up in logs."""

    user: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Challenge:
    """A WWW-Authenticate header: its scheme in lower case, and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """All challenges of a header (RFC 9110 section 11.6.1); of what is none, none."""
    challenges: list[Challenge] = []
    token = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a word of the grammar
    for part in re.finditer(rf'({token})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({token}))|({token})', header):
        name, quoted, plain, scheme = part.groups()
        if scheme:
            challenges.append(Challenge(scheme.lower(), {}))
        elif challenges:
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            last = challenges[-1]
            challenges[-1] = Challenge(last.scheme, {**last.parameters, name.lower(): value})
    return challenges


def read_credentials(files: Iterable[Path], image: ImageReference) -> Credentials | None:
    """The entry for an image's registry, from the first file that has one. Raises BadAuthFile."""
    for file in files:
        for path in sorted(file.glob("**/*config*json")) if file.is_dir() else [file]:
            try:
                text = path.read_text()
            except (OSError, UnicodeDecodeError):
                raise BadAuthFile(f"{path.name} of the secret cannot be read: is it a dockerconfigjson?") from None
            if found := parse_credentials(text, image):
                return found
    return None


def parse_credentials(text: str, image: ImageReference) -> Credentials | None:
    """The entry of a dockerconfigjson that fits best: the longest path of the same host. Raises BadAuthFile."""
    try:
        parsed = json.loads(text)
        entries = parsed.get("auths", parsed) if isinstance(parsed, dict) else None
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        raise BadAuthFile('the secret is no dockerconfigjson: write {"auths": {"REGISTRY": {"auth": …}}}')
    fitting = {key: entry for key, entry in entries.items() if isinstance(entry, dict) and _fits(key, image)}
    if not fitting:
        return None
    best = max(fitting, key=lambda key: len(_bare(key)))
    return _entry(fitting[best], registry=image.registry)


def _bare(key: str) -> str:
    """``https://index.docker.io/v1/`` is ``index.docker.io``."""
    bare = re.sub(r"^https?://", "", key).rstrip("/")
    return re.sub(r"/v[12]$", "", bare)


def _fits(key: str, image: ImageReference) -> bool:
    host, _, path = _bare(key).partition("/")
    hosts = {image.registry, image.host} | ({DOCKER_HUB_ENTRY} if image.registry == DOCKER_HUB else set())
    return host in hosts and (not path or f"{image.repository}/".startswith(f"{path}/"))


def _entry(entry: Mapping[str, object], *, registry: str) -> Credentials:
    user, password = str(entry.get("username", "")), str(entry.get("password", ""))
    if entry.get("auth") and not password:
        try:
            user, _, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise BadAuthFile(f"auth of {registry} in the secret is no base64 of USER:PASSWORD") from None
    return Credentials(
        user=user,
        # docker pads what it encodes with NUL bytes.
        password=password.rstrip("\0"),
        identity_token=str(entry.get("identitytoken", "")),
        registry_token=str(entry.get("registrytoken", "")),
    )
