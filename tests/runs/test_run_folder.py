"""The life of a run folder: draft, rename, checkpoint, resume, lock."""

import multiprocessing
from pathlib import Path

import pytest
import torch

from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.runs import checkpoints, run_folder


def test_a_draft_becomes_the_result_when_it_is_complete(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "out"
    with run_folder.draft(output, force=False) as folder:
        (folder / "a").write_text("1")
        assert not output.exists()
    assert [path.name for path in output.iterdir()] == ["a"]
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def test_a_draft_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        run_folder.draft(tmp_path / "out", force=False) as folder,
    ):
        (folder / "a").write_text("1")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").touch()
    with (
        pytest.raises(SalsaError, match="already exists; choose another -o, or replace"),
        run_folder.draft(tmp_path / "out", force=False),
    ):
        raise AssertionError("the draft must not begin")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_replaces_the_old_only_when_the_new_is_complete(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    for name in ("old", "salsa.json"):
        (output / name).write_text("")
    with pytest.raises(RuntimeError), run_folder.draft(output, force=True):
        raise RuntimeError
    assert (output / "old").exists()
    with run_folder.draft(output, force=True) as folder:
        (folder / "new").write_text("")
    assert [path.name for path in output.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_does_not_replace_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(SalsaError, match="is a link or a file"):
        run_folder.check_output(tmp_path / "out", force=True)


def test_force_spares_what_salsa_did_not_make(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    run_folder.check_output(output, force=True)  # an empty folder is no loss
    (output / "notes.txt").write_text("mine")
    with pytest.raises(SalsaError, match="neither a model nor a result of salsa"):
        run_folder.check_output(output, force=True)
    (output / "config.json").write_text("{}")
    run_folder.check_output(output, force=True)


def test_force_spares_what_the_run_reads(tmp_path: Path) -> None:
    model = tmp_path / "models" / "a"
    model.mkdir(parents=True)
    for folder in (model, model.parent):
        (folder / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(model)
    for output in (model, model.parent):
        for name in (model, tmp_path / "link"):
            with pytest.raises(SalsaError, match="an input of this run"):
                run_folder.check_output(output, True, [name])
    run_folder.check_output(model, True, [model.parent / "b", tmp_path])


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_an_output_needs_a_name(name: str) -> None:
    with pytest.raises(UsageError, match="expected the name of a new folder"):
        run_folder.check_output(Path(name), force=True)


def test_a_folder_in_the_way_of_a_draft_is_spared(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").touch()
    with (
        pytest.raises(SalsaError, match="was not written by salsa"),
        run_folder.draft(tmp_path / "out", force=True),
    ):
        pass
    assert (tmp_path / "out.partial" / "mine").exists()


def test_a_draft_is_locked_until_it_is_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process that comes while the first one sees its files to the disk."""
    refused: list[str] = []
    sync = run_folder._sync

    def intrude(folder: Path) -> None:
        sync(folder)
        try:
            with run_folder.draft(tmp_path / "out", force=False):
                pass
        except SalsaError as error:
            refused.append(str(error))

    monkeypatch.setattr(run_folder, "_sync", intrude)
    with run_folder.draft(tmp_path / "out", force=False) as folder:
        (folder / "whole").touch()
    assert refused == [f"{tmp_path / 'out.partial'} is in use by another salsa process"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["whole"]


def test_a_result_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """The lock of a run that has just ended is no lock of ours."""
    stale = tmp_path / "out.partial"
    stale.mkdir()
    with (stale / ".lock").open("w") as lock:
        assert run_folder._is_at(lock, stale / ".lock")
        stale.rename(tmp_path / "out")
        assert not run_folder._is_at(lock, stale / ".lock")


def test_an_empty_folder_takes_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `mkdir -p` ahead of a command makes it."""
    output = tmp_path / "out"
    output.mkdir()
    with pytest.raises(RuntimeError), run_folder.draft(output, force=False):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == [output] and list(output.iterdir()) == []
    monkeypatch.setattr(run_folder.shutil, "rmtree", None)  # nothing is retired: one rename
    with run_folder.draft(output, force=False) as folder:
        (folder / "result").touch()
        assert list(output.iterdir()) == []
    assert [path.name for path in output.iterdir()] == ["result"]
    with pytest.raises(SalsaError, match="already exists"):
        run_folder.check_output(output, force=False)


def test_a_mount_point_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a volume of a container: no rename replaces it, and it is empty."""
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
    with pytest.raises(SalsaError, match=r"is a mount point.*choose a folder in it"):
        run_folder.check_output(tmp_path, force=False)


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SalsaError, match="cannot be created"):
        run_folder.check_output(tmp_path / "file" / "out", force=False)


def test_an_interrupted_run_is_kept_once_it_has_a_checkpoint(tmp_path: Path) -> None:
    output = tmp_path / "out"

    def interrupted(steps: int, resume: bool) -> None:
        with run_folder.resumable(output, force=False, resume=resume) as folder:
            for step in range(steps):
                checkpoints.save_checkpoint(folder, step + 1, {"w": torch.tensor([float(step)])})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(0, resume=False)
    assert list(tmp_path.iterdir()) == []

    with pytest.raises(KeyboardInterrupt):
        interrupted(5, resume=False)
    saved = checkpoints.latest_checkpoint(run_folder.partial_folder(output))
    assert saved is not None and saved.step == 5
    assert checkpoints.load_checkpoint(saved)["w"].item() == 4.0
    assert len(list(saved.file.parent.iterdir())) == 2  # the newest two are kept

    with pytest.raises(SalsaError, match="contains an unfinished run; continue it with --resume"):
        interrupted(0, resume=False)
    with run_folder.resumable(output, force=False, resume=True) as folder:
        assert checkpoints.latest_checkpoint(folder) == saved
    assert (output / "checkpoints").is_dir()
    assert not run_folder.partial_folder(output).exists()


def test_force_starts_an_unfinished_run_again(tmp_path: Path) -> None:
    folder = run_folder.partial_folder(tmp_path / "out")
    checkpoints.save_checkpoint(folder, 1, {})
    (folder / ".lock").touch()  # every draft has one
    with run_folder.resumable(tmp_path / "out", force=True, resume=False) as folder:
        assert checkpoints.latest_checkpoint(folder) is None


def test_a_failure_after_progress_says_how_to_go_on(tmp_path: Path) -> None:
    def failing(steps: list[int], resume: bool) -> None:
        with run_folder.resumable(tmp_path / "out", force=False, resume=resume) as folder:
            for step in steps:
                checkpoints.save_checkpoint(folder, step, {})
            raise SalsaError("the loss is not finite")

    with pytest.raises(SalsaError, match=r"not finite\n.* up to step 2; continue it with --resume"):
        failing([1, 2], resume=False)
    with pytest.raises(SalsaError, match=r"not finite$"):
        failing([], resume=True)  # it would fail again at the same place


def _hold(output: Path, entered: object, leave: object) -> None:
    with run_folder.draft(output, force=False):
        entered.set()  # type: ignore[attr-defined]
        leave.wait(30)  # type: ignore[attr-defined]


def test_two_processes_do_not_share_a_draft(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    entered, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "out", entered, leave))
    other.start()
    assert entered.wait(30)
    with (
        pytest.raises(SalsaError, match="in use by another salsa process"),
        run_folder.draft(tmp_path / "out", force=False),
    ):
        raise AssertionError("the draft must not begin")
    leave.set()
    other.join()
    assert (tmp_path / "out").is_dir()


def test_rows_beyond_the_checkpoint_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("1\n2\n3\nhalf a li")
    run_folder.keep_rows(path, 2)
    assert path.read_text() == "1\n2\n"
