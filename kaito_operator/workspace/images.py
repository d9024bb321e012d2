"""The parts of the settings that plans are made with, free of where they were read from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Images:
    """Where preset images come from."""

    registry: str
    version: str

    def preset(self, name: str) -> str:
        """The image of a published preset."""
        return f"{self.registry}/kaito-{name}:{self.version}"
