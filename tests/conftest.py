"""Fixtures of all tests: small worlds of models and data, and the real ones."""

from pathlib import Path

import pytest

from tests.support import adapters, files, real_data, worlds
from tests.support.adapters import AdapterWorld
from tests.support.worlds import World


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Among several processes, the long ones first: none is left alone with them in the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def stories_model() -> Path:
    """A real pretrained model of 260k parameters; skips where it is not at hand."""
    return real_data.shared_model("stories260k-llama")


@pytest.fixture(scope="session")
def stories_data() -> Path:
    """Real TinyStories text; skips where it is not at hand."""
    return real_data.shared_data("tinystories_small")


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A model folder whose weights are the golden bytes."""
    return files.model(tmp_path / "golden", files.GOLDEN)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two language models of one base, their soup, a reward model, prompts and preferences."""
    return worlds.make(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> AdapterWorld:
    """A base, two SFT adapters of it, their soup, and the adapter of a reward model."""
    pytest.importorskip("peft", reason="peft is not installed")
    return adapters.make(tmp_path_factory.mktemp("adapted"))
