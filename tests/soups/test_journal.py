"""The journal of a soup: what an interrupted run has finished, and whose run it was."""

import json
from pathlib import Path

import pytest

from salsa_cli.errors import SalsaError, StorageError
from salsa_cli.soups import journal
from salsa_cli.soups.journal import Entry, Journal

IDENTITY = {"models": ["a", "b"], "mixing": [0.5, 0.5]}
ONE = Entry("aa", ({"w": "11"}, {"w": "22"}))
TWO = Entry("bb", ({}, {"v": "33"}))


def write(folder: Path, *entries: Entry) -> Path:
    with Journal(folder, IDENTITY, ()) as running:
        for entry in entries:
            running.add(entry)
    return folder / journal.NAME


def test_what_was_finished_is_read_back(tmp_path: Path) -> None:
    assert journal.read(tmp_path, IDENTITY, 2) == []
    write(tmp_path, ONE, TWO)
    assert journal.read(tmp_path, IDENTITY, 2) == [ONE, TWO]
    with Journal(tmp_path, IDENTITY, [ONE, TWO]) as running:
        assert running.entries == (ONE, TWO)
        running.keep(1)
        running.add(TWO)
    assert journal.read(tmp_path, IDENTITY, 2) == [ONE, TWO]


def test_progress_in_words(tmp_path: Path) -> None:
    assert journal.progress(tmp_path) is None
    write(tmp_path)
    assert journal.progress(tmp_path) is None
    write(tmp_path, ONE)
    assert journal.progress(tmp_path) == "1 finished block"
    write(tmp_path, ONE, TWO)
    assert journal.progress(tmp_path) == "2 finished blocks"


def test_a_last_line_that_was_cut_short_does_not_count(tmp_path: Path) -> None:
    path = write(tmp_path, ONE, TWO)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found = journal.read(tmp_path, IDENTITY, 2)
        assert found == [ONE, TWO][: max(0, whole[:length].count(b"\n") - 1)]


def test_another_merge_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    write(tmp_path, ONE)
    with pytest.raises(SalsaError) as found:
        journal.read(tmp_path, {"models": ["a", "b"], "mixing": [0.3, 0.7], "seed": 1}, 2)
    assert "contains the partial result of a different soup" in str(found.value)
    assert "- mixing: [0.5, 0.5] then, [0.3, 0.7] now" in str(found.value)
    assert "- seed: null then, 1 now" in str(found.value)
    assert "models" not in str(found.value)


def test_there_is_nothing_to_resume_where_the_inputs_cannot_be_averaged(tmp_path: Path) -> None:
    for error, kept in (
        (SalsaError("NaN in w"), False),
        (StorageError("the disk is full"), True),
        (KeyboardInterrupt(), True),
        (ValueError("a defect"), True),
    ):
        with pytest.raises(type(error)), Journal(tmp_path, IDENTITY, ()) as running:
            running.add(ONE)
            raise error
        assert (tmp_path / journal.NAME).exists() is kept, error


def test_a_line_is_one_object_and_is_on_its_way_at_once(tmp_path: Path) -> None:
    with Journal(tmp_path, IDENTITY, ()) as running:
        running.add(ONE)
        lines = (tmp_path / journal.NAME).read_text().splitlines()
    assert json.loads(lines[0]) == IDENTITY
    assert json.loads(lines[1]) == {"file": "aa", "tensors": [{"w": "11"}, {"w": "22"}]}


# A damaged journal: everything up to the damage is kept, and nothing crashes.

ENTRIES = [Entry(f"{n:032x}", ({f"t{n}": "0"},)) for n in range(4)]


@pytest.fixture
def lines(tmp_path: Path) -> list[bytes]:
    with Journal(tmp_path, IDENTITY, []) as notes:
        for entry in ENTRIES:
            notes.add(entry)
    return (tmp_path / journal.NAME).read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b'{"file": "00',
        b"\0" * 4096,
        b"\0" * 100 + b"\n",
        b"\xff\xfe\n",
        b"[]\n",
        b'{"file": 3, "tensors": []}\n',
        b'{"file": "0", "tensors": [3]}\n',
    ],
)
@pytest.mark.parametrize("good", [0, 2, 4])
def test_it_is_read_up_to_the_damage(
    tmp_path: Path, lines: list[bytes], damage: bytes, good: int
) -> None:
    content = b"".join(lines[: 1 + good]) + damage + (b"".join(lines[2:]) if damage else b"")
    (tmp_path / journal.NAME).write_bytes(content)
    assert journal.read(tmp_path, IDENTITY, 1) == ENTRIES[:good]
    told = {0: None, 2: "2 finished blocks", 4: "4 finished blocks"}
    assert journal.progress(tmp_path) == told[good]


@pytest.mark.parametrize("first", [b"\0" * 64 + b"\n", b"", b"{\n", b"[]\n", b"\xff\n"])
def test_without_its_first_line_it_is_none(
    tmp_path: Path, lines: list[bytes], first: bytes
) -> None:
    (tmp_path / journal.NAME).write_bytes(first + b"".join(lines[1:]))
    assert journal.progress(tmp_path) is None
    assert journal.read(tmp_path, IDENTITY, 2) == []


@pytest.mark.parametrize(
    "line",
    [
        b'{"file": "aa", "tensors": [{"w": "11"}]}',
        b'{"file": "aa", "tensors": [{"w": 11}, {}]}',
        b'{"file": "aa", "tensors": [[], []]}',
        b'{"file": 1e999, "tensors": [{}, {}]}',
        b"[" * 200_000,
    ],
)
def test_an_entry_that_cannot_be_of_this_soup_ends_the_good_part(
    tmp_path: Path, line: bytes
) -> None:
    path = write(tmp_path, ONE)
    path.write_bytes(path.read_bytes() + line + b"\n")
    assert journal.read(tmp_path, IDENTITY, 2) == [ONE]
