"""The table of manners names tests that exist, and the habits that no other test looks at."""

import re
import tomllib
from pathlib import Path

import pytest

from salsa_cli.config.application import application
from salsa_cli.config.commands import COMMANDS, Command

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "salsa_cli"
ROWS = [
    tuple(cell.strip() for cell in line.strip("|").split(" | "))
    for line in (TESTS / "manners.md").read_text().splitlines()
    if re.match(r"\| \d", line)
]


def said(capsys: pytest.CaptureFixture[str], *line: str) -> str:
    """What the door prints itself, with one blank between words and no frames."""
    application(lambda *_: pytest.fail("it ran"))(line)
    return " ".join(re.sub("[─│╭╮╰╯]", " ", capsys.readouterr().out).split())


def test_the_table_has_45_rows_and_its_tests_exist() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 46))
    for number, _, _, answer, evidence in ROWS:
        assert answer in ("yes", "no"), number
        named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", evidence)
        assert bool(named) == (answer == "yes"), number
        for file, test in named:
            assert f"def {test}(" in (TESTS / file).read_text(), (number, test)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_h_is_help_and_a_bare_command_shows_it(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    text = said(capsys, *command, "--help")
    assert text.startswith("Usage: ") and said(capsys, *command, "-h") == text
    if not command:
        assert said(capsys) == text


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda one: one.name)
def test_help_has_groups_and_examples(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    application(lambda *_: pytest.fail("it ran"))([command.name, "--help-all"])
    text = capsys.readouterr().out
    assert len(re.findall("^╭─ ", text, re.MULTILINE)) >= 3
    assert command.examples
    assert all(f"salsa {command.name} {line}" in text for line, *_ in command.examples)


def test_only_these_modules_reach_the_network() -> None:
    """No telemetry and no update check: the hub, judges behind an API, a vLLM server."""
    clients = r"^\s*(?:import|from) (?:socket|http|httpx|requests|aiohttp|openai|huggingface_hub"
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "devices"  # processes of one run find one another by sockets
        and re.search(rf"{clients}|urllib\.request)\b", path.read_text(), re.MULTILINE)
    }
    assert found == {
        "evaluation/judges/api.py",
        "generation/vllm_http.py",
        "weights/folders.py",
        "weights/hub.py",
    }


def test_the_package_describes_itself() -> None:
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    assert project["readme"] == "README.md" and project["requires-python"] == ">=3.11"
    assert {"description", "keywords", "classifiers", "scripts"} <= project.keys()
