"""The label, annotation and finalizer keys that are an interface to others, as KAITO, Karpenter and AKS have them."""

GROUP = "kaito.sh"

WORKSPACE = "kaito.sh/workspace"
"""On Machines, workloads, pods and reserved nodes: the name of the Workspace."""
WORKSPACE_NAMESPACE = "kaito.sh/workspacenamespace"
"""On Machines and reserved nodes: the namespace of the Workspace."""
WORKSPACE_FINALIZER = "workspace.finalizer.kaito.sh"
ENABLE_LB = "kaito.sh/enablelb"
"""Annotation on a Workspace; "True" makes its Service a LoadBalancer."""
WORKSPACE_UID = "kaito.sh/workspace-uid"
"""Annotation on Machines: the Workspace that paid."""
SLOT = "kaito.sh/slot"
"""Annotation on Machines: which of the Workspace's nodes it stands for, from 0."""
ATTEMPT = "kaito.sh/attempt"
"""Annotation on Machines: the how manyth Machine for that slot, from 1."""
MACHINE_TYPE = "kaito.sh/machine-type"
"""``gpu`` or ``cpu``."""

INSTANCE_TYPE = "node.kubernetes.io/instance-type"
ARCH = "kubernetes.io/arch"
OS = "kubernetes.io/os"
GPU_RESOURCE = "nvidia.com/gpu"

PROVISIONER_NAME = "karpenter.sh/provisioner-name"
TERMINATION_FINALIZER = "karpenter.sh/termination"
"""On Machines, claims and nodes: Karpenter's finalizer, which gpu-provisioner uses as Karpenter does."""
REGISTERED = "karpenter.sh/registered"
INITIALIZED = "karpenter.sh/initialized"

AGENT_POOL = "kubernetes.azure.com/agentpool"
"""AKS puts the name of the agent pool here, on each node."""

APP_NAME = "app.kubernetes.io/name"
APP_INSTANCE = "app.kubernetes.io/instance"
APP_MANAGED_BY = "app.kubernetes.io/managed-by"

WORKSPACE_MANAGER = "kaito-operator"
PROVISIONER_MANAGER = "gpu-provisioner"
"""The server-side-apply managers, one a controller: an apply takes away what its manager no longer sends, so two
controllers under one name would take away each other's fields. They never change: a new name strands the old fields."""
