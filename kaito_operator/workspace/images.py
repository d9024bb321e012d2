"""Where the images of models come from."""

from dataclasses import dataclass

from kaito_operator.api.spec import Preset


@dataclass(frozen=True, slots=True)
class Images:
    """The registry of preset images and the tag they have."""

    registry: str
    version: str

    def of(self, preset: Preset, *, model: str) -> str:
        """The image to run: the user's own if one is named, else ours of the model."""
        own = preset.preset_options.image if preset.preset_options else None
        return own or f"{self.registry}/kaito-{model}:{self.version}"
