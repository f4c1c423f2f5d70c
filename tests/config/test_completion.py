"""Completion: what is offered, and the scripts of the shells."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

SALSA = "import sys; sys.argv[0] = 'salsa'; from salsa_cli.cli import main; main()"


def asked(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SALSA, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def offered(line: str) -> list[str]:
    """What the last word of a line, which may be empty, may become."""
    words = shlex.join(["salsa", *line.split()])
    number = str(len(line.split(" ")))
    return asked(_SALSA_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=number).split()


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
def test_what_is_offered(line: str, found: list[str]) -> None:
    assert offered(line) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_takes_the_script(shell: str) -> None:
    script = asked(_SALSA_COMPLETE=f"source_{shell}")
    assert "_SALSA_COMPLETE" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)
