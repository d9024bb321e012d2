"""The models that the server's tests serve."""

import gc
from collections.abc import Iterator
from functools import _lru_cache_wrapper
from pathlib import Path

import pytest
from fastapi.dependencies import models

from inference_server.engines.engine import Loading
from inference_server.engines.transformers_engine import TransformersEngine
from inference_server.settings import Settings
from local_cluster import model
from tests.support.cluster import eventually
from tests.support.tiny_model import write_tiny_model


@pytest.fixture(scope="module", autouse=True)
def applications_are_forgotten() -> Iterator[None]:
    """FastAPI remembers the last thousand endpoints that it has looked at, and with each its application and its model:
    one process of all these tests grew to 6 GB by it."""
    yield
    for remembered in vars(models).values():
        if isinstance(remembered, _lru_cache_wrapper):
            remembered.cache_clear()
    gc.collect()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The directory of the embedded model."""
    return model.find()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a random model of words."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_engine(tiny_model: Path) -> Iterator[TransformersEngine]:
    """An engine over the model of words, ready."""
    engine = TransformersEngine(Settings(pretrained_model_name_or_path=str(tiny_model), device_map="cpu"))
    engine.start()
    eventually(lambda: not isinstance(engine.state, Loading), within=60, what="the tiny model is loaded")
    yield engine
    engine.stop()
