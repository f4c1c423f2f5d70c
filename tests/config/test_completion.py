"""Completion: what is offered, and that a shell that is set up offers it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from salsa_cli.config import completion
from salsa_cli.errors import UsageError


def offered(line: str) -> list[str]:
    """What stands for the last word of a line, which may be empty."""
    return [one.text for one in completion.candidates(line.split(" "))]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", ["soup", "train-rm", "ppo", "eval"]),
        ("p", ["ppo"]),
        ("ppo --kl-c", ["--kl-coef"]),
        ("ppo --ref a --warm", ["--warmup"]),
        ("ppo --no-res", ["--no-resume"]),
        ("ppo --penalty ", ["kl", "chi2", "mean-kl"]),
        ("ppo --penalty=m", ["--penalty=mean-kl"]),
        ("ppo --penalty = m", ["mean-kl"]),  # as bash splits it
        ("ppo --device c", ["cpu", "cuda"]),
        ("ppo --stop-on miss", ["missing-end"]),
        ("ppo --track tensorboard,w", ["tensorboard,wandb"]),
        ("ppo --resume --kl-c", ["--kl-coef"]),
        ("eval --prompts mt", ["mt-bench"]),
        ("ppo --ref ", []),  # a file
        ("soup a", []),
        ("nothing --x", []),
    ],
)
def test_what_is_offered(line: str, found: list[str]) -> None:
    assert offered(line) == found


def test_options_come_with_a_description() -> None:
    (found,) = completion.candidates(["ppo", "--updat"])
    assert found == completion.Candidate("--updates", "Number of PPO updates")


def test_the_shell_is_that_of_the_user() -> None:
    assert completion.find_shell(None, {"SHELL": "/usr/bin/zsh"}) == "zsh"
    assert completion.find_shell("fish", {"SHELL": "/usr/bin/zsh"}) == "fish"
    with pytest.raises(UsageError, match="'tcsh': expected one of bash, zsh, fish"):
        completion.find_shell(None, {"SHELL": "/bin/tcsh"})


def test_installing_twice_changes_the_startup_file_once(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("alias x=y")
    script = tmp_path / ".config" / "salsa" / "completion.bash"
    assert completion.install("bash", tmp_path) == [script, tmp_path / ".bashrc"]
    assert completion.install("bash", tmp_path) == [script]
    assert (tmp_path / ".bashrc").read_text() == f"alias x=y\nsource '{script}'\n"
    assert completion.install("fish", tmp_path)[0].parent.name == "completions"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_takes_the_script(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "salsa").write_text(f'#!/bin/sh\nexec {sys.executable} -m salsa_cli "$@"\n')
    (tmp_path / "salsa").chmod(0o755)
    (script, *_) = completion.install(shell, tmp_path)
    if shell != "bash":
        subprocess.run([shell, "-n", script], check=True)
        return
    ask = (
        f"PATH={tmp_path}:$PATH; source {script}; COMP_WORDS=(salsa ppo --kl-c); COMP_CWORD=2; "
        "_salsa_completion; echo ${COMPREPLY[@]}; complete -p salsa"
    )
    done = subprocess.run([shell, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("--kl-coef\ncomplete -o default")
