"""The command line of a configuration, parsed again."""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pytest

from salsa_cli.config import sources
from salsa_cli.config.base import Config, Setting
from salsa_cli.config.command_line import command_line, resume_line
from salsa_cli.config.commands import COMMANDS
from salsa_cli.config.options import parse

TYPED = (
    "salsa soup 'sft a/' b -o out",
    "salsa soup a b --alpha 0.1 --memory 64MB --verify -o out",
    "salsa soup a b c --weights 0.5,0.25,0.25 --allow-different config.x -o out",
    "salsa train-rm sft --data prefs.jsonl --epochs 2 --learning-rate 1e-05 -o rm",
    "salsa ppo --ref 'soup(a/,b/,alpha=0.5)' --reward rm --reward rm2 --prompts p.jsonl "
    "--kl-coef 0.05 --no-eos replace --no-eos-value -1 --offload moments,ref -o policy",
    "salsa eval x=a,b 'y=c d' --prompts p.jsonl --judge rm:rm --judge python:f.py:g --line a b "
    "--points 5 --judge-temperature none -o results",
)


@dataclass(frozen=True, kw_only=True)
class _Switched(Config):
    """A command with a switch that is on by default."""

    fast: Annotated[bool, Setting("Quickly.")] = True


def test_a_switch_that_is_turned_off_has_its_opposite() -> None:
    assert command_line("x", _Switched(output=Path("o"))) == "salsa x -o o"
    assert command_line("x", _Switched(output=Path("o"), fast=False)) == "salsa x --no-fast -o o"


@pytest.mark.parametrize("typed", TYPED, ids=lambda typed: typed.split()[1])
def test_what_is_written_gives_the_same_configuration(typed: str) -> None:
    _, name, *arguments = shlex.split(typed)

    def configured(arguments: list[str]) -> Any:
        command = COMMANDS[name]
        return sources.configure(command, parse(command, arguments), arguments, {})

    config = configured(arguments)
    written = command_line(name, config)
    assert configured(shlex.split(written)[2:]) == config
    assert written.startswith(f"salsa {name} ") and written.endswith(f"-o {config.output}")


def test_only_what_differs_from_its_default_is_written() -> None:
    _, name, *arguments = shlex.split(TYPED[1])
    command = COMMANDS[name]
    config = sources.configure(
        command, parse(command, [*arguments, "--force", "--dry-run"]), [], {}
    )
    assert command_line(name, config) == (
        "salsa soup a b --alpha 0.1 --memory 64000000 --verify -o out"
    )
    assert command_line(name, config, str.upper) == (
        "salsa soup A B --ALPHA 0.1 --MEMORY 64000000 --VERIFY -O OUT"
    )


def test_a_run_resumes_with_what_no_file_may_change(tmp_path: Path) -> None:
    """A default that overrides salsa.toml, and settings that are not recorded, are written out."""
    _, name, *arguments = shlex.split(TYPED[3])
    command = COMMANDS[name]
    (tmp_path / "salsa.toml").write_text("[train-rm]\nepochs = 7\nprocesses = 2\n")
    given = [*arguments, "--force", "--epochs", "1"]

    def configured(arguments: list[str]) -> Any:
        return sources.configure(command, parse(command, arguments), arguments, {}, tmp_path)

    config = configured(given)
    line = resume_line(name, config, {})
    assert "--epochs 1" in line and "--processes 2" in line and "--force" not in line
    assert configured(shlex.split(line)[2:]) == replace(config, force=False, resume=True)
