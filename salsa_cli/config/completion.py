"""Completion of commands, options and choices in bash, zsh and fish.

The shell calls `salsa --complete WORDS...` at each press of the tab key; where there is no answer
it completes file names.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from salsa_cli.config.base import Field, declared
from salsa_cli.config.command_line import Manners
from salsa_cli.config.commands import COMMANDS
from salsa_cli.errors import UsageError

ASK = "--complete"

_BASH = f"""\
_salsa_completion() {{
    local IFS=$'\\n'
    COMPREPLY=($(salsa {ASK} "${{COMP_WORDS[@]:1:COMP_CWORD}}" 2>/dev/null | cut -f1))
}}
complete -o default -F _salsa_completion salsa
"""

_ZSH = f"""\
#compdef salsa
(( $+functions[compdef] )) || {{ autoload -Uz compinit; compinit }}
_salsa_completion() {{
    local -a found
    found=("${{(@f)$(salsa {ASK} "${{(@)words[2,CURRENT]}}" 2>/dev/null | cut -f1)}}")
    if [[ -n "${{found[1]}}" ]]; then compadd -a found; else _files; fi
}}
compdef _salsa_completion salsa
"""

_FISH = f"""\
complete -c salsa -a '(salsa {ASK} (commandline -opc)[2..] (commandline -ct) 2>/dev/null)'
"""


@dataclass(frozen=True)
class Shell:
    """How a shell completes.

    Attributes:
        file: where its script goes, below the home folder.
        startup: the file that has to source it; None if the shell finds it there by itself.
    """

    script: str
    file: str
    startup: str | None


SHELLS: Mapping[str, Shell] = {
    "bash": Shell(_BASH, ".config/salsa/completion.bash", ".bashrc"),
    "zsh": Shell(_ZSH, ".config/salsa/completion.zsh", ".zshrc"),
    "fish": Shell(_FISH, ".config/fish/completions/salsa.fish", None),
}


@dataclass(frozen=True)
class Candidate:
    """What the word under the cursor may become, and a few words on it."""

    text: str
    description: str = ""


def find_shell(name: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The shell of that name, or by default the one that the user has.

    Raises:
        UsageError: it is none of those that are known.
    """
    found = Path(environment.get("SHELL", "")).name if name is None else name
    if found not in SHELLS:
        raise UsageError(f"completion for '{found}': expected one of {', '.join(SHELLS)}")
    return found


def install(name: str, home: Path) -> list[Path]:
    """Write the script of a shell, and a line that reads it at the shell's start.

    Returns:
        The files that were written.
    """
    shell = SHELLS[name]
    script = home / shell.file
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(shell.script, encoding="utf-8")
    if shell.startup is None:
        return [script]
    startup = home / shell.startup
    before = startup.read_text(encoding="utf-8") if startup.exists() else ""
    line = f"source '{script}'"
    if line in before.splitlines():
        return [script]
    gap = "" if before.endswith("\n") or not before else "\n"
    startup.write_text(f"{before}{gap}{line}\n", encoding="utf-8")
    return [script, startup]


def candidates(words: Sequence[str]) -> list[Candidate]:
    """What the last of the words may become; empty where a file name is expected.

    Args:
        words: those after `salsa` up to the cursor. bash splits `--dtype=x` at the sign.
    """
    *before, last = [word for word in words if word != "="] or [""]
    if not before:
        return [
            Candidate(name, command.summary)
            for name, command in COMMANDS.items()
            if name.startswith(last)
        ]
    if before[0] not in COMMANDS:
        return []
    fields = (*declared(COMMANDS[before[0]].config_type()), *declared(Manners))
    flags = {flag: field for field in fields for flag in field.flags}
    asked = flags.get(before[-1])
    if asked is not None and not asked.is_flag:
        return list(_values(asked, last))
    name, given, value = last.partition("=")
    if given and name in flags:
        return [Candidate(f"{name}={one.text}") for one in _values(flags[name], value)]
    return list(_flags(fields, last)) if last.startswith("-") else []


def _values(field: Field, begun: str) -> Iterator[Candidate]:
    """Values that go on from what was begun; behind a comma, the next one of a list."""
    done, comma, last = begun.rpartition(",") if field.is_list else ("", "", begun)
    for one in field.choices or field.setting.values:
        if one.startswith(last) and one not in done.split(","):
            yield Candidate(f"{done}{comma}{one}")


def _flags(fields: Sequence[Field], begun: str) -> Iterator[Candidate]:
    negated = begun.startswith("--no-")
    for field in fields:
        if field.setting.positional:
            continue
        shown = field.setting.help.partition(". ")[0].rstrip(".")
        if field.option.startswith(begun):
            yield Candidate(field.option, shown)
        negative = f"--no-{field.option[2:]}"
        if negated and field.is_flag and negative.startswith(begun):
            yield Candidate(negative, f"Not: {shown}")
