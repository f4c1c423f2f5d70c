"""The help: what it shows, how wide it is."""

import re

import pytest

from salsa_cli.config.application import application
from salsa_cli.config.base import declared
from salsa_cli.config.commands import COMMANDS, Command
from salsa_cli.config.help import of_command
from salsa_cli.config.manners import Manners


def shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, *line: str
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    application(lambda *_: pytest.fail("it ran"))(line)
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda one: one.name)
@pytest.mark.parametrize("width", [80, 120, 200])
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
        assert re.search(rf"{re.escape(name)}[\s.,]", full), name
        if field.required:
            assert name in short
    assert max(map(len, f"{full}{short}".splitlines())) <= width
    assert len(re.findall("^│ --(?!help)", short, re.MULTILINE)) <= 15
    assert "--help-all" in short
    for example, _ in command.examples:
        assert f"\n   salsa {command.name} {example}\n" in short


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda one: one.name)
def test_a_default_or_a_bound_is_never_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    text = shown(capsys, monkeypatch, 80, command.name, "--help-all")
    page = of_command(command, declared(command.config_type()), full=True)
    entries = [entry.text for _, panel in page.panels for entry in panel]
    notes = [
        n for text in entries for ns in re.findall(r"\[([^][]*)\]$", text) for n in ns.split("; ")
    ]
    assert len(notes) >= 9
    assert [note for note in notes if note not in text] == []


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
    assert text.splitlines()[-10:-5] == [
        "│ --version, -V                  Print the version.                            │",
        "│ --install-completion  [SHELL]  Install completion for this shell, or for     │",
        "│                                bash, zsh or fish.                            │",
        "│ --show-completion     [SHELL]  Print the script of the completion.           │",
        "│ --help, -h                     Show this message and exit.                   │",
    ]
    assert text.index("--help, -h") > text.index("--show-completion")


def test_names_of_choices_are_folded_and_no_line_ends_in_blanks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 60 columns, `auto|float32|bfloat16|float16` would leave no room for what it does."""
    lines = shown(capsys, monkeypatch, 60, "soup", "--help-all").splitlines()
    (place,) = (number for number, line in enumerate(lines) if "--dtype" in line)
    assert "auto|" in lines[place] and "float32|" in lines[place + 1]
    assert [line for line in lines if line != line.rstrip()] == []


def test_the_help_is_coloured_on_request_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Services that run checks are no terminals, and their logs are plain unless asked."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert "\x1b" not in shown(capsys, monkeypatch, 100, "soup", "--help")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1;36m--alpha" in shown(capsys, monkeypatch, 100, "soup", "--help")
