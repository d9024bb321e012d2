"""How the operator was installed, as far as manifests depend on it: registries, allow-lists, storage."""

from dataclasses import dataclass

from kaito_operator.api.runtime import Runtime
from kaito_operator.api.sources import Source
from kaito_operator.settings import WorkspaceSettings
from kaito_operator.workspace.purchase import MACHINES, NodeClass, Purchase, node_claims
from presets.cards import OLDEST, Capability, capability

NODE_CLASSES = {"azure": "karpenter.azure.com/AKSNodeClass/default", "aws": "karpenter.k8s.aws/EC2NodeClass/default"}
"""The classes that KAITO names, group/kind/name."""


@dataclass(frozen=True, slots=True)
class Installation:
    """What the chart's values say."""

    registry: str
    """Of the preset images, ours or KAITO's."""
    version: str
    """The tag of our preset images; KAITO's have their own."""
    model_files: Source = Source.AUTO
    """Where model files come from, unless the Workspace says."""
    runtime_image: str = ""
    """Our programs without a model; "" if there is no such image."""
    oldest_card: Capability = OLDEST
    """The compute capability that a card must have for the torch of our images."""
    hub_endpoint: str = ""
    """Another Hugging Face Hub than the public one, a mirror; "" for that."""
    download_allow: tuple[str, ...] = ()
    """Networks in CIDR form from which training data may be downloaded though they are private, also by plain HTTP."""
    plain_http_registries: tuple[str, ...] = ()
    """Registries, ``host:port``, that are spoken to without TLS."""
    purchase: Purchase = MACHINES
    """What machines are asked for with."""
    node_lost_seconds: float = 900.0
    """How long a node in use may be not Ready before another takes its place."""
    tuning_storage_class: str = ""
    """The storage class of the volume that outlives a tuning pod; "" keeps checkpoints with the pod alone."""

    @property
    def runtime(self) -> Runtime:
        """What of it a Workspace is judged by."""
        return Runtime(self.model_files, bool(self.runtime_image), self.oldest_card)


def installation(settings: WorkspaceSettings) -> Installation:
    """What the settings say of it."""
    return Installation(
        registry=settings.preset_registry,
        version=settings.preset_version,
        model_files=settings.model_files,
        runtime_image=settings.runtime_image,
        oldest_card=capability(settings.runtime_capability) or OLDEST,
        hub_endpoint=settings.hub_endpoint,
        download_allow=settings.download_allow,
        plain_http_registries=settings.plain_http_registries,
        purchase=_purchase(settings),
        node_lost_seconds=settings.node_lost_seconds,
        tuning_storage_class=settings.tuning_storage_class,
    )


def _purchase(settings: WorkspaceSettings) -> Purchase:
    if settings.node_provisioner == "machine":
        return MACHINES
    return node_claims(NodeClass(*(settings.node_class or NODE_CLASSES[settings.cloud]).split("/")))
