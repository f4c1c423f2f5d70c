"""Why a run has stopped, as its folder tells it."""

import errno
import json
from pathlib import Path

import pytest

from salsa_cli.errors import Halted, SalsaError, StorageError, os_errors
from salsa_cli.runs import stops
from salsa_cli.runs.signals import Terminated


def marked(folder: Path, error: BaseException) -> stops.Stop:
    stops.mark(folder, error, "3 answers", "salsa eval m/ -o out --resume")
    found = stops.read(folder)
    assert found is not None and stops.read_killed(folder) == found
    return found


def test_a_stop_is_read_back(tmp_path: Path) -> None:
    assert stops.read(tmp_path) is None
    found = marked(tmp_path, Terminated())
    assert (found.reason, found.first) == ("stopped by SIGTERM", "")
    assert (found.kept, found.resume) == ("3 answers", "salsa eval m/ -o out --resume")
    assert found.directory == str(Path.cwd())
    assert found.headline.endswith("UTC: stopped by SIGTERM")
    assert json.loads((tmp_path / stops.FILE).read_text())["state"] == "stopped"
    stops.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
    stops.clear(tmp_path)


def test_a_run_that_was_killed_is_told_by_what_it_could_not_remove(tmp_path: Path) -> None:
    stops.begin(tmp_path, "salsa eval m/ -o out --resume")
    assert stops.read(tmp_path) is None  # it may still be running
    found = stops.read_killed(tmp_path)
    assert found is not None and found.resume == "salsa eval m/ -o out --resume"
    assert "kill -9" in found.reason and found.headline.startswith("begun 20")
    (tmp_path / stops.FILE).write_text("")  # a power failure
    assert stops.read_killed(tmp_path) is None


@pytest.mark.parametrize(
    ("error", "first"),
    [
        (KeyboardInterrupt(), ""),
        (Halted("stopped by --stop-on x", {"stop_on": ()}), ""),
        (OSError(errno.ENOSPC, "No space left on device"), "Free space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Free space"),
        (MemoryError(), "memory"),
        (SalsaError("the loss is not finite"), "Correct the cause"),
        (ZeroDivisionError("division by zero"), "Correct the cause"),
    ],
)
def test_what_has_to_change_first(tmp_path: Path, error: BaseException, first: str) -> None:
    found = marked(tmp_path, error)
    assert found.first.startswith(first) if first == "" else first in found.first
    assert (found.first == "") == (first == "")


def test_a_full_disk_is_recognised_behind_the_message(tmp_path: Path) -> None:
    with pytest.raises(StorageError) as found, os_errors(tmp_path, "write"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "Free space" in marked(tmp_path, found.value).first


def test_a_stop_that_cannot_be_written_hides_no_error(tmp_path: Path) -> None:
    stops.mark(tmp_path / "missing", Terminated(), "3 answers", "salsa")
