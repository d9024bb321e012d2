"""Models that are not in the catalogue but on the Hugging Face Hub: what is known of one, and the gate it opens.

The Hub is asked once, beside the passes (``kaito_operator/hub_board.py``); its answer is then kept in ``status.model``,
so that a restart asks nobody, and every pod gets the very commit whose size was looked up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from kaito_operator.api.reasons import Reason
from kaito_operator.api.workspace import Workspace, WorkspaceBody
from kaito_operator.plan import Key
from kaito_operator.workspace.finding import Finding, waiting, wrong
from presets.catalog import Catalog, Model, UnknownModel
from presets.hub.row import as_row, of_row

CURES = {
    Reason.HUB_GATED: "agree to its terms on the Hub; give the operator a token to see its size (hub.tokenSecret of "
    "its chart), and the Workspace the Secret with yours (presetOptions.modelAccessSecret)",
    Reason.HUB_MODEL_MISSING: "write the id as the Hub has it, org/name",
    Reason.HUB_MODEL_UNSUPPORTED: "take another model; `kaito models` lists those that are known to work",
    Reason.HUB_UNREACHABLE: "see whether the operator's pod reaches the Hub, or name a mirror in hub.endpoint",
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the Hub has said nothing that helps. It is asked again after a while."""

    reason: Reason
    message: str


Answer = Model | Trouble
AnswerOf = Callable[[Key, str], Answer | None]
"""What the Hub said of a model that a Workspace names; None as long as it has said nothing."""


def nothing(_key: Key, _name: str) -> None:
    """Nobody has asked the Hub."""


def known(workspace: Workspace, *, answer_of: AnswerOf) -> Answer | None:
    """What is known of the model that a Workspace names by an id of the Hub: by its status, else by the Hub."""
    name = _preset_name(workspace.body)
    if "/" not in name or workspace.deleted_at is not None:
        return None
    told = workspace.status.get("model")
    if isinstance(told, dict) and told.get("id") == name:
        try:
            return of_row(told.get("row"))
        except ValidationError:
            pass  # an older version's; the Hub is asked again
    return answer_of(workspace.key, name)


def extended(catalog: Catalog, answer: Answer | None) -> Catalog:
    """The catalogue with the model that the Hub told of, for this Workspace alone."""
    return catalog.with_model(answer) if isinstance(answer, Model) else catalog


def gate(body: WorkspaceBody, answer: Answer | None, *, catalog: Catalog) -> Finding | None:
    """Closed as long as nobody knows what the model takes."""
    name = _preset_name(body)
    if "/" not in name or isinstance(answer, Model):
        return None
    try:
        catalog.model(name)
    except UnknownModel:
        if answer is None:
            return waiting(Reason.HUB_ASKED, f"the Hugging Face Hub is asked what {name} takes")
        return wrong(answer.reason, answer.message, cure=CURES[answer.reason])
    return None


def told(answer: Answer | None) -> dict[str, Any] | None:
    """status.model."""
    if not isinstance(answer, Model):
        return None
    return {"id": answer.name, "revision": answer.revision, "row": as_row(answer)}


def _preset_name(body: WorkspaceBody | None) -> str:
    if body is None:
        return ""
    preset = body.tuning.preset if body.tuning else body.inference.preset if body.inference else None
    return preset.name if preset else ""
