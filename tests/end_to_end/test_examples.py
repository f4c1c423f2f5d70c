"""The examples run as they are written."""

import runpy
import tomllib
from pathlib import Path

import pytest

import salsa_cli
from tests.support.worlds import World

ROOT = Path(__file__).parents[2]


def quickstart(world: World, folder: Path) -> Path:
    """A folder as the quickstart leaves it, with the tiny models."""
    (folder / "world").mkdir(parents=True)
    for name, source in {
        "sft-a": world.a,
        "sft-b": world.b,
        "prefs.jsonl": world.preferences,
    }.items():
        (folder / name).symlink_to(source)
    for name in ("prompts.jsonl", "heldout.jsonl"):
        (folder / "world" / name).symlink_to(world.prompts)
    return folder


def test_the_commands_as_functions(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = quickstart(world, tmp_path / "quickstart")
    monkeypatch.setenv("QUICKSTART", str(folder))
    ran = runpy.run_path(str(ROOT / "examples" / "library.py"))
    out, err = capsys.readouterr()
    assert len(ran["rewards"]) == 5 and None not in ran["rewards"]
    assert "'weights': (0.5, 0.5)" in out and "reward " in out and out.splitlines()[-1].isdigit()
    assert "ppo 5/5" in err
    written = {path.name for path in (folder / "library").iterdir()}
    assert written == {"ref", "rm", "policy", "results"}


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(salsa_cli.__file__).parent / "py.typed").exists()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "py.typed" in project["tool"]["setuptools"]["package-data"]["salsa_cli"]
