"""Files past the page cache, and the same through it."""

import fcntl
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salsa_cli.weights import disk
from salsa_cli.weights.disk import ALIGNMENT, InputFile, OutputFile, aligned, round_up
from tests.support.files import failure

CONTENT = np.random.default_rng(0).integers(0, 256, 3 * ALIGNMENT + 1234).astype(np.uint8)


@pytest.fixture(params=["as the file system likes", "buffered", "refused later"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Direct where possible; never direct; opened directly and then refused, as some mounts do."""
    if request.param == "buffered":
        monkeypatch.setattr(disk, "_DIRECT", 0)
    if request.param == "refused later":
        for name in ("preadv", "pwritev"):
            monkeypatch.setattr(os, name, _refusing(getattr(os, name)))
    return str(request.param)


def _refusing(call: Any) -> Any:
    def refuse(descriptor: int, buffers: Any, offset: int) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0):
            raise OSError(22, "Invalid argument")
        return int(call(descriptor, buffers, offset))

    return refuse


@pytest.mark.parametrize(
    ("offset", "nbytes"),
    [(0, 1), (0, ALIGNMENT), (1, ALIGNMENT), (4095, 2), (5000, 6000), (0, CONTENT.size), (9, 0)],
)
def test_any_range_can_be_read(tmp_path: Path, way: str, offset: int, nbytes: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT.tobytes())
    with InputFile(path) as file:
        found = file.read(offset, nbytes, aligned(nbytes + 2 * ALIGNMENT))
        assert np.array_equal(found, CONTENT[offset : offset + nbytes])


def test_blocks_are_written_in_any_order(tmp_path: Path, way: str) -> None:
    path = tmp_path / "f"
    memory = aligned(CONTENT.size)
    memory[: CONTENT.size] = CONTENT
    file = OutputFile(path, CONTENT.size)
    for offset in (2 * ALIGNMENT, 0, 3 * ALIGNMENT, ALIGNMENT):
        file.write(offset, memory[offset : offset + ALIGNMENT])
    file.finish()
    file.close()  # a second time
    assert path.read_bytes() == CONTENT.tobytes()


def test_short_transfers_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("preadv", "pwritev"):
        call = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda f, views, at, call=call: call(f, [views[0][:ALIGNMENT]], at)
        )
    test_blocks_are_written_in_any_order(tmp_path, "")
    with InputFile(tmp_path / "f") as file:
        found = file.read(10, 9000, aligned(9000 + 2 * ALIGNMENT))
        assert np.array_equal(found, CONTENT[10:9010])


def test_a_file_that_ends_too_early(tmp_path: Path, way: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(CONTENT.tobytes())
    with InputFile(path) as file:
        memory = aligned(CONTENT.size + 2 * ALIGNMENT)
        message = failure(lambda: file.read(5, CONTENT.size, memory))
    assert f"{path}: 5 bytes are missing at its end" in message


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    assert "cannot read it" in failure(lambda: InputFile(tmp_path / "none"))
    assert "cannot write it" in failure(lambda: OutputFile(tmp_path / "no" / "f", 1))


def test_memory_lies_on_pages() -> None:
    for nbytes in (0, 1, ALIGNMENT, ALIGNMENT + 1):
        memory = aligned(nbytes)
        assert memory.ctypes.data % ALIGNMENT == 0
        assert memory.size == max(round_up(nbytes), ALIGNMENT)


def test_the_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"x")
    monkeypatch.setattr(disk, "_DIRECT", 0)
    with InputFile(tmp_path / "f") as file:
        assert file.way == "buffered"
