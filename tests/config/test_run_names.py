"""Arguments of `salsa eval`: names, lists of runs, points and patterns."""

from pathlib import Path

import pytest

from salsa_cli.config import run_names
from salsa_cli.config.run_names import ArmName, RunName
from salsa_cli.errors import UsageError


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
    assert run_names.split(text) == expected


def test_a_path_that_exists_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alpha=0.5").mkdir()
    assert run_names.split("alpha=0.5") == (None, "alpha=0.5")
    assert run_names.split("x=alpha=0.5") == ("x", "alpha=0.5")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("s1", "s2", "s10", "p@20", "odd,name", "x[1]"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "s3.log").write_text("no folder")
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("text", "name", "runs"),
    [
        ("runs/s1", None, [("runs/s1", None)]),
        ("x=runs/s1,runs/s2", "x", [("runs/s1", None), ("runs/s2", None)]),
        ("x=runs/s1, runs/s2", "x", [("runs/s1", None), ("runs/s2", None)]),
        ("x=runs/s1@20,runs/s1@40", "x", [("runs/s1", "20"), ("runs/s1", "40")]),
        ("runs/s1@best", None, [("runs/s1", "best")]),
        ("runs/p@20", None, [("runs/p@20", None)]),  # a folder of this name exists
        ("runs/p@20@all", None, [("runs/p@20", "all")]),
        ("x=runs/s*", "x", [("runs/s1", None), ("runs/s2", None), ("runs/s10", None)]),
        ("x=runs/s?@all", "x", [("runs/s1", "all"), ("runs/s2", "all")]),
        ("x=runs/odd,name", "x", [("runs/odd,name", None)]),
        ("runs/x[1]", None, [("runs/x[1]", None)]),
        ("org/model", None, [("org/model", None)]),
        ("org/model@main", None, [("org/model@main", None)]),  # no point: left to the hub
        ("x=soup(a/,b/,alpha=0.5)", "x", [("soup(a/,b/,alpha=0.5)", None)]),
    ],
)
def test_arms(text: str, name: str | None, runs: list[tuple[str, str | None]]) -> None:
    assert run_names.parse(text) == ArmName(name, tuple(RunName(*run) for run in runs))


def test_an_absolute_pattern(here: Path) -> None:
    found = run_names.parse(f"x={here}/runs/s[12]")
    assert [run.source for run in found.runs] == [f"{here}/runs/s1", f"{here}/runs/s2"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("text", "words"),
    [("x=runs/z*", "matches no folder"), ("x=runs/s1,,runs/s2", "an item of this list is empty")],
)
def test_lists_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run_names.parse(text)
