"""Real models and data, which not every machine holds: tests of them skip elsewhere."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("SALSA_TEST_DATA", Path(__file__).parents[3] / "shared"))
DATA = SHARED / "data"


def shared_model(name: str) -> Path:
    """A folder of a real model; skips if it is missing."""
    return _present(SHARED / "models" / name)


def shared_data(*parts: str) -> Path:
    """A folder or file of real data; skips if it is missing."""
    return _present(DATA.joinpath(*parts))


def _present(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is missing; SALSA_TEST_DATA names the folder that holds it")
    return path
