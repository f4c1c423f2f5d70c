"""What a reward sets for the whole process stays with that reward."""

import os
from pathlib import Path

import pytest

from salsa_cli import ppo
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError
from salsa_cli.models.tokenization import Answer
from salsa_cli.reward_models import rewards
from salsa_cli.reward_models.surroundings import ProcessState, Surroundings
from salsa_cli.runs.events import silent
from tests.support.ppo_runs import configure_anchored as configure
from tests.support.worlds import World


def reward(folder: Path, *lines: str, beginning: str = "") -> str:
    file = folder / "own.py"
    body = "".join(f"    {line}\n" for line in lines)
    file.write_text(f"import os, torch\n{beginning}\ndef score(p, a):\n{body}")
    return f"{file}:score"


SETTINGS = {
    "gradients": "torch.set_grad_enabled(False)",
    "dtype": "torch.set_default_dtype(torch.float64)",
    "folder": "os.chdir('/')",
}


@pytest.mark.parametrize("at_import", [False, True])
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_the_process_does_not_see_what_a_reward_sets(
    tmp_path: Path, setting: str, *, at_import: bool
) -> None:
    before = ProcessState.now()
    lines = ["return [1.0] * len(a)"] if at_import else [setting, "return [1.0] * len(a)"]
    name = reward(tmp_path, *lines, beginning=setting if at_import else "")
    rewards.load(rewards.resolve(name), start_runtime("cpu")).score(["p"], [Answer("a")])
    assert ProcessState.now() == before


def test_a_reward_that_fails_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    before = ProcessState.now()
    name = reward(tmp_path, *SETTINGS.values(), "raise SystemExit")
    with pytest.raises(SalsaError, match="failed: SystemExit"):
        rewards.load(name, start_runtime("cpu")).score(["p"], [Answer("a")])
    assert ProcessState.now() == before


def test_a_reward_finds_what_it_set(tmp_path: Path) -> None:
    """A directory that it entered while it was imported, or in an earlier call."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "figure").write_text("3.5")
    enter = f"os.chdir({str(folder)!r})"
    name = reward(tmp_path, "return [float(open('figure').read())]", beginning=enter)
    scorer = rewards.load(name, start_runtime("cpu"))
    assert [scorer.score(["p"], [Answer("a")]).tolist() for _ in range(2)] == [[3.5], [3.5]]
    name = reward(
        tmp_path,
        "found = float(torch.ones(1).dtype == torch.float64)",
        SETTINGS["dtype"],
        "return [found]",
    )
    scorer = rewards.load(name, start_runtime("cpu"))
    assert [scorer.score(["p"], [Answer("a")]).tolist() for _ in range(2)] == [[0.0], [1.0]]


def test_a_directory_that_is_deleted_is_left(tmp_path: Path) -> None:
    gone, mine = tmp_path / "gone", Surroundings()
    before = Path.cwd()
    gone.mkdir()
    with mine.entered():
        os.chdir(gone)
        gone.rmdir()
    assert Path.cwd() == before
    with mine.entered():
        assert Path.cwd() == before
    assert Path.cwd() == before


def test_a_run_with_relative_paths_survives_a_reward_that_moves_and_stops_gradients(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.a.parent)
    name = reward(tmp_path, *SETTINGS.values(), "return [float(len(x)) for x in a]")
    config = configure(
        world,
        tmp_path / "policy",
        ref=(world.a.name,),
        reward=(name,),
        updates=1,
        learning_rate=1e-2,
    )
    ppo.run(config, silent)
    start = (world.a / "model.safetensors").read_bytes()
    assert (tmp_path / "policy" / "model.safetensors").read_bytes() != start
