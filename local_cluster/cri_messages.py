"""Our records of sandboxes and containers, and what CRI says about them. Pure."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from local_cluster.container_usage import Usage
from local_cluster.containers import Container
from local_cluster.cri import api_pb2 as cri
from local_cluster.images import image_id
from local_cluster.pod_network import PodLink


@dataclass(slots=True)
class SandboxRecord:
    """A pod: its PodSandboxConfig, its address; ``link`` is None on the node's own network and once it is stopped."""

    id: str
    config: Any
    created: int
    address: str
    link: PodLink | None
    ready: bool = True

    @property
    def state(self) -> int:
        """A PodSandboxState."""
        return int(cri.SANDBOX_READY if self.ready else cri.SANDBOX_NOTREADY)


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """A container of a pod: its ContainerConfig, the name of its image, and itself."""

    id: str
    sandbox_id: str
    config: Any
    image: str
    created: int
    container: Container

    @property
    def state(self) -> int:
        """A ContainerState."""
        if self.container.exit:
            return int(cri.CONTAINER_EXITED)
        return int(cri.CONTAINER_RUNNING if self.container.started else cri.CONTAINER_CREATED)


def matching_sandboxes(sandboxes: Iterable[SandboxRecord], wanted: Any) -> list[SandboxRecord]:
    """Those that a PodSandboxFilter, or a PodSandboxStatsFilter, selects."""
    with_state = "state" in wanted.DESCRIPTOR.fields_by_name and wanted.HasField("state")
    return [
        sandbox
        for sandbox in sandboxes
        if wanted.id in {"", sandbox.id}
        and (not with_state or wanted.state.state == sandbox.state)
        and _labelled(sandbox.config.labels, wanted.label_selector)
    ]


def matching_containers(containers: Iterable[ContainerRecord], wanted: Any) -> list[ContainerRecord]:
    """Those that a ContainerFilter, or a ContainerStatsFilter, selects."""
    with_state = "state" in wanted.DESCRIPTOR.fields_by_name and wanted.HasField("state")
    return [
        record
        for record in containers
        if wanted.id in {"", record.id}
        and wanted.pod_sandbox_id in {"", record.sandbox_id}
        and (not with_state or wanted.state.state == record.state)
        and _labelled(record.config.labels, wanted.label_selector)
    ]


def sandbox_item(sandbox: SandboxRecord) -> Any:
    """One of ListPodSandbox."""
    return cri.PodSandbox(
        id=sandbox.id,
        metadata=sandbox.config.metadata,
        state=sandbox.state,
        created_at=sandbox.created,
        labels=sandbox.config.labels,
        annotations=sandbox.config.annotations,
    )


def sandbox_status(sandbox: SandboxRecord) -> Any:
    """The status of PodSandboxStatus."""
    options = sandbox.config.linux.security_context.namespace_options
    return cri.PodSandboxStatus(
        id=sandbox.id,
        metadata=sandbox.config.metadata,
        state=sandbox.state,
        created_at=sandbox.created,
        network=cri.PodSandboxNetworkStatus(ip=sandbox.address),
        linux=cri.LinuxPodSandboxStatus(namespaces=cri.Namespace(options=options)),
        labels=sandbox.config.labels,
        annotations=sandbox.config.annotations,
    )


def container_item(record: ContainerRecord) -> Any:
    """One of ListContainers."""
    return cri.Container(
        id=record.id,
        pod_sandbox_id=record.sandbox_id,
        metadata=record.config.metadata,
        image=record.config.image,
        image_ref=image_id(record.image),
        image_id=image_id(record.image),
        state=record.state,
        created_at=record.created,
        labels=record.config.labels,
        annotations=record.config.annotations,
    )


def container_status(record: ContainerRecord) -> Any:
    """The status of ContainerStatus."""
    container, ended = record.container, record.container.exit
    user = cri.LinuxContainerUser(
        uid=container.spec.user, gid=container.spec.group, supplemental_groups=[container.spec.group]
    )
    return cri.ContainerStatus(
        id=record.id,
        metadata=record.config.metadata,
        state=record.state,
        created_at=record.created,
        started_at=container.started,
        finished_at=ended.finished if ended else 0,
        exit_code=ended.code if ended else 0,
        reason=ended.reason if ended else "",
        message=ended.message if ended else "",
        image=cri.ImageSpec(image=record.image),
        image_ref=image_id(record.image),
        image_id=image_id(record.image),
        labels=record.config.labels,
        annotations=record.config.annotations,
        mounts=record.config.mounts,
        log_path=str(container.log_path),
        user=cri.ContainerUser(linux=user),
    )


def container_stats(record: ContainerRecord, usage: Usage) -> Any:
    """The stats of ContainerStats."""
    now = time.time_ns()
    return cri.ContainerStats(
        attributes=cri.ContainerAttributes(
            id=record.id,
            metadata=record.config.metadata,
            labels=record.config.labels,
            annotations=record.config.annotations,
        ),
        cpu=_cpu(usage, now),
        memory=_memory(usage, now),
        writable_layer=cri.FilesystemUsage(
            timestamp=now,
            fs_id=cri.FilesystemIdentifier(mountpoint="/"),
            used_bytes=cri.UInt64Value(value=usage.files),
            inodes_used=cri.UInt64Value(value=0),
        ),
    )


def sandbox_stats(sandbox: SandboxRecord, usages: Sequence[tuple[ContainerRecord, Usage]]) -> Any:
    """The stats of PodSandboxStats: the sum of its containers, and each."""
    now = time.time_ns()
    total = sum((usage for _, usage in usages), start=Usage())
    return cri.PodSandboxStats(
        attributes=cri.PodSandboxAttributes(
            id=sandbox.id,
            metadata=sandbox.config.metadata,
            labels=sandbox.config.labels,
            annotations=sandbox.config.annotations,
        ),
        linux=cri.LinuxPodSandboxStats(
            cpu=_cpu(total, now),
            memory=_memory(total, now),
            process=cri.ProcessUsage(timestamp=now, process_count=cri.UInt64Value(value=total.processes)),
            containers=[container_stats(record, usage) for record, usage in usages],
        ),
    )


def _cpu(usage: Usage, now: int) -> Any:
    return cri.CpuUsage(timestamp=now, usage_core_nano_seconds=cri.UInt64Value(value=usage.cpu))


def _memory(usage: Usage, now: int) -> Any:
    resident = cri.UInt64Value(value=usage.memory)
    return cri.MemoryUsage(timestamp=now, working_set_bytes=resident, usage_bytes=resident, rss_bytes=resident)


def _labelled(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())
