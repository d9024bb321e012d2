"""Which pods leave a node before it goes: in what order, by whose leave, and when nothing is waited for any more."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kaito_operator.gpu_provisioner.drain import Drain, drained
from kaito_operator.plan import Evict, Ref

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
Json = dict[str, Any]


def stamp(seconds: float) -> str:
    """So many seconds before noon."""
    return (NOON - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def a_pod(name: str, *, owner: str = "", annotations: Json | None = None, **spec: Any) -> Json:
    """A running pod."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-of-{name}",
            **({"ownerReferences": [{"kind": owner, "uid": "x"}]} if owner else {}),
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": spec,
        "status": {"phase": "Running"},
    }


def ending(pod: Json, *, due: float) -> Json:
    """On its way out, and due to have ended so many seconds before noon."""
    return {**pod, "metadata": {**pod["metadata"], "deletionTimestamp": stamp(due)}}


def eviction(name: str, force: int | None = None) -> Evict:
    return Evict(Ref("v1", "Pod", name, "team"), f"uid-of-{name}", force)


ATTACHED = {"kind": "VolumeAttachment", "spec": {"nodeName": "n"}}
PLAIN = a_pod("plain")
DAEMON = a_pod("daemon", owner="DaemonSet")
CRITICAL = a_pod("critical", priorityClassName="system-cluster-critical")
CRITICAL_DAEMON = a_pod("critical-daemon", owner="DaemonSet", priorityClassName="system-node-critical")
KEPT = a_pod("kept", annotations={"karpenter.sh/do-not-disrupt": "true"})
STAYS: dict[str, Json] = {
    "ended well": {**PLAIN, "status": {"phase": "Succeeded"}},
    "ended badly": {**PLAIN, "status": {"phase": "Failed"}},
    "a static pod's mirror": a_pod("etcd", annotations={"kubernetes.io/config.mirror": "x"}),
    "tolerates everything": a_pod("agent", tolerations=[{"operator": "Exists"}]),
    "tolerates the cordon": a_pod(
        "agent", tolerations=[{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]
    ),
    "should have ended over a minute ago": ending(PLAIN, due=61),
}
LEAVES: dict[str, Json] = {
    "tolerates something else": a_pod("web", tolerations=[{"key": "sku", "operator": "Exists"}]),
    "tolerates it for another effect": a_pod("web", tolerations=[{"operator": "Exists", "effect": "NoExecute"}]),
    "has a value that the cordon has not": a_pod(
        "web", tolerations=[{"key": "node.kubernetes.io/unschedulable", "value": "x"}]
    ),
}


def test_an_empty_node_may_go() -> None:
    assert drained([], [], NOON, by=None) == Drain()


@pytest.mark.parametrize("case", STAYS)
def test_what_will_not_or_need_not_leave_is_not_waited_for(case: str) -> None:
    assert drained([STAYS[case]], [], NOON, by=None) == Drain()


@pytest.mark.parametrize("case", LEAVES)
def test_what_has_to_leave_is_asked_to(case: str) -> None:
    assert drained([LEAVES[case]], [], NOON, by=None) == Drain((eviction("web"),), "1 pod(s) (team/web) to leave")


def test_the_groups_leave_one_after_the_other() -> None:
    pods, order = [CRITICAL_DAEMON, CRITICAL, DAEMON, PLAIN], []
    while (drain := drained(pods, [], NOON, by=None)).waiting:
        order.append([each.ref.name for each in drain.evict])
        pods = [pod for pod in pods if pod["metadata"]["name"] not in order[-1]]
    assert order == [["plain"], ["daemon"], ["critical"], ["critical-daemon"]]


def test_a_pod_that_is_on_its_way_is_waited_for_and_not_asked_twice() -> None:
    drain = drained([ending(PLAIN, due=-20), CRITICAL], [], NOON, by=None)
    assert drain == Drain((), "2 pod(s) (team/plain, team/critical) to leave")


def test_a_pod_that_has_ended_and_is_being_deleted_is_waited_for_until_its_kubelet_has_said_so() -> None:
    ended = {**ending(PLAIN, due=-20), "status": {"phase": "Succeeded"}}
    assert drained([ended], [], NOON, by=None) == Drain((), "1 pod(s) (team/plain) to leave")
    assert drained([{**ending(PLAIN, due=61), "status": {"phase": "Failed"}}], [], NOON, by=None) == Drain()


def test_a_pod_that_may_not_be_disrupted_is_waited_for() -> None:
    assert drained([KEPT, PLAIN], [], NOON, by=None).evict == (eviction("plain"),)
    assert drained([KEPT], [], NOON, by=None) == Drain((), "1 pod(s) (team/kept) to leave")


def test_of_many_pods_a_few_are_named() -> None:
    pods = [a_pod(f"p{number}") for number in range(5)]
    assert drained(pods, [], NOON, by=None).waiting == "5 pod(s) (team/p0, team/p1, team/p2 and 2 more) to leave"


def test_volumes_are_waited_for_once_the_pods_have_left() -> None:
    assert drained([PLAIN], [ATTACHED], NOON, by=None).waiting.endswith("to leave")
    assert drained([], [ATTACHED], NOON, by=None) == Drain((), "1 volume(s) to be detached")


def test_the_volumes_of_a_pod_that_stays_are_not_waited_for() -> None:
    stays = a_pod(
        "agent", tolerations=[{"operator": "Exists"}], volumes=[{"persistentVolumeClaim": {"claimName": "c"}}]
    )
    assert drained([stays], [ATTACHED], NOON, by=None) == Drain()


@pytest.mark.parametrize(
    ("left", "grace", "force"),
    [(100, 30, None), (31, 30, None), (30, 30, 30), (10, 30, 10), (0.4, 30, 1), (60, 300, 60)],
)
def test_with_a_bound_a_pod_is_deleted_in_time_to_end_in_its_own_grace(
    left: float, grace: int, force: int | None
) -> None:
    pod = a_pod("kept", annotations={"karpenter.sh/do-not-disrupt": "true"}, terminationGracePeriodSeconds=grace)
    expected = () if force is None else (eviction("kept", force),)
    assert drained([pod], [], NOON, by=NOON + timedelta(seconds=left)).evict == expected


def test_a_pod_that_ends_in_time_by_itself_is_left_to_it_and_one_that_does_not_is_cut_short() -> None:
    by = NOON + timedelta(seconds=20)
    assert drained([ending(PLAIN, due=-15)], [], NOON, by=by).evict == ()
    assert drained([ending(PLAIN, due=-600)], [], NOON, by=by).evict == (eviction("plain", 20),)


def test_when_its_time_is_up_the_node_goes_with_whatever_is_on_it() -> None:
    assert drained([PLAIN, KEPT], [ATTACHED], NOON, by=NOON) == Drain()
