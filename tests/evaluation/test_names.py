"""Names of models with slashes, in other case, and their files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.evaluation import names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=a.jsonl", ("x", "a.jsonl")),
        ("org/A=answers.jsonl", ("org/A", "answers.jsonl")),
        ("org/x=some/folder", ("org/x", "some/folder")),
        ("x=soup(a/,b/,alpha=0.5)", ("x", "soup(a/,b/,alpha=0.5)")),
        ("soup(a/,b/,alpha=0.5)", (None, "soup(a/,b/,alpha=0.5)")),
        ("some/folder", (None, "some/folder")),
        ("x=", (None, "x=")),
        ("=a", (None, "=a")),
    ],
)
def test_a_name_and_a_path(text: str, expected: tuple[str | None, str]) -> None:
    assert names.split(text) == expected


def test_a_path_that_exists_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alpha=0.5").mkdir()
    assert names.split("alpha=0.5") == (None, "alpha=0.5")
    assert names.split("x=alpha=0.5") == ("x", "alpha=0.5")


def test_files_of_names() -> None:
    found = names.file_names(["org/A", "org--A", "a", "A", "x-2", "x", "X", "/"])
    assert list(found.values()) == ["org--A", "org--A-2", "a", "A-2", "x-2", "x", "X-3", "--"]


@given(st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=8))
def test_every_name_has_a_file_of_its_own(given_names: list[str]) -> None:
    found = names.file_names(given_names)
    assert list(found) == given_names
    assert len({file.casefold() for file in found.values()}) == len(given_names)
    assert not any("/" in file for file in found.values())


def test_a_free_name() -> None:
    assert names.free_name("x", ["x"]) == "x-2"
    assert names.free_name("x", ["x", "x-2", "x-3"]) == "x-4"
