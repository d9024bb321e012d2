"""What an installation runs models with, as far as a Workspace is judged by it: whose torch, and for which cards."""

from dataclasses import dataclass

from kaito_operator.api.sources import Source
from presets.cards import OLDEST, Capability
from presets.catalog import Model


@dataclass(frozen=True, slots=True)
class Runtime:
    """Three values of the operator's chart."""

    model_files: Source = Source.AUTO
    """Where model files come from, unless the Workspace says."""
    image: bool = True
    """Whether there is an image of our programs without a model."""
    oldest: Capability = OLDEST
    """The compute capability that a card must have for the torch of our images."""

    def source(self, model: Model, *, asked: str, own: bool) -> Source:
        """Where the model's files come from: as the Workspace ``asked``, else as the installation has it; never auto.

        ``own``: whether the Workspace names an image of its own.
        """
        if model.revision and not own:
            return Source.HUB  # it was looked up there, and nobody has made an image of it
        wanted = Source(asked or self.model_files)
        if wanted is not Source.AUTO:
            return wanted
        if self.image or not model.of_kaito:
            return Source.BAKED if own else Source.HUB
        return Source.KAITO


def by_this_installation(source: Source, *, own: bool) -> bool:
    """Whether its torch runs, whose cards are known; not KAITO's, nor that of an image which the Workspace names."""
    return source is Source.VOLUME or (source is not Source.KAITO and not own)
