"""What all tests share: one thread a process, no network, a small world, and the real models."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

# Two test processes on two cores: more threads would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Test files use one another's makers of worlds and runs, whichever folder they are in.
_HERE = Path(__file__).parent
sys.path[:0] = [str(path) for path in (_HERE, *_HERE.rglob("*")) if path.is_dir()]

SHARED = Path(os.environ.get("SALSA_TEST_DATA", Path(__file__).parents[2] / "shared"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Among several processes, the slow ones first: none is left alone with them in the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def stories_model() -> Path:
    """A real pretrained model of 260k parameters; skips where it is not at hand."""
    return _present(SHARED / "models" / "stories260k-llama")


@pytest.fixture(scope="session")
def stories_data() -> Path:
    """Real TinyStories text; skips where it is not at hand."""
    return _present(SHARED / "data" / "tinystories_small")


def shared_data(name: str) -> Path:
    """A folder of real data; skips where it is not at hand."""
    return _present(SHARED / "data" / name)


def _present(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; SALSA_TEST_DATA names the folder that holds it")
    return folder


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A model folder whose weights are the golden bytes."""
    import files

    return files.model(tmp_path / "golden", files.GOLDEN)


@dataclass(frozen=True)
class World:
    """Folders and files that the tests read and never change."""

    a: Path
    b: Path
    soup: Path
    rm: Path
    prompts: Path
    preferences: Path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two language models of one base, their soup, a reward model, prompts and preferences."""
    import tiny

    from salsa_cli import soup
    from salsa_cli.config.soup import SoupConfig
    from salsa_cli.runs.events import silent

    root = tmp_path_factory.mktemp("world")
    made = World(
        a=tiny.save_language_model(root / "a", seed=1, scale=0.1),
        b=tiny.save_language_model(root / "b", seed=2, scale=0.1),
        soup=root / "soup",
        rm=tiny.save_reward_model(root / "rm"),
        prompts=tiny.prompts(root / "prompts.jsonl"),
        preferences=tiny.preferences(root / "preferences.jsonl"),
    )
    models = (str(made.a), str(made.b))
    soup.run(SoupConfig(models=models, alpha=0.5, output=made.soup), silent)
    return made
