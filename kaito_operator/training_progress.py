"""How far a training is, as the trainer itself tells it."""

from collections.abc import Iterator

from kaito_operator.api import labels
from kaito_operator.api.kinds import POD
from kaito_operator.mirror import Mirror
from kaito_operator.plan import Key
from kaito_operator.pod_board import EVERY_SECONDS, PodAtWork, PodBoard
from kaito_operator.workspace import seen_pods
from kaito_operator.workspace.seen_pods import Progress
from kaito_operator.workspace.services import HTTP_PORT
from kaito_operator.workspace.trained import under_way
from kaito_operator.workspace.tuning import COMPONENT, TRAINER


def progress_board(*, port: int = HTTP_PORT, every_seconds: float = EVERY_SECONDS) -> PodBoard[Progress]:
    """The last progress of each pod whose trainer runs."""
    return PodBoard(path="/progress", at_work=_training, read=under_way, port=port, every_seconds=every_seconds)


def _training(mirror: Mirror) -> Iterator[PodAtWork]:
    for manifest in mirror.all(POD):
        pod = seen_pods.pod(manifest)
        trains = any(each.name == TRAINER and each.runs for each in pod.containers)
        if pod.component == COMPONENT and trains and pod.address:
            key = Key(manifest["metadata"]["namespace"], manifest["metadata"]["labels"][labels.WORKSPACE])
            yield key, pod.name, pod.address
