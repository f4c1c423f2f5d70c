"""Checkpoints: whole or not there, the newest kept, and refused for another run."""

import resource
from pathlib import Path

import pytest
import torch

from salsa_cli.config.record import record
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError
from salsa_cli.runs import checkpoints


def test_a_state_comes_back_and_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        checkpoints.save_checkpoint(tmp_path, step, {"w": torch.full((2,), step), "kl": 0.5})
    saved = checkpoints.latest_checkpoint(tmp_path)
    assert saved is not None and saved.step == 10
    for read in (checkpoints.load_checkpoint, checkpoints.peek_checkpoint):
        state = read(saved)
        assert state["w"].tolist() == [10, 10] and state["kl"] == 0.5
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["000002.pt", "000010.pt"]
    checkpoints.save_checkpoint(tmp_path, 11, {}, keep=1)
    assert [path.name for path in folder.iterdir()] == ["000011.pt"]
    checkpoints.drop_checkpoints(tmp_path)
    assert checkpoints.latest_checkpoint(tmp_path) is None


def test_a_draft_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoints.save_checkpoint(tmp_path, 1, {})
    (tmp_path / "checkpoints" / "000002.draft").write_bytes(b"half")
    saved = checkpoints.latest_checkpoint(tmp_path)
    assert saved is not None and saved.step == 1


def test_a_checkpoint_holds_plain_values_and_nothing_that_runs(tmp_path: Path) -> None:
    checkpoints.save_checkpoint(tmp_path, 1, {"path": tmp_path})
    saved = checkpoints.latest_checkpoint(tmp_path)
    assert saved is not None
    with pytest.raises(SalsaError, match="cannot be read as a checkpoint"):
        checkpoints.load_checkpoint(saved)


def test_a_checkpoint_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    checkpoints.save_checkpoint(tmp_path, 3, {"w": torch.ones(1000)})
    saved = checkpoints.latest_checkpoint(tmp_path)
    assert saved is not None
    saved.file.write_bytes(saved.file.read_bytes()[:500])
    with pytest.raises(SalsaError, match="cannot be read as a checkpoint"):
        checkpoints.load_checkpoint(saved)


def test_other_settings_are_named() -> None:
    file = Path("000003.pt")
    config = SoupConfig(models=("a", "b"), output=Path("out"), memory=10**8)
    before = {**record(config), "memory": 10**9, "output": "/somewhere/out"}
    checkpoints.check_same_settings(file, before, {}, config)
    before |= {"alpha": 0.3, "models": ["a", "c"]}
    with pytest.raises(SalsaError) as caught:
        checkpoints.check_same_settings(file, before, {}, config)
    assert str(caught.value) == (
        "000003.pt was written by a run with other settings: models was ['a', 'c'], is ['a', 'b']; "
        "alpha was 0.3, is not set. Resume with the same ones, or start again with --force"
    )


def test_other_inputs_are_named() -> None:
    file = Path("000003.pt")
    checkpoints.check_same_inputs(file, {"a": [1, 2]}, {"a": (1, 2)})  # type: ignore[dict-item]
    with pytest.raises(SalsaError, match=r"other inputs: a was 1, is 2; new was not set, is \[1\]"):
        checkpoints.check_same_inputs(file, {"a": 1, "k": 0}, {"a": 2, "k": 0, "new": [1]})


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_and_says_why(
    tmp_path: Path,
) -> None:
    checkpoints.save_checkpoint(tmp_path, 1, {"weights": torch.zeros(10)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # a disk that fills up
    try:
        with pytest.raises(SalsaError) as caught:
            checkpoints.save_checkpoint(tmp_path, 2, {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value).endswith("000002.pt: cannot write it: File too large")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000001.pt"]
