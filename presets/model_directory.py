"""Where in the file system of an image a model lies: an image that is mounted for its files brings its own places."""

from pathlib import Path

PLACES = (
    "",  # the directory itself
    "workspace/weights",  # images by our Dockerfile
    "workspace/tfs/weights",  # KAITO's
    "models",  # modelcars, as KServe has them
    "data",
)


def model_directory(given: str) -> str:
    """The first of the places that has a ``config.json``; what was given where none has, or where it is an id."""
    places = (Path(given, name) for name in PLACES)
    return next((str(place) for place in places if (place / "config.json").is_file()), given)
