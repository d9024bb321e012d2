"""The status of a Workspace: one report a pass, and an event for each transition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito_operator.api.conditions import Condition, merged
from kaito_operator.api.reasons import ConditionType, Reason
from kaito_operator.api.workspace import Workspace
from kaito_operator.plan import Event, Report
from kaito_operator.workspace.attempts import Attempt, recorded, written
from kaito_operator.workspace.finding import Finding, passed, waits_for, wrong
from kaito_operator.workspace.machines import machine_name
from kaito_operator.workspace.seen_pods import Progress
from kaito_operator.workspace.task import TuningTask
from kaito_operator.workspace.trained import at_the_end

SILENT = (ConditionType.READY.value,)
"""Conditions whose transitions are told already by another's event."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the gates found, in their order. ``stopped``: why none of them was even tried."""

    machine: Finding
    resource: Finding
    inference: Finding | None
    """None if nothing is served."""
    job: Finding | None = None
    """None if nothing is tuned."""
    tuned: Finding | None = None
    nodes: tuple[str, ...] = ()
    wanted_nodes: int = 0
    attempts: tuple[Attempt, ...] | None = None
    """The account of the Machines asked for; None leaves it as it is."""
    endpoint: str = ""
    tuning: Mapping[str, Any] | None = None
    """status.tuning."""
    estimate: Mapping[str, Any] | None = None
    """status.estimate."""
    bought: ConditionType = ConditionType.MACHINE_READY
    """The condition of what machines are asked for with."""
    stopped: Finding | None = None

    @property
    def steps(self) -> tuple[tuple[ConditionType, Finding], ...]:
        """Each gate with its condition."""
        gates = (
            (self.bought, self.machine),
            (ConditionType.RESOURCE_READY, self.resource),
            (ConditionType.JOB_STARTED, self.job),
            (ConditionType.TUNING_SUCCEEDED, self.tuned),
            (ConditionType.INFERENCE_READY, self.inference),
        )
        return tuple((type, found) for type, found in gates if found is not None)

    @property
    def leaf(self) -> Finding | None:
        """The first gate that is not passed; None if the model answers."""
        return self.stopped or next((found for _, found in self.steps if not found.passed), None)

    @property
    def look_again(self) -> float | None:
        """Seconds until something may be seen differently without any event."""
        found = [*(found for _, found in self.steps), *([self.stopped] if self.stopped else [])]
        return min((each.look_again for each in found if each.look_again is not None), default=None)


def stopped(why: Finding, *, bought: ConditionType) -> Standing:
    """The standing of a Workspace that is not worked on."""
    behind = waits_for(ConditionType.WORKSPACE_READY)
    return Standing(behind, behind, behind, stopped=why, bought=bought)


def conditions(standing: Standing) -> tuple[Condition, ...]:
    """One for each gate, and the sum of them twice: by KAITO's name and by everybody's."""
    total = _total(standing.leaf, served=standing.inference is not None)
    return (
        *(found.condition(type) for type, found in standing.steps),
        total.condition(ConditionType.WORKSPACE_READY),
        total.condition(ConditionType.READY),
    )


def _total(leaf: Finding | None, *, served: bool) -> Finding:
    """True or False, never in between; False has the reason of the leaf, if there is anything wrong."""
    if leaf is None:
        return passed(Reason.WORKSPACE_READY, "the model answers" if served else "the model is tuned")
    return wrong(leaf.reason if leaf.status == "False" else Reason.WORKSPACE_PENDING, leaf.message)


def report(
    workspace: Workspace,
    wanted: Sequence[Condition],
    *,
    nodes: Sequence[str],
    wanted_nodes: int,
    endpoint: str,
    now: datetime,
    attempts: Sequence[Attempt] | None = None,
    tuning: Mapping[str, Any] | None = None,
    estimate: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
) -> tuple[Report, ...]:
    """The status to write, if it is another than the one seen. Every field of ours is always in it."""
    seen = workspace.status
    told: dict[str, Any] = {
        "observedGeneration": workspace.generation,
        "conditions": merged(workspace.conditions.values(), wanted, generation=workspace.generation, now=now),
        "workerNodes": sorted(nodes),
        "targetNodeCount": wanted_nodes,
        "endpoint": endpoint,
        **({"machines": account} if (account := _account(workspace, attempts)) else {}),
        **({"tuning": dict(tuning)} if tuning else {}),
        **({"estimate": dict(estimate)} if estimate else {}),
        **({"model": dict(model)} if model else {}),
    }
    return () if _is_told(told, seen, workspace.conditions) else (Report(workspace.ref, workspace.uid, told),)


def _account(workspace: Workspace, attempts: Sequence[Attempt] | None) -> list[dict[str, Any]]:
    """status.machines. ``attempts``: None writes again what it says."""
    kept = recorded(workspace.status).values() if attempts is None else attempts
    names = {each.slot: machine_name(workspace.uid, slot=each.slot, attempt=each.number) for each in kept}
    return written(kept, names=names)


def _is_told(told: Mapping[str, Any], seen: Mapping[str, Any], before: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the status seen says all of it. Fields and conditions of others are theirs."""
    same_conditions = all(before.get(entry["type"]) == entry for entry in told["conditions"])
    return same_conditions and all(seen.get(key) == value for key, value in told.items() if key != "conditions")


def tuning(tuned: TuningTask | None, progress: Progress | None, *, before: object) -> dict[str, Any] | None:
    """status.tuning: which Job, how far, and what it made. What the Job said before stays until it says more; its last
    words count for more than what it was last asked."""
    if tuned is None:
        return None
    known = before if isinstance(before, dict) and before.get("job") == tuned.job_name else {}
    told = {**known, "job": tuned.job_name}
    if (ended := at_the_end(tuned.pods)) is not None:
        told, progress = {**told, **_far(ended)}, None
    if ended is not None or tuned.result is not None:
        told.pop("etaSeconds", None)
    if tuned.result is not None:
        named = {"image": tuned.result.image, "digest": tuned.result.digest}
        return {**told, **{key: value for key, value in named.items() if value}}
    return told if progress is None else {**told, **_far(progress)}


def _far(progress: Progress) -> dict[str, Any]:
    known_by_now = {
        "epoch": progress.epoch or None,
        "etaSeconds": progress.eta_seconds,
        "peakMemory": progress.peak_memory or None,
        "tokensPerSecond": progress.tokens_per_second,
    }
    far = {"step": progress.step, "steps": progress.steps, "loss": progress.loss}
    return {**far, **{key: value for key, value in known_by_now.items() if value is not None}}


def events(workspace: Workspace, wanted: Sequence[Condition]) -> tuple[Event, ...]:
    """One for each turn and for each new reason to be False. What only waits for another, or has only begun, is silent;
    and of what turns True together only the last is told, which could not be without the others."""
    before = workspace.conditions
    news = [each for each in _told_once(wanted) if _is_news(before.get(each.type, {}), each)]
    passed = [each for each in news if each.status == "True"]
    return tuple(
        Event(workspace.ref, workspace.uid, _type(each), each.reason, f"{each.type}: {each.message}")
        for each in news
        if each not in passed[:-1]
    )


def _told_once(wanted: Sequence[Condition]) -> list[Condition]:
    """Without the sums where a gate says the same."""
    sums = {ConditionType.WORKSPACE_READY.value, *SILENT}
    causes = {each.message for each in wanted if each.type not in sums}
    return [each for each in wanted if each.type not in SILENT and not (each.type in sums and each.message in causes)]


def _is_news(before: Mapping[str, Any], now: Condition) -> bool:
    if now.reason == Reason.WAITING.value or (not before and now.status == "Unknown"):
        return False
    turned = before.get("status") != now.status
    return turned or (now.status == "False" and before.get("reason") != now.reason)


def _type(condition: Condition) -> str:
    return "Warning" if condition.status == "False" else "Normal"
