"""What is in an image, as CycloneDX 1.6: ``python scripts/sbom.py NAME REQUIREMENTS.txt OUTPUT.json``.

Made from the locked requirements, so every build of them has the same. Standard library only: it runs in the build.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

PINNED = re.compile(
    r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(\[[^]]*\])?==(?P<version>[^ ;\\]+)(?P<rest>[^\n]*)", re.MULTILINE
)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def components(requirements: str) -> list[dict[str, Any]]:
    """Every pinned package, with the digests of the files it may come from and the platforms it is limited to."""
    found = list(PINNED.finditer(requirements))
    ends = [match.start() for match in found[1:]] + [len(requirements)]
    return [_component(match, requirements[match.start() : end]) for match, end in zip(found, ends, strict=True)]


def sbom(name: str, requirements: str) -> dict[str, Any]:
    """The document."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name}},
        "components": components(requirements),
    }


def _component(match: re.Match[str], text: str) -> dict[str, Any]:
    name, version = re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"]
    marker = match["rest"].strip(" ;\\")
    properties = [{"name": "kaito:sha256", "value": digest} for digest in HASH.findall(text)]
    properties += [{"name": "kaito:marker", "value": marker}] if marker else []
    url = f"pkg:pypi/{name}@{version}"
    return {
        "type": "library",
        "bom-ref": url if not marker else f"{url}?marker={marker}",
        "name": name,
        "version": version,
        "purl": url,
        "properties": properties,
    }


def main() -> None:
    """Writes the file."""
    name, requirements, output = sys.argv[1:]
    Path(output).write_text(json.dumps(sbom(name, Path(requirements).read_text()), indent=1) + "\n")


if __name__ == "__main__":
    main()
