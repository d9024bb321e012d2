"""How far a model is on its way into memory: as the server says at ``/readyz``, and before it what fetches it."""

import re
from collections.abc import Iterator

from pydantic import BaseModel, ValidationError

from kaito_operator.api import labels
from kaito_operator.api.conditions import is_true
from kaito_operator.api.kinds import POD
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key
from kaito_operator.pod_board import EVERY_SECONDS, PodAtWork, PodBoard
from kaito_operator.workspace import inference, seen_pods
from kaito_operator.workspace.model_files import DOWNLOADER
from kaito_operator.workspace.services import HTTP_PORT

LONGEST = 120
SINCE = re.compile(r", \d+ s$")
"""How long it has been at it is no news, and would be a write every time."""


class Told(BaseModel, frozen=True):
    """What is said at ``/readyz`` by whoever is not ready."""

    status: str
    progress: str = ""


def loading_board(*, port: int = HTTP_PORT, every_seconds: float = EVERY_SECONDS) -> PodBoard[str]:
    """The last words of each pod that loads a model."""
    return PodBoard(path="/readyz", at_work=_loading, read=_words, port=port, every_seconds=every_seconds)


def _loading(mirror: Mirror) -> Iterator[PodAtWork]:
    for manifest in mirror.all(POD):
        pod = seen_pods.pod(manifest)
        loads = any(each.name in (DOWNLOADER, inference.COMPONENT) and each.runs for each in pod.containers)
        if loads and pod.address and not is_true(pod.conditions, "Ready"):
            key = Key(manifest["metadata"]["namespace"], manifest["metadata"]["labels"][labels.WORKSPACE])
            yield key, pod.name, pod.address


def _words(answer: bytes) -> str | None:
    """One line, and not more than a status can do with: whatever answers there may be anybody's."""
    try:
        told = Told.model_validate_json(answer)
    except ValidationError:
        return None
    if told.status != "loading":
        return None
    line = "".join(each for each in SINCE.sub("", " ".join(told.progress.split())) if each.isprintable())
    return line[:LONGEST] or None
