"""The rows of the catalogue: a model, a card, a size of machine. What a row leaves out follows from what it says."""

from collections.abc import Mapping
from dataclasses import field
from math import ceil
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StrictBool
from pydantic.dataclasses import dataclass

from presets.architecture import Architecture, active_parameters
from presets.estimate import (
    GIB,
    SHORTEST_CONTEXT,
    Dtype,
    Load,
    Quantisation,
    Weights,
    serving,
    serving_on_cpu,
    weight_bytes,
)
from presets.target_modules import FAMILIES

EXACT = ConfigDict(extra="forbid")
Positive = Annotated[int, Field(gt=0, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]

DISK_BESIDE_WEIGHTS_GIB = 80
"""System, images and room to unpack them; KAITO 0.12 asks for the same."""
STARTS_WITHIN_SECONDS, SECONDS_FOR_EACH_GIB = 900, 18
STARTS_AT_LEAST, STARTS_AT_MOST = 1800, 10800
"""How long a model of so many GiB may take to its first answer; KAITO 0.12 waits as long."""


@dataclass(frozen=True, slots=True, kw_only=True, config=EXACT)
class Model:
    """One model: what it is, what it needs and how it is served. Memory and disk in GiB."""

    name: str
    access: Literal["public", "private"]
    """Private: no image may be published, the Workspace names one."""
    architecture: Architecture
    hub: str
    """Its id on the Hugging Face Hub."""
    license: str
    """As the Hub's metadata name it."""
    parameters: Positive
    """As published. A test compares with what the architecture comes to."""
    aliases: tuple[str, ...] = ()
    gated: StrictBool = False
    """Whether the Hub gives it only to those who have agreed to its terms."""
    dtype: Dtype = "bfloat16"
    quantisation: Quantisation = ""
    weight_bytes: Count = 0
    """Of its files. 0: as the architecture, dtype and quantisation come to."""
    chat: StrictBool = False
    """Whether its tokenizer has a chat template."""
    cpu: StrictBool = False
    """Whether it is of use without a GPU."""
    distributed: StrictBool = False
    """Whether one replica may spread over several machines."""
    tuning: StrictBool = False
    adapter_family: Literal["", "llama", "phi3", "phi", "falcon"] = ""
    """Whose names its linear layers have; see ``target_modules.FAMILIES``."""
    revision: str = ""
    """The commit of the Hub that its figures are of; "" for a row of the catalogue."""
    image_tag: str = ""
    """The tag of KAITO 0.3.0's public image; ours carry the version of this project."""
    image_launcher: Literal["accelerate", "torchrun"] = "accelerate"
    """What KAITO's image is started by."""
    image_arguments: Mapping[str, str] = Field(default_factory=dict)
    """Of the server in KAITO's image where they differ from ``arguments``; a value of "" leaves the key alone."""
    gpus: Positive = 1
    """GPUs that one replica uses, where the machine has any."""
    disk_gib: Count = 0
    total_memory_gib: Count = 0
    """Of all its GPUs together; of the machine's RAM where it runs on processors. 0: as the estimate comes to."""
    per_gpu_memory_gib: Count = 0
    arguments: Mapping[str, str] = Field(default_factory=dict)
    """Of the inference server, ``--key=value``."""
    readiness_seconds: Count = 0
    """How long it may take from the start of the container to the first answer."""
    states_need: bool = field(default=False, init=False)
    """Whether its row says how much memory it needs, as KAITO's presets do."""

    def __post_init__(self) -> None:
        gib = self.file_bytes / GIB
        starts = STARTS_WITHIN_SECONDS + SECONDS_FOR_EACH_GIB * gib
        derived: dict[str, object] = {
            "states_need": self.total_memory_gib > 0,
            "disk_gib": self.disk_gib or ceil(gib) + DISK_BESIDE_WEIGHTS_GIB,
            "total_memory_gib": self.total_memory_gib or ceil(self.least_memory / GIB),
            "readiness_seconds": self.readiness_seconds or ceil(min(max(starts, STARTS_AT_LEAST), STARTS_AT_MOST)),
            "arguments": self.arguments or {"torch_dtype": _dtype_argument(self), "pipeline": _pipeline(self)},
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def of_kaito(self) -> bool:
        """Whether KAITO 0.3 has it, with an image that is public or that its users build."""
        return bool(self.image_tag or self.image_arguments)

    @property
    def target_modules(self) -> tuple[str, ...]:
        """What an adapter lies beside unless its configuration names something else; nothing if it is not tuned."""
        return FAMILIES[self.adapter_family] if self.adapter_family else ()

    @property
    def weights(self) -> Weights:
        """As it is loaded."""
        return Weights(
            architecture=self.architecture,
            dtype=self.dtype,
            quantisation=self.quantisation,
            file_bytes=self.weight_bytes,
            twice=self.arguments.get("int4_small_batches") == "true",
        )

    @property
    def file_bytes(self) -> int:
        """Of its weights on disk."""
        return self.weight_bytes or weight_bytes(self.weights)

    @property
    def active_parameters(self) -> int:
        """Those that each token is computed with."""
        return active_parameters(self.architecture)

    @property
    def least_memory(self) -> int:
        """Bytes on one GPU with the shortest context that is of use; without a GPU where it is of use there."""
        shortest = Load(context=min(SHORTEST_CONTEXT, self.architecture.context))
        return (serving_on_cpu if self.cpu else serving)(self.weights, shortest).total


@dataclass(frozen=True, slots=True, kw_only=True, config=EXACT)
class Gpu:
    """One kind of card."""

    name: str
    maker: Literal["nvidia", "amd"] = "nvidia"
    memory_gib: Positive
    """As its name says."""
    memory_mib: Positive
    """What its driver shows, which is less than what its name says: ECC and firmware have their part."""
    bandwidth_gb_s: Positive
    """Of its memory, 10⁹ bytes a second."""
    compute_capability: str
    bfloat16: StrictBool
    """Whether it computes with bfloat16; older cards do so in float32, slowly."""


@dataclass(frozen=True, slots=True, kw_only=True, config=EXACT)
class InstanceType:
    """One size of virtual machine. ``gpu_memory_gib`` is of all its GPUs together, as the cloud states it."""

    name: str
    cloud: Literal["azure", "aws"] = "azure"
    gpus: Count = 0
    gpu_model: str = ""
    gpu_memory_gib: Count = 0
    cpus: Positive
    memory_gib: Positive
    local_disk_gib: Count = 0
    nvlink: StrictBool = False
    """Whether its GPUs reach each other by NVLink."""
    retired: StrictBool = False
    note: str = ""


def _pipeline(model: Model) -> str:
    return "conversational" if model.chat else "text-generation"


def _dtype_argument(model: Model) -> str:
    return "auto" if model.quantisation else model.dtype
