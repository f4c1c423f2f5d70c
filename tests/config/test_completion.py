"""Completion: what is offered, and the scripts of the shells."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import salsa_cli
from salsa_cli.config.application import application
from salsa_cli.errors import UsageError
from tests.support import terminals


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        application(lambda *_: pytest.fail("it ran"))(arguments)
    assert not end.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", ["soup", "train-rm", "ppo", "eval"]),
        ("p", ["ppo"]),
        ("ppo --kl-c", ["--kl-coef"]),
        ("ppo --no-res", ["--no-resume"]),
        ("ppo --penalty ", ["kl", "chi2", "mean-kl"]),
        ("ppo --device c", ["cpu", "cuda"]),
        ("ppo --track tensorboard,w", ["tensorboard,wandb"]),
        ("eval --prompts mt", ["mt-bench"]),
        ("ppo --ref ", []),  # a file
        ("soup a", []),
    ],
)
def test_what_is_offered(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    found: list[str],
) -> None:
    """What the last word of a line, which may be empty, may become."""
    monkeypatch.setenv("_SALSA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", shlex.join(["salsa", *line.split()]))
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" "))))
    assert asked(capsys).split() == found


LINES = {
    "salsa ppo --kl-c": "--kl-coef",
    "salsa ppo --penalty ch": "chi2",
    "salsa ppo --prompts st": "stories.jsonl",
    "salsa tr": "train-rm",
}
"""What Tab makes of the last word of each line, in a folder with the file `stories.jsonl`."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a user who has `salsa` in their path."""
    program = tmp_path / "bin" / "salsa"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom salsa_cli.cli import main\nmain()\n")
    program.chmod(0o755)
    (tmp_path / "stories.jsonl").touch()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(salsa_cli.__file__).parents[1]))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("shell", "command", "begin"),
    [
        ("bash", ["bash", "--norc", "-i"], ""),
        ("zsh", ["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -u; "),
    ],
)
def test_tab_in_a_real_shell(
    home: Path, capsys: pytest.CaptureFixture[str], shell: str, command: list[str], begin: str
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (home / "script").write_text(asked(capsys, "--show-completion", shell))
    # After Tab, Ctrl-A: the line is printed instead of being run.
    keys = "".join(f"{line}\t\x01echo got: \n" for line in LINES)
    shown = terminals.shown(command, f"{begin}source ./script\n{keys}exit\n")
    found = re.findall(r"^got: (.*?)\s*$", shown.replace("\r", ""), re.MULTILINE)
    assert [line.split()[-1] for line in found] == list(LINES.values())


def test_tab_in_fish(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    (home / "script").write_text(asked(capsys, "--show-completion", "fish"))
    script = "".join(f"complete -C '{line}'; " for line in LINES)
    done = subprocess.run(
        ["fish", "-c", f"source ./script; {script}"], capture_output=True, text=True, check=True
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == list(LINES.values())


def test_completion_is_installed_for_the_shell_that_is_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "installed in" in asked(capsys, "--install-completion", "zsh")
    assert "#compdef salsa" in (home / ".zfunc" / "_salsa").read_text()
    assert "compinit" in (home / ".zshrc").read_text()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--show-completion", "fsh"], "no completion for 'fsh' (did you mean fish?); expected ba"),
        (["--install-completion", "zsh", "now"], "unexpected argument 'now'"),
    ],
)
def test_a_shell_that_is_not_known(line: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        application(lambda *_: pytest.fail("it ran"))(line)
    assert words in str(caught.value)
