"""Every setting, read once from the environment and then frozen.

``python -m kaito_operator.settings`` writes the reference page, ``docs/reference/settings.md``.
"""

import sys
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from kaito_operator.api.sources import Source


def _words(text: object) -> object:
    return tuple(filter(None, (word.strip() for word in text.split(",")))) if isinstance(text, str) else text


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
"""A list, in the environment separated by commas."""


class ControllerSettings(BaseSettings):
    """What both controllers take."""

    model_config = SettingsConfigDict(frozen=True, populate_by_name=True, extra="ignore", env_ignore_empty=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Code may set a field by its own name; a variable that happens to be called so (``WORKERS``) may not."""
        env_settings.config = SettingsConfigDict(**{**settings_cls.model_config, "populate_by_name": False})
        return init_settings, env_settings, dotenv_settings, file_secret_settings

    namespace: str = Field(
        "kaito-system", alias="RELEASE_NAMESPACE", description="Where the controller and its Lease live."
    )
    pod: str = Field(
        "",
        alias="POD_NAME",
        description="The pod, as the Lease names it; a new process of the same pod takes its Lease over at once. "
        "Empty outside a pod, where the name of the host is used.",
    )
    log_format: Literal["json", "text"] = Field("json", alias="KAITO_LOG_FORMAT", description="`json` or `text`.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", alias="KAITO_LOG_LEVEL", description="The least severe lines that are written."
    )
    lease_seconds: float = Field(
        15.0,
        alias="KAITO_LEASE_SECONDS",
        gt=0,
        description="How long a standby waits for a leader that died without a word.",
    )
    resync_seconds: float = Field(
        300.0, alias="KAITO_RESYNC_SECONDS", gt=0, description="Every object is listed anew this often."
    )
    workers: int = Field(8, alias="KAITO_WORKERS", ge=1, description="Passes at once.")
    metrics_port: int = Field(8080, alias="KAITO_METRICS_PORT", description="Port of `/metrics`.")
    health_port: int = Field(8081, alias="KAITO_HEALTH_PORT", description="Port of `/healthz` and `/readyz`.")


class WorkspaceSettings(ControllerSettings):
    """What the Workspace operator takes."""

    model_files: Source = Field(
        Source.AUTO,
        alias="KAITO_MODEL_FILES",
        description="Where model files come from, unless a Workspace says (docs/guide/model-files.md): `baked` into "
        "preset images of yours, `kaito`'s public images, a `volume` of such an image, the `hub`. `auto` is `hub` with "
        "a runtime image, else `kaito`.",
    )
    preset_registry: str = Field(
        "mcr.microsoft.com/aks/kaito",
        alias="PRESET_REGISTRY_NAME",
        description="Preset images are `<this>/kaito-<preset>:<version>`, KAITO's by its own tags.",
    )
    preset_version: str = Field(
        "0.1.0", alias="KAITO_PRESET_VERSION", description="The tag of preset images of yours (`baked`)."
    )
    runtime_image: str = Field(
        "",
        alias="KAITO_RUNTIME_IMAGE",
        description="The runtime without a model, which `volume` and `hub` need, and tuning with them.",
    )
    runtime_capability: str = Field(
        "7.5",
        alias="KAITO_RUNTIME_CAPABILITY",
        pattern=r"^\d{1,2}\.\d$",
        description="The oldest compute capability of NVIDIA's cards that the torch of these images has code for: no "
        "machine with older ones is bought for them. `0.0` judges no card. KAITO's images, and those that a Workspace "
        "names, are never judged.",
    )
    hub_endpoint: str = Field(
        "",
        alias="KAITO_HUB_ENDPOINT",
        description="A mirror of the Hugging Face Hub, by its URL. Empty: the public one.",
    )
    hub_token: str = Field(
        "",
        alias="HF_TOKEN",
        repr=False,
        description="The operator's own token for the Hub, to look up how large gated models are. Pods never get it.",
    )
    hub_cache: str = Field(
        "/tmp/kaito-hub",  # noqa: S108 - an emptyDir of the pod's own
        alias="KAITO_HUB_CACHE",
        description="Where answers of the Hub are kept.",
    )
    cloud: Literal["azure", "aws"] = Field(
        "azure", alias="CLOUD_PROVIDER", description="Whose instance types are meant."
    )
    price_region: str = Field(
        "",
        alias="KAITO_PRICE_REGION",
        description="Prices in messages and status are those of this region; they are known for `eastus` of Azure and "
        "`us-east-1` of AWS, the defaults. Any other: no prices are shown.",
    )
    node_provisioner: Literal["machine", "nodeclaim"] = Field(
        "machine",
        alias="KAITO_NODE_PROVISIONER",
        description="What machines are asked for with: `machine` (karpenter.sh/v1alpha5, for gpu-provisioner) or "
        "`nodeclaim` (karpenter.sh/v1, for any Karpenter). To be changed only while there is no Workspace.",
    )
    node_class: str = Field(
        "",
        alias="KAITO_NODE_CLASS",
        pattern="^$|^[^/]+/[^/]+/[^/]+$",
        description="`group/Kind/name` of the node class that claims name. Empty: the cloud's default one.",
    )
    node_lost_seconds: float = Field(
        900.0,
        alias="KAITO_NODE_LOST_SECONDS",
        gt=0,
        description="A node in use that has been not Ready for so many seconds is given up, and another takes its "
        "place, unless more than a fifth of all nodes are not Ready. gpu-provisioner mends its own sooner.",
    )
    webhook_certificates: str = Field(
        "",
        alias="KAITO_WEBHOOK_CERTIFICATES",
        description="A directory with `tls.crt` and `tls.key`: admission is answered with them. Empty: it is not.",
    )
    webhook_port: int = Field(9443, alias="KAITO_WEBHOOK_PORT", description="Port on which admission is answered.")
    download_allow: Words = Field(
        (),
        alias="KAITO_DOWNLOAD_ALLOW",
        description="Networks (CIDR, separated by commas) from which training data may come though they are private, "
        "also by plain HTTP.",
    )
    plain_http_registries: Words = Field(
        (),
        alias="KAITO_PLAIN_HTTP_REGISTRIES",
        description="Registries (`host:port`, separated by commas) that adapters are pulled from and pushed to "
        "without TLS.",
    )
    tuning_storage_class: str = Field(
        "",
        alias="KAITO_TUNING_STORAGE_CLASS",
        description="The storage class of the volume that keeps checkpoints and results beyond a tuning pod. Empty: "
        "they go with the pod.",
    )


class ProvisionerSettings(ControllerSettings):
    """What gpu-provisioner takes."""

    subscription: str = Field(alias="ARM_SUBSCRIPTION_ID", description="The Azure subscription of the cluster.")
    resource_group: str = Field(alias="ARM_RESOURCE_GROUP", description="The resource group of the cluster.")
    cluster: str = Field(alias="AZURE_CLUSTER_NAME", description="The name of the AKS cluster.")
    location: str = Field("", alias="LOCATION", description="The Azure region of the cluster.")
    tenant: str = Field("", alias="AZURE_TENANT_ID", description="The tenant of the workload identity.")
    client: str = Field("", alias="AZURE_CLIENT_ID", description="The client id of the workload identity.")
    federated_token_file: str = Field(
        "", alias="AZURE_FEDERATED_TOKEN_FILE", description="Where the workload identity webhook puts the token."
    )
    endpoint: str = Field(
        "", alias="KAITO_AZURE_ENDPOINT", description="Another Azure Resource Manager than the public cloud's."
    )
    static_token_file: str = Field(
        "", alias="KAITO_AZURE_STATIC_TOKEN_FILE", description="A bearer token for an endpoint that is not Azure."
    )
    objects: Literal["machines", "nodeclaims"] = Field(
        "machines",
        alias="KAITO_NODE_OBJECTS",
        description="What asks for pools: `machines` (karpenter.sh/v1alpha5) or `nodeclaims` (karpenter.sh/v1, those "
        "of node class kind KaitoNodeClass or with a Workspace's label).",
    )
    gone_seconds: float = Field(
        30.0,
        alias="KAITO_GONE_SECONDS",
        ge=0,
        description="How long a pool must have been gone before its Machine may go.",
    )
    poll_seconds: float = Field(
        20.0,
        alias="KAITO_POLL_SECONDS",
        gt=0,
        description="One LIST of all pools this often while anything is in flight.",
    )
    requests_at_once: int = Field(
        60,
        alias="KAITO_AZURE_REQUESTS_AT_ONCE",
        ge=10,
        description="GET, LIST and DELETE of agent pools that may be sent at once; AKS takes 60 from a subscription.",
    )
    requests_per_second: float = Field(
        1.0,
        alias="KAITO_AZURE_REQUESTS_PER_SECOND",
        gt=0,
        description="How many more a second after that. Lower it where others use the subscription too.",
    )
    launch_seconds: float = Field(
        1200.0, alias="KAITO_LAUNCH_SECONDS", gt=0, description="How long a pool may take to be created."
    )
    registration_seconds: float = Field(
        900.0,
        alias="KAITO_REGISTRATION_SECONDS",
        gt=0,
        description="How long a node may take to join once its pool exists.",
    )
    repair_seconds: float = Field(
        600.0,
        alias="KAITO_REPAIR_SECONDS",
        ge=0,
        description="How long a node may be not Ready before it is replaced, unless more than a fifth of all nodes "
        "are. 0: never.",
    )
    drain_seconds: float = Field(
        0.0,
        alias="KAITO_DRAIN_SECONDS",
        ge=0,
        description="How long the deletion of a Machine may wait for the pods on its node, whatever budgets and "
        "do-not-disrupt say; a claim's own terminationGracePeriod comes first. 0: as long as it takes.",
    )
    most_pools: int = Field(
        90, alias="KAITO_MOST_POOLS", ge=0, description="Agent pools of ours at most (AKS allows 100)."
    )
    garbage_seconds: float = Field(
        300.0,
        alias="KAITO_GARBAGE_SECONDS",
        gt=0,
        description="The cloud is looked through for pools without a Machine this often; the third time that one is "
        "found in a row it is deleted.",
    )
    garbage_grace_seconds: float = Field(
        300.0,
        alias="KAITO_GARBAGE_GRACE_SECONDS",
        ge=0,
        description="A pool or Node that is younger is never taken for left over.",
    )
    garbage_per_hour: int = Field(
        10, alias="KAITO_GARBAGE_PER_HOUR", ge=0, description="Pools and Nodes collected within an hour at most."
    )
    creates_per_10_minutes: int = Field(
        100, alias="KAITO_CREATES_PER_10_MINUTES", ge=0, description="Pools asked for in ten minutes at most."
    )


def as_markdown() -> str:
    """The reference page."""
    parts = ["# Settings", "", "Read from the environment at start; the charts set them from their values."]
    for title, model in (
        ("Both controllers", ControllerSettings),
        ("Workspace operator", WorkspaceSettings),
        ("gpu-provisioner", ProvisionerSettings),
    ):
        parts += ["", f"## {title}", "", "| variable | default | meaning |", "|---|---|---|"]
        inherited = ControllerSettings.model_fields if model is not ControllerSettings else {}
        for name, field in model.model_fields.items():
            if name not in inherited:
                default = (
                    "required"
                    if field.is_required()
                    else f"`{field.default}`"
                    if field.default not in ("", ())
                    else "empty"
                )
                parts.append(f"| `{field.alias}` | {default} | {field.description} |")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
