"""The Workspace, kaito.sh/v1alpha1: its fields as KAITO 0.3 has them, and ours beside them; the CRD comes from here."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(max_length=1024)]
Name = Annotated[str, Field(max_length=253)]
Opaque = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


def _cel(*rules: tuple[str, str]) -> dict[str, Any]:
    """Rules that the API server checks itself, with what to write instead."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in rules]}


class ApiModel(BaseModel):
    """Camel-case in YAML as written here; unknown fields are pruned by the API server, so they are ignored here."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


class Requirement(ApiModel):
    """One label requirement."""

    key: Name = Field(description="The label.")
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"] = Field(description="How the label is compared.")
    values: list[Annotated[str, Field(max_length=63)]] = Field(
        [], max_length=64, description="What it is compared with; empty for Exists and DoesNotExist."
    )


class LabelSelector(ApiModel):
    """Which nodes may be used; nodes that are bought get the matchLabels."""

    matchLabels: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        {}, description="Labels that a node must have.", json_schema_extra={"maxProperties": 32}
    )
    matchExpressions: list[Requirement] = Field([], max_length=32, description="Requirements that a node must meet.")


class Resource(ApiModel):
    """The machines."""

    count: Annotated[int, Field(ge=1, le=1000)] = Field(1, description="How many machines. Default 1.")
    instanceType: Name = Field(
        "Standard_NC12s_v3",
        description='The size of the machines. Default Standard_NC12s_v3. "" uses existing nodes and never buys any.',
    )
    labelSelector: LabelSelector = Field(description="Which nodes may be used. Immutable.")
    preferredNodes: list[Name] = Field([], max_length=1000, description="Nodes that are taken first, by name.")


class PresetOptions(ApiModel):
    """What a private preset needs."""

    image: Text = Field("", description="The image that holds the model. Needed if accessMode is private.")
    imagePullSecrets: list[Name] = Field([], max_length=32, description="Secrets by which the image is pulled.")


class Preset(ApiModel):
    """A model of the catalogue."""

    name: Name = Field(min_length=1, description="A preset of the catalogue, or a Hugging Face id such as org/name.")
    accessMode: Literal["public", "private"] = Field(
        "public", description="public: the image is published. private: presetOptions.image names one. Default public."
    )
    presetOptions: PresetOptions | None = Field(None, description="Options of a private preset.")

    @property
    def private(self) -> bool:
        """Whether the image is the user's own."""
        return self.accessMode == "private"


_PRESET = _cel(
    (
        "self.accessMode != 'private' || (has(self.presetOptions) && has(self.presetOptions.image) "
        "&& self.presetOptions.image != '')",
        "accessMode private needs presetOptions.image, the image that holds the model",
    ),
    ("self == oldSelf", "the preset cannot be changed; create another Workspace"),
)


class DataSource(ApiModel):
    """Where data comes from: exactly one of urls, image and volumeSource."""

    name: Name = Field("", description="A name for the data; for an adapter the name it is served under.")
    urls: list[Annotated[str, Field(max_length=2048)]] = Field([], max_length=64, description="Files to download.")
    volumeSource: Opaque | None = Field(None, description="A volume as in a pod.")
    image: Text = Field("", description="An image with the files under /data.")
    imagePullSecrets: list[Name] = Field([], max_length=32, description="Secrets by which the image is pulled.")


_ONE_SOURCE = _cel(
    (
        "(has(self.urls) && size(self.urls) > 0 ? 1 : 0) + (has(self.volumeSource) ? 1 : 0) + "
        "(has(self.image) && self.image != '' ? 1 : 0) == 1",
        "give exactly one of urls, image and volumeSource",
    )
)


class DataDestination(ApiModel):
    """Where the result goes: exactly one of image and volumeSource."""

    volumeSource: Opaque | None = Field(None, description="A volume as in a pod.")
    image: Text = Field("", description="The image reference that the adapter is pushed to.")
    imagePushSecret: Name = Field("", description="The Secret (dockerconfigjson) by which it is pushed.")


_ONE_DESTINATION = _cel(
    (
        "(has(self.volumeSource) ? 1 : 0) + (has(self.image) && self.image != '' ? 1 : 0) == 1",
        "give exactly one of image and volumeSource",
    ),
    (
        "!(has(self.image) && self.image != '') || (has(self.imagePushSecret) && self.imagePushSecret != '')",
        "output.image needs imagePushSecret, the Secret by which it is pushed",
    ),
)


class Adapter(ApiModel):
    """A LoRA adapter that is served with the model."""

    source: DataSource = Field(description="Where the adapter comes from.", json_schema_extra=_ONE_SOURCE)
    strength: Annotated[str, Field(pattern=r"^(0(\.[0-9]+)?|1(\.0+)?|\.[0-9]+)$", max_length=16)] | None = Field(
        None, description="Its weight in the mix, a number from 0 to 1 as a string. Default 1.0."
    )


class Inference(ApiModel):
    """Serve a model: exactly one of preset and template."""

    preset: Preset | None = Field(None, description="A model of the catalogue.", json_schema_extra=_PRESET)
    template: Opaque | None = Field(None, description="A pod template of your own.")
    adapters: list[Adapter] = Field([], max_length=10, description="LoRA adapters, at most ten.")


class Tuning(ApiModel):
    """Tune a model, publish the adapter, and serve it."""

    preset: Preset | None = Field(None, description="The model to tune.", json_schema_extra=_PRESET)
    method: Annotated[str, Field(pattern=r"^(?i:lora|qlora)$", max_length=8)] = Field(
        "qlora", description="lora or qlora. Default qlora."
    )
    config: Name = Field("", description="The ConfigMap with training_config.yaml. Default: by method.")
    input: DataSource = Field(description="The training data.", json_schema_extra=_ONE_SOURCE)
    output: DataDestination = Field(description="Where the adapter goes.", json_schema_extra=_ONE_DESTINATION)
    serve: bool = Field(True, description="Serve the tuned model on the same machines afterwards. Default true.")


class StatusCondition(ApiModel):
    """As metav1.Condition."""

    type: Annotated[str, Field(max_length=316)] = Field(description="What the condition is about.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Text = Field("", description="One word that says why; docs/reference/conditions.md lists them.")
    message: Annotated[str, Field(max_length=32768)] = Field("", description="Why, and what to do about it.")
    lastTransitionTime: str = Field(
        description="When the status last changed.", json_schema_extra={"format": "date-time"}
    )
    observedGeneration: int = Field(
        0, description="The generation it speaks of.", json_schema_extra={"format": "int64"}
    )


class Status(ApiModel):
    """What the operator says."""

    workerNodes: list[Name] = Field([], max_length=1000, description="The nodes in use.")
    targetNodeCount: int = Field(0, description="How many nodes it takes.")
    observedGeneration: int = Field(
        0, description="The generation that the conditions speak of.", json_schema_extra={"format": "int64"}
    )
    endpoint: Text = Field("", description="Where the model answers, inside the cluster.")
    estimate: Opaque | None = Field(None, description="Memory, nodes and price as estimated.")
    tuning: Opaque | None = Field(None, description="Progress and result of tuning.")
    conditions: list[StatusCondition] = Field(
        [],
        max_length=32,
        description="The conditions; Ready is their sum.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class Workspace(ApiModel):
    """A model to be served or tuned, and the machines for it."""

    resource: Resource | None = Field(None, description="The machines.")
    inference: Inference | None = Field(
        None,
        description="Serve a model. Exactly one of inference and tuning.",
        json_schema_extra=_cel(
            ("has(self.preset) != has(self.template)", "inference needs exactly one of preset and template"),
            (
                "!has(self.adapters) || self.adapters.all(a, self.adapters.exists_one(b, "
                "(has(b.source.name) ? b.source.name : '') == (has(a.source.name) ? a.source.name : '')))",
                "each adapter needs a source.name of its own",
            ),
        ),
    )
    tuning: Tuning | None = Field(
        None,
        description="Tune a model. Exactly one of inference and tuning.",
        json_schema_extra=_cel(("has(self.preset)", "tuning needs a preset")),
    )
    status: Status | None = Field(None, description="What the operator says.")


ROOT_RULES = _cel(
    ("has(self.inference) != has(self.tuning)", "give exactly one of inference and tuning"),
    (
        "has(self.inference) == has(oldSelf.inference)",
        "inference cannot become tuning, nor tuning inference; create another Workspace",
    ),
    ("has(self.resource)", "resource is needed: instanceType and labelSelector"),
    (
        "!has(self.tuning) || !has(self.resource) || !has(self.resource.count) || self.resource.count == 1",
        "tuning runs on one machine: resource.count must be 1",
    ),
    (
        "!has(oldSelf.resource) || !has(self.resource) || (self.resource.count == oldSelf.resource.count && "
        "self.resource.instanceType == oldSelf.resource.instanceType && "
        "self.resource.labelSelector == oldSelf.resource.labelSelector)",
        "resource.count, instanceType and labelSelector cannot be changed; create another Workspace",
    ),
    (
        "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must be at most 63 characters of a-z, 0-9 and -, beginning and ending with a letter or digit",
    ),
)
COLUMNS = (
    ("Instance", "string", ".resource.instanceType"),
    ("ResourceReady", "string", '.status.conditions[?(@.type=="ResourceReady")].status'),
    ("InferenceReady", "string", '.status.conditions[?(@.type=="InferenceReady")].status'),
    ("WorkspaceReady", "string", '.status.conditions[?(@.type=="WorkspaceReady")].status'),
    ("Age", "date", ".metadata.creationTimestamp"),
)
