"""Why it is not ready, down to the leaf: from Machines, nodes and pods as seen to a reason, the object and what to do.

Tables, so that a new cause is a new row. ``docs/reference/conditions.md`` lists every reason.
"""

from datetime import datetime

from kaito_operator.api import labels
from kaito_operator.api.conditions import Conditions, is_true, moment, timestamp
from kaito_operator.api.kinds import MACHINE, NODECLAIM
from kaito_operator.api.reasons import Reason
from kaito_operator.api.spec import LabelSelector, Resource
from kaito_operator.workspace import losses
from kaito_operator.workspace.attempts import FIRST_BACK_OFF, LONGEST_BACK_OFF, Attempt
from kaito_operator.workspace.finding import Finding, passed, waiting, wrong
from kaito_operator.workspace.placement import TRIES_SECONDS, Placement
from kaito_operator.workspace.seen_machines import Machine, Node

STEPS = (
    ("MachineLaunched", "is asked for"),
    ("MachineRegistered", "is launched"),
    ("MachineInitialized", "has registered its node"),
    ("Ready", "is initialized"),
)
"""Karpenter's conditions in their order, and how far a Machine is while one is not True."""
PROGRESS = {
    "",
    "AwaitingReconciliation",
    "Changed",
    "Creating",
    "KnownEphemeralTaintsExist",
    "Launching",
    "MachineNotLaunched",
    "MultipleNodesFound",
    "NodeNotFound",
    "NodeNotReady",
    "OperationInProgress",
    "Queued",
    "ResourceNotRegistered",
    "StartupTaintsExist",
}
"""Reasons of a False condition with which nothing is wrong: Karpenter 0.29 says False while it waits."""
MACHINE_FAILURES = {
    "AllocationFailed": Reason.ALLOCATION_FAILED,
    "AuthorizationFailed": Reason.AUTHORIZATION_FAILED,
    "LaunchTimeout": Reason.LAUNCH_TIMEOUT,
    "QuotaExceeded": Reason.QUOTA_EXCEEDED,
    "RegistrationTimeout": Reason.REGISTRATION_TIMEOUT,
    "SkuNotAvailable": Reason.SKU_NOT_AVAILABLE,
    "Throttled": Reason.THROTTLED,
}
"""The provisioner's reasons that are ours, too. It knows its cloud, so its message says what to do."""
ANSWER_SECONDS = 120.0
"""A provisioner that lives answers a new Machine within seconds."""
PLUGIN_SECONDS = 300.0
"""The device plugin advertises GPUs within this, drivers and all."""
NOBODY_ANSWERS = {
    MACHINE: "see whether gpu-provisioner is installed and runs",
    NODECLAIM: "see whether a Karpenter runs that knows the node class",
}
NO_SUCH_KIND = {
    MACHINE: "install the chart gpu-provisioner, or set nodeProvisioner=nodeclaim where a Karpenter runs",
    NODECLAIM: "install a Karpenter, or set nodeProvisioner=machine and install the chart gpu-provisioner",
}
FLEET_SECONDS = 60.0
"""Between looks at a cluster in which too many nodes are not Ready for any to be given up."""
EVENT_SECONDS = 3.0
"""Between looks for the event that tells why a claim went, for a few of them."""
PRESSURES = (("DiskPressure", Reason.NODE_DISK_PRESSURE), ("MemoryPressure", Reason.NODE_MEMORY_PRESSURE))


def machines(placed: Placement, resource: Resource, *, now: datetime) -> Finding:
    """MachineReady: whether everything that had to be bought is there."""
    failed = next((found for m in placed.machines if (found := _machine_failure(m, now=now))), None)
    if failed is not None:
        return failed
    if placed.lost:
        told = "; ".join(f"{each.machine} is given up: {each.words}" for each in placed.lost)
        return wrong(Reason.NODE_LOST, f"{told}. Another is asked for when it is gone")
    missing = placed.missing if resource.instance_type else 0
    if missing > len(placed.to_buy):
        return _held_up(placed, now=now)
    if missing or not all(machine.ready for machine in placed.machines):
        return _in_progress(placed, missing=missing, size=resource.instance_type, now=now)
    have = len(placed.machines)
    return passed(Reason.MACHINES_READY, f"{have} of {have} Machines are ready" if have else "no Machine is needed")


def _held_up(placed: Placement, *, now: datetime) -> Finding:
    """Why not all that is missing is asked for yet."""
    if placed.absent is not None:
        group = placed.absent.api_version.partition("/")[0]
        what = f"{placed.absent.plural} of {placed.absent.api_version}"
        told = f"the cluster knows no {what}, which machines are asked for with"
        cure = f"{NO_SUCH_KIND[placed.absent]}; see `kubectl get crd {placed.absent.plural}.{group}`"
        return wrong(Reason.MACHINE_KIND_MISSING, told, cure=cure)
    if placed.leaving:
        names = ", ".join(map(str, placed.leaving))
        words = next((f": {each.words}" for each in placed.waiting if not each.unexplained), "")
        return wrong(Reason.MACHINE_TERMINATING, f"waits for {names} to be gone; then another is asked for{words}")
    return _between_attempts(placed.waiting[0], now=now)


def _between_attempts(attempt: Attempt, *, now: datetime) -> Finding:
    """Why the last Machine was lost, and when the next is asked for."""
    left, until = attempt.wait(now), timestamp(attempt.not_before or now)
    told = f"{attempt.words.rstrip('. ')}. Machine number {attempt.number} for its place is asked for at {until}"
    if left > LONGEST_BACK_OFF.total_seconds():
        told += ", or when the Workspace is changed"
    just_lost = attempt.unexplained and left > FIRST_BACK_OFF.total_seconds() - 2 * EVENT_SECONDS
    return wrong(Reason(attempt.reason), told, look_again=EVENT_SECONDS if just_lost else left)


def _in_progress(placed: Placement, *, missing: int, size: str, now: datetime) -> Finding:
    """How far the Machines are, each in a few words, so that a display can follow.

    One that is being asked for in this pass and one that nobody has answered yet are told alike.
    """
    silent = [machine for machine in placed.machines if not machine.conditions]
    told = [_progress(machine) for machine in placed.machines if machine.conditions and not machine.ready]
    if asked := missing + len(silent):
        told.insert(0, f"{asked} Machine{'s' if asked > 1 else ''} of {size} {'are' if asked > 1 else 'is'} asked for")
    left = min((ANSWER_SECONDS - _age(machine, now=now) for machine in silent), default=None)
    return waiting(Reason.MACHINES_PENDING, "; ".join(told), look_again=None if left is None else left + 1)


def _progress(machine: Machine) -> str:
    step, state = _open_step(machine.conditions)
    message = machine.conditions.get(step, {}).get("message", "")
    return f"{machine} ({machine.instance_type}) {state}" + (f": {message}" if message else "")


def _open_step(conditions: Conditions) -> tuple[str, str]:
    return next((step for step in STEPS if not is_true(conditions, step[0])), STEPS[-1])


def _age(machine: Machine, *, now: datetime) -> float:
    return (now - machine.created_at).total_seconds()


def _machine_failure(machine: Machine, *, now: datetime) -> Finding | None:
    what = f"{machine} ({machine.instance_type})"
    if not machine.conditions:
        if _age(machine, now=now) < ANSWER_SECONDS:
            return None
        told = f"{what}: no provisioner has answered for 2 minutes"
        return wrong(Reason.PROVISIONER_NOT_ANSWERING, told, cure=NOBODY_ANSWERS[machine.kind])
    if machine.launch_failed:
        launched, left = machine.conditions["MachineLaunched"], TRIES_SECONDS - _age(machine, now=now)
        told = f"{what}: {launched.get('message') or launched['reason']}"
        return wrong(Reason.LAUNCH_FAILED, told, look_again=left if left > 0 else None)
    step, _ = _open_step(machine.conditions)
    condition = machine.conditions.get(step, {})
    if condition.get("status") != "False" or condition.get("reason", "") in PROGRESS:
        return None
    reason, said = condition["reason"], _words(machine.conditions, step)
    if reason in MACHINE_FAILURES:
        return wrong(MACHINE_FAILURES[reason], f"{what}: {said or reason}")
    return wrong(Reason.MACHINE_FAILED, f"{what}: {reason}: {said}")


def _words(conditions: Conditions, step: str) -> str:
    """What is said of an open step: Ready says it too, and says more where KAITO wants the step to be brief."""
    told, ready = conditions[step], conditions.get("Ready", {})
    same = ready.get("reason") == told["reason"]
    return str((ready.get("message") if same else "") or told.get("message", ""))


def nodes(placed: Placement, resource: Resource, *, gpus: int, lost_after: float, now: datetime) -> Finding:
    """ResourceReady: whether all nodes are there, Ready, and advertise the ``gpus`` that each is to give."""
    have = len(placed.nodes)
    if have < resource.count:
        return _too_few(have, resource, gpus=gpus)
    for node in placed.nodes:
        if found := _node_trouble(node, gpus=gpus, lost_after=lost_after, now=now):
            return found
    return passed(Reason.NODES_READY, f"{have} of {resource.count} nodes are ready")


def _too_few(have: int, resource: Resource, *, gpus: int) -> Finding:
    if resource.instance_type:
        return waiting(Reason.NODES_PENDING, f"{have} of {resource.count} nodes have joined")
    with_gpus = f", have {gpus} free {labels.GPU_RESOURCE}" if gpus else ""
    told = (
        f"{have} of {resource.count} nodes are Ready, bear {_in_words(resource.label_selector)}{with_gpus} "
        "and belong to no other Workspace"
    )
    return wrong(Reason.TOO_FEW_NODES, told, cure='label more nodes; with instanceType "" none are bought')


def _in_words(selector: LabelSelector) -> str:
    equal = [f"{key}={value}" for key, value in sorted(selector.match_labels.items())]
    others = [
        f"{e.key} {e.operator}" + (f" ({', '.join(e.values)})" if e.values else "") for e in selector.match_expressions
    ]
    return ", ".join([*equal, *others]) or "any labels"


def _node_trouble(node: Node, *, gpus: int, lost_after: float, now: datetime) -> Finding | None:
    ready = node.conditions.get("Ready", {})
    if not node.ready:
        said = ready.get("message") or "its kubelet has not said anything yet"
        left = losses.patience(node, now=now, lost_after=lost_after)
        again = None if left is None else left if left > 0 else FLEET_SECONDS
        return wrong(Reason.NODE_NOT_READY, f"Node {node.name} is not Ready: {said}", look_again=again)
    for pressure, reason in PRESSURES:
        if is_true(node.conditions, pressure):
            said = node.conditions[pressure].get("message", "")
            return wrong(reason, f"Node {node.name} has {pressure}: {said}", cure="free some, or take a larger one")
    if node.gpus >= gpus:
        return None
    told = f"Node {node.name} advertises {node.gpus} of {gpus} {labels.GPU_RESOURCE}"
    since = moment(ready["lastTransitionTime"]) if "lastTransitionTime" in ready else node.created_at
    left = PLUGIN_SECONDS - (now - since).total_seconds()
    if left > 0:
        return waiting(Reason.NODES_PENDING, told, look_again=left + 1)
    return wrong(Reason.GPU_PLUGIN_MISSING, told, cure="install the NVIDIA device plugin, or see its logs")
