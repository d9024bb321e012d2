"""The model a command is asked about: of the catalogue, or any other of the Hugging Face Hub."""

import os
from typing import TYPE_CHECKING

from kaito_cli.money import cache

if TYPE_CHECKING:
    from presets.catalog import Catalog, Model


class NoSuchModel(Exception):
    """One line that says what to write instead."""


def find(name: str, catalog: "Catalog", *, offline: bool) -> "Model":
    """By name, alias or id; other ids are asked for as HF_TOKEN and HF_ENDPOINT say. Raises NoSuchModel."""
    from presets.catalog import UnknownModel

    try:
        return catalog.model(name)
    except UnknownModel as unknown:
        if "/" not in name:
            raise NoSuchModel(str(unknown)) from unknown
    if offline:
        raise NoSuchModel(f"{name} is not in the catalogue, and the Hub is not asked with --offline")
    return _of_the_hub(name)


def _of_the_hub(name: str) -> "Model":
    from presets.hub.reader import ENDPOINT, Hub, HubError

    where = os.environ.get("HF_ENDPOINT") or ENDPOINT
    try:
        return Hub(cache=cache() / "hub", token=os.environ.get("HF_TOKEN", ""), endpoint=where).model(name)
    except HubError as error:
        raise NoSuchModel(str(error)) from error
