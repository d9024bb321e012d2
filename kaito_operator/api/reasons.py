"""Every condition type and reason the Workspace operator states. ``docs/reference/conditions.md`` explains each.

Names of KAITO where it has one, of Kubernetes where that has one.
"""

from enum import StrEnum


class ConditionType(StrEnum):
    """What a condition is about, in the order in which they come true."""

    MACHINE_READY = "MachineReady"
    NODE_CLAIM_READY = "NodeClaimReady"
    RESOURCE_READY = "ResourceReady"
    JOB_STARTED = "JobStarted"
    TUNING_SUCCEEDED = "TuningSucceeded"
    INFERENCE_READY = "InferenceReady"
    WORKSPACE_READY = "WorkspaceReady"
    READY = "Ready"
    WORKSPACE_DELETING = "WorkspaceDeleting"


class Reason(StrEnum):
    """Why a condition stands as it does."""

    # What was asked for cannot be.
    INVALID = "InvalidWorkspace"
    UNKNOWN_PRESET = "UnknownPreset"
    UNKNOWN_INSTANCE_TYPE = "UnknownInstanceType"
    DOES_NOT_FIT = "DoesNotFit"
    NOT_YET_SUPPORTED = "NotYetSupported"
    NO_MODEL_FILES = "NoModelFiles"
    HUB_ASKED = "HubAsked"
    HUB_GATED = "HubGated"
    HUB_MODEL_MISSING = "HubModelMissing"
    HUB_MODEL_UNSUPPORTED = "HubModelUnsupported"
    HUB_UNREACHABLE = "HubUnreachable"
    CONFIG_MAP_MISSING = "ConfigMapMissing"
    CONFIG_INVALID = "ConfigInvalid"

    # Machines.
    MACHINES_READY = "installNodePluginsSuccess"
    MACHINES_PENDING = "CreateMachinePending"
    MACHINE_KIND_MISSING = "MachineKindMissing"
    MACHINE_BACK_OFF = "MachineBackOff"
    MACHINE_TERMINATING = "MachineTerminating"
    NODE_LOST = "NodeLost"
    MACHINE_FAILED = "machineFailedCreation"
    PROVISIONER_NOT_ANSWERING = "ProvisionerNotAnswering"
    QUOTA_EXCEEDED = "QuotaExceeded"
    SKU_NOT_AVAILABLE = "SkuNotAvailable"
    ALLOCATION_FAILED = "AllocationFailed"
    AUTHORIZATION_FAILED = "AuthorizationFailed"
    THROTTLED = "Throttled"
    LAUNCH_FAILED = "LaunchFailed"
    LAUNCH_TIMEOUT = "LaunchTimeout"
    REGISTRATION_TIMEOUT = "RegistrationTimeout"

    # Nodes.
    NODES_READY = "workspaceResourceStatusSuccess"
    NODES_PENDING = "workspaceResourceStatusNotReady"
    TOO_FEW_NODES = "TooFewNodes"
    NODE_NOT_READY = "NodeNotReady"
    NODE_DISK_PRESSURE = "NodeDiskPressure"
    NODE_MEMORY_PRESSURE = "NodeMemoryPressure"
    GPU_PLUGIN_MISSING = "GPUPluginMissing"

    # The workload.
    INFERENCE_READY = "WorkspaceInferenceStatusSuccess"
    INFERENCE_PENDING = "WorkspaceInferenceStatusPending"
    NAME_TAKEN = "NameTaken"
    WORKLOAD_REFUSED = "WorkloadRefused"
    PODS_REFUSED = "PodsRefused"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_ERROR = "ImagePullError"
    IMAGE_PULL_DENIED = "ImagePullDenied"
    CONTAINER_START_ERROR = "ContainerStartError"
    CRASH_LOOP = "ContainerCrashLoopBackOff"
    OUT_OF_MEMORY = "ContainerOOMKilled"
    GPU_OUT_OF_MEMORY = "GPUOutOfMemory"
    DISK_FULL = "DiskFull"
    POD_EVICTED = "PodEvicted"
    PROBE_FAILING = "ProbeFailing"
    VOLUME_NOT_MOUNTED = "VolumeNotMounted"

    # Tuning.
    JOB_STARTED = "WorkspaceTuningJobStatusStarted"
    JOB_PENDING = "WorkspaceTuningJobStatusPending"
    JOB_FAILED = "WorkspaceTuningJobStatusFailed"
    TUNING = "WorkspaceTuningInProgress"
    TUNED = "WorkspaceTuningSuccess"
    CRASHED = "Crashed"
    DATA_INVALID = "DataInvalid"
    DOWNLOAD_FAILED = "DownloadFailed"
    DOWNLOAD_REFUSED = "DownloadRefused"
    TUNING_OUT_OF_MEMORY = "OutOfMemory"
    PUSH_FAILED = "PushFailed"
    PUSH_DENIED = "PushDenied"
    PREEMPTED = "Preempted"

    # The whole.
    WAITING = "Waiting"
    WORKSPACE_READY = "workspaceReady"
    WORKSPACE_PENDING = "workspacePending"
    DELETING = "workspaceDeleted"
