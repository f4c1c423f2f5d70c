"""The help: what it shows, how wide it is."""

import re

import pytest

from salsa_cli.config.base import declared
from salsa_cli.config.commands import COMMANDS, Command
from salsa_cli.config.manners import Manners
from salsa_cli.config.options import application


def shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, *line: str
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    application(lambda *_: pytest.fail("it ran"))(line)
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda one: one.name)
@pytest.mark.parametrize("width", [80, 120])
def test_everything_is_shown_and_fits(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: Command,
    width: int,
) -> None:
    full = shown(capsys, monkeypatch, width, command.name, "--help-all")
    short = shown(capsys, monkeypatch, width, command.name, "--help")
    for field in (*declared(command.config_type()), *declared(Manners)):
        name = field.metavar if field.setting.positional else field.option
        assert re.search(rf"{re.escape(name)}[\s.]", full), name
        if field.required:
            assert name in short
    assert max(map(len, f"{full}{short}".splitlines())) <= width
    assert len(re.findall("^│ --(?!help)", short, re.MULTILINE)) <= 15
    assert "--help-all" in short


def test_bounds_and_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown(capsys, monkeypatch, 200, "soup", "--help-all")
    flat = " ".join(text.replace("│", " ").split())
    assert "X Weight of B in (1 - alpha) A + alpha B, for two models. [0 <= X <= 1]" in flat
    assert "[X >= 8MB; default: 256MB]" in flat
    assert "FOLDER Folder for the result. It appears when it is complete. [required]" in flat
    assert "(SALSA_SOUP_ALPHA=...) or from the table [soup] of salsa.toml" in flat


def test_the_overview_names_all_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = shown(capsys, monkeypatch, 80)
    assert all(one.name in text and one.summary in text for one in COMMANDS.values())
