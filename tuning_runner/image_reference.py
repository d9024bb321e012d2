"""An image's name, read by the grammar of the distribution project. Pure."""

import re
from dataclasses import dataclass

PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
REFERENCE = re.compile(
    rf"(?:(?P<registry>[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{{1,5}})?|\[[0-9a-fA-F:]+\](?::[0-9]{{1,5}})?)/)?"
    rf"(?P<repository>{PATH_PART}(?:/{PATH_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
"""https://github.com/distribution/reference, with sha256 as the only kind of digest."""
DOCKER_HUB = "docker.io"
DOCKER_HUB_API = "registry-1.docker.io"


class BadReference(ValueError):
    """A text that names no image; the message says what to write."""


@dataclass(frozen=True, slots=True)
class ImageReference:
    """``registry/repository:tag`` or ``…@digest``, spelled out."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def host(self) -> str:
        """The host, with its port if one is written, that answers for the registry."""
        return DOCKER_HUB_API if self.registry == DOCKER_HUB else self.registry

    @property
    def wanted(self) -> str:
        """What to ask for: the digest if there is one, else the tag."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag, digest = f":{self.tag}" if self.tag else "", f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def parse_reference(text: str) -> ImageReference:
    """The image that ``text`` names. Raises BadReference."""
    match = REFERENCE.fullmatch(text) if len(text) <= 512 else None
    if not match:
        hint = "lower case letters, " if text != text.lower() else ""
        raise BadReference(f"{text[:100]!r} names no image: write {hint}REGISTRY/REPOSITORY:TAG")
    registry, repository = match["registry"] or "", match["repository"]
    if registry and not re.search(r"[.:]|^localhost$", registry):
        registry, repository = "", f"{registry}/{repository}"  # docker's rule: such a first part is no host
        if repository != repository.lower():
            raise BadReference(f"{text[:100]!r} names no image: write the repository in lower case")
    if not registry:
        registry, repository = DOCKER_HUB, repository if "/" in repository else f"library/{repository}"
    tag, digest = match["tag"] or "", match["digest"] or ""
    return ImageReference(registry, repository, tag=tag if tag or digest else "latest", digest=digest)
