"""Where a model's files may come from: the words of the annotation, the chart and the settings."""

from enum import StrEnum


class Source(StrEnum):
    """``workspace/model_files.py`` has the table of what each means."""

    AUTO = "auto"
    BAKED = "baked"
    KAITO = "kaito"
    VOLUME = "volume"
    HUB = "hub"
