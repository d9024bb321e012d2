"""What a user writes into a Workspace: machines, and a model to serve or to tune.

Field names, defaults and limits are those of KAITO 0.3; additions of ours say so.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from kaito_operator.api.fields import (
    ApiModel,
    Free,
    Image,
    LabelValue,
    Name,
    Short,
    TaggedImage,
    cel,
    checked,
    immutable,
    matching,
)

MOST_ADAPTERS = 10
DEFAULT_INSTANCE_TYPE = "Standard_NC12s_v3"
SecretNames = Annotated[tuple[Name, ...], Field(max_length=16)]


class Operator(StrEnum):
    """How a label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Expression(ApiModel):
    """One requirement on the labels of a node."""

    key: Annotated[str, StringConstraints(max_length=317)] = Field(description="The label.")
    operator: Operator = Field(description="In and NotIn compare with values; Exists and DoesNotExist take none.")
    values: Annotated[tuple[LabelValue, ...], Field(max_length=64)] = Field(
        default=(), description="What In and NotIn compare with. Empty by default."
    )


class LabelSelector(ApiModel):
    """Which nodes may be used: all of matchLabels and all of matchExpressions must hold."""

    match_labels: Annotated[dict[str, LabelValue], Field(max_length=64)] = Field(
        default_factory=dict, description="Labels a node must have, which bought machines are given as well."
    )
    match_expressions: Annotated[tuple[Expression, ...], Field(max_length=64)] = Field(
        default=(), description="Further requirements. A bought machine must meet them by matchLabels alone."
    )


class Resource(ApiModel):
    """The machines."""

    count: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1,
        description="How many nodes; default 1. For a preset, as many replicas. Cannot be changed.",
        json_schema_extra=immutable("resource.count"),
    )
    instance_type: Short = Field(
        default=DEFAULT_INSTANCE_TYPE,
        description=f"The size of the machines; default {DEFAULT_INSTANCE_TYPE}. Nodes of this size that exist are "
        'used first, the missing ones are bought. "" never buys: bring your own nodes. Cannot be changed.',
        json_schema_extra=immutable("resource.instanceType"),
    )
    label_selector: LabelSelector = Field(
        description="Which nodes may be used. Its matchLabels are put on bought machines. Cannot be changed.",
        json_schema_extra=immutable("resource.labelSelector"),
    )
    preferred_nodes: Annotated[tuple[Name, ...], Field(max_length=256)] = Field(
        default=(), description="Nodes to take first, if they fit. Empty by default."
    )


class PresetOptions(ApiModel):
    """Where the model's image is."""

    image: Image | None = Field(
        default=None, description="The image to run. By default the registry of the operator's installation has it."
    )
    image_pull_secrets: SecretNames = Field(
        default=(), description="Secrets of this namespace to pull the image with. None by default."
    )
    model_access_secret: Name | None = Field(
        default=None,
        description="The Secret of this namespace with your token for the Hugging Face Hub under HF_TOKEN, for models "
        "that are gated there. None by default.",
    )


class Preset(ApiModel):
    """A model of the catalogue."""

    model_config = ConfigDict(
        json_schema_extra=checked(
            cel(
                "self.accessMode != 'private' || has(self.presetOptions) && has(self.presetOptions.image) && "
                "self.presetOptions.image != ''",
                "accessMode private needs presetOptions.image: write the image that holds the model",
            )
        )
    )

    name: Annotated[
        Name,
        *matching(
            r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?",
            "write a name from `kaito models`, or org/name of the Hugging Face Hub",
        ),
    ] = Field(description="A name from `kaito models`, or org/name of the Hugging Face Hub.")
    access_mode: Literal["public", "private"] = Field(
        default="public", description="Default public. Private: the image is yours and presetOptions.image names it."
    )
    preset_options: PresetOptions | None = Field(default=None, description="Another image. None by default.")


class DataSource(ApiModel):
    """Where data comes from: exactly one of urls, volumeSource and image."""

    model_config = ConfigDict(
        json_schema_extra=checked(
            cel(
                "[has(self.urls), has(self.volumeSource), has(self.image)].filter(given, given).size() == 1",
                "write exactly one of urls, volumeSource and image",
            )
        )
    )

    name: Name | None = Field(default=None, description="What to call it. An adapter needs one.")
    urls: Annotated[tuple[Annotated[str, StringConstraints(max_length=2048)], ...], Field(max_length=128)] | None = (
        Field(default=None, description="Files to download by HTTP.")
    )
    volume_source: Free | None = Field(default=None, description="A volume, as a pod has it.")
    image: TaggedImage | None = Field(
        default=None, description="An image that has the data in /data, as registry/repository:tag."
    )
    image_pull_secrets: SecretNames = Field(
        default=(), description="Secrets of this namespace to pull the image with. None by default."
    )


class DataDestination(ApiModel):
    """Where a result goes: exactly one of volumeSource and image."""

    model_config = ConfigDict(
        json_schema_extra=checked(
            cel("has(self.volumeSource) != has(self.image)", "write exactly one of volumeSource and image"),
            cel(
                "!has(self.image) || has(self.imagePushSecret) && self.imagePushSecret != ''",
                "image needs imagePushSecret: write the name of the Secret to push with",
            ),
        )
    )

    volume_source: Free | None = Field(default=None, description="A volume, as a pod has it.")
    image: TaggedImage | None = Field(default=None, description="The image to push, as registry/repository:tag.")
    image_push_secret: Name | None = Field(
        default=None, description="The Secret of this namespace to push with; it needs a .dockerconfigjson."
    )


class Adapter(ApiModel):
    """A LoRA adapter laid over the model."""

    model_config = ConfigDict(
        json_schema_extra=checked(
            cel(
                "!has(self.source) || has(self.source.name) && "
                "self.source.name.matches('^[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?$')",
                "an adapter needs source.name: letters, digits and '-'",
            ),
            cel(
                "!has(self.source) || has(self.source.image)",
                "an adapter needs source.image: write registry/repository:tag",
            ),
        )
    )

    source: DataSource = Field(description="The adapter's name and its image.")
    strength: Annotated[
        Short, *matching(r"0(\.[0-9]*)?|1(\.0*)?|\.[0-9]+", 'write a number from 0 to 1 in quotes, such as "0.5"')
    ] = Field(default="1.0", description='How strongly it is mixed in: a number from 0 to 1 in quotes; default "1.0".')


class Inference(ApiModel):
    """Serve a model: exactly one of preset and template."""

    model_config = ConfigDict(
        json_schema_extra=checked(
            cel(
                "has(self.preset) != has(self.template)", "write exactly one of inference.preset and inference.template"
            ),
            cel(
                "has(self.preset) == has(oldSelf.preset) && has(self.template) == has(oldSelf.template)",
                "preset and template cannot be swapped: delete the Workspace and create another",
            ),
        )
    )

    preset: Preset | None = Field(
        default=None,
        description="A model of the catalogue. Cannot be changed.",
        json_schema_extra=immutable("inference.preset"),
    )
    template: Free | None = Field(default=None, description="A pod template of your own. Its edits roll out.")
    adapters: Annotated[tuple[Adapter, ...], Field(max_length=MOST_ADAPTERS)] = Field(
        default=(),
        description=f"LoRA adapters, at most {MOST_ADAPTERS}. None by default.",
        json_schema_extra=checked(
            cel(
                "self.all(a, !has(a.source) || !has(a.source.name) || "
                "self.exists_one(b, has(b.source) && has(b.source.name) && b.source.name == a.source.name))",
                "two adapters have the same source.name: give each its own",
            )
        ),
    )


class Tuning(ApiModel):
    """Fine-tune a model and publish the result."""

    preset: Preset = Field(
        description="The model to tune. Cannot be changed.", json_schema_extra=immutable("tuning.preset")
    )
    method: Short = Field(
        description="lora or qlora, in upper or lower case. Cannot be changed.",
        json_schema_extra=checked(
            cel("self.lowerAscii() in ['lora', 'qlora']", "write lora or qlora"),
            cel("self.lowerAscii() == oldSelf.lowerAscii()", "tuning.method cannot be changed"),
        ),
    )
    config: Name | None = Field(
        default=None,
        description="A ConfigMap of this namespace with training_config.yaml. By default the method's own.",
    )
    input: DataSource = Field(
        description="The training data.",
        json_schema_extra=checked(
            cel(
                "has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)",
                "tuning.input.name cannot be changed",
            )
        ),
    )
    output: DataDestination = Field(description="Where the adapter goes.")
    serve: bool = Field(
        default=True,
        description="Ours. Whether base model and result are served once tuning is done; default true. "
        "False ends with the push.",
    )
