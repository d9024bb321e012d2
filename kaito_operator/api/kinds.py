"""The kinds we read or write, with what a URL needs of them; a fixed table spares the discovery requests."""

from typing import NamedTuple


class Kind(NamedTuple):
    """One Kubernetes resource type."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool = True


WORKSPACE = Kind("kaito.sh/v1alpha1", "Workspace", "workspaces")
MACHINE = Kind("karpenter.sh/v1alpha5", "Machine", "machines", namespaced=False)
NODECLAIM = Kind("karpenter.sh/v1", "NodeClaim", "nodeclaims", namespaced=False)
AKS_NODE_CLASS = Kind("karpenter.azure.com/v1beta1", "AKSNodeClass", "aksnodeclasses", namespaced=False)
EC2_NODE_CLASS = Kind("karpenter.k8s.aws/v1", "EC2NodeClass", "ec2nodeclasses", namespaced=False)
KWOK_NODE_CLASS = Kind("karpenter.kwok.sh/v1alpha1", "KWOKNodeClass", "kwoknodeclasses", namespaced=False)
NODE = Kind("v1", "Node", "nodes", namespaced=False)
POD = Kind("v1", "Pod", "pods")
SERVICE = Kind("v1", "Service", "services")
SECRET = Kind("v1", "Secret", "secrets")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
NAMESPACE = Kind("v1", "Namespace", "namespaces", namespaced=False)
EVENT = Kind("v1", "Event", "events")
DEPLOYMENT = Kind("apps/v1", "Deployment", "deployments")
CONTROLLER_REVISION = Kind("apps/v1", "ControllerRevision", "controllerrevisions")
STATEFUL_SET = Kind("apps/v1", "StatefulSet", "statefulsets")
JOB = Kind("batch/v1", "Job", "jobs")
PERSISTENT_VOLUME_CLAIM = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
VOLUME_ATTACHMENT = Kind("storage.k8s.io/v1", "VolumeAttachment", "volumeattachments", namespaced=False)
LEASE = Kind("coordination.k8s.io/v1", "Lease", "leases")
POD_DISRUPTION_BUDGET = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")

ALL = tuple(k for k in list(globals().values()) if isinstance(k, Kind))
BY_NAME = {(k.api_version, k.kind): k for k in ALL}
