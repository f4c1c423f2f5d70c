"""Events of a running command, and where they go: a terminal, a log, a file of metrics.

A command emits events and does not know who receives them. They go to stderr or to files; stdout
is for the result.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from salsa_cli.config.record import DEFAULT
from salsa_cli.errors import os_errors
from salsa_cli.formatting import amount, duration
from salsa_cli.records import to_json

Value = float | int | str | bool | None


@dataclass(frozen=True)
class Note:
    """A line of information."""

    text: str


@dataclass(frozen=True)
class Warned:
    """Something that is probably unintended, and what to do about it."""

    text: str


@dataclass(frozen=True)
class Advanced:
    """`done` of `total` units of a stage are finished; `figures` are its live numbers."""

    stage: str
    done: int
    total: int
    unit: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Working:
    """What is being done at this moment, and how much of it is done, if that can be counted."""

    step: str
    done: int = 0
    total: int = 0
    unit: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Measured:
    """One row of metrics."""

    values: Mapping[str, object]


@dataclass(frozen=True)
class Said:
    """A prompt and a model's answer to it, as an example."""

    prompt: str
    answer: str


Event = Note | Warned | Advanced | Working | Measured | Said
Report = Callable[[Event], None]


@dataclass(frozen=True)
class Table:
    """Rows for a person; the first `names` columns are left-aligned, the numbers right-aligned."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1


class Result(Protocol):
    """What a command returns."""

    def record(self) -> Mapping[str, object]:
        """The object that `--json` prints."""
        ...

    def summary(self) -> tuple[str, Table | None]:
        """The same for a person: lines of text, and a table to print above them."""
        ...


@runtime_checkable
class Tabular(Protocol):
    """A result with several tables; `--markdown` prints all of them."""

    def tables(self) -> Sequence[tuple[str, Table]]:
        """The tables with their titles, the most important first."""
        ...


@dataclass(frozen=True)
class GateFailed:
    """A complete result that does not pass the gate of the user; the command exits with 3."""

    result: Result
    reason: str

    def record(self) -> Mapping[str, object]:
        """The object that `--json` prints."""
        return self.result.record()

    def summary(self) -> tuple[str, Table | None]:
        """The same for a person."""
        return self.result.summary()


@dataclass(frozen=True)
class DryRun:
    """What a command would do, as facts by name; the result of `--dry-run`.

    `table` is printed above the facts; `details` are added to the object of `--json`. `settings`
    are keys, values and origins; a person sees those that are not defaults.
    """

    facts: Mapping[str, Value]
    table: Table | None = None
    details: Mapping[str, object] = field(default_factory=dict)
    settings: Sequence[tuple[str, object, str]] = ()

    def record(self) -> Mapping[str, object]:
        """The object that `--json` prints."""
        facts = {_key(name): value for name, value in self.facts.items()}
        settings = {key: {"value": value, "origin": source} for key, value, source in self.settings}
        more = {"settings": settings} if settings else {}
        return {"dry_run": True, **facts, **self.details, **more}

    def summary(self) -> tuple[str, Table | None]:
        """One fact a line."""
        lines = [f"{_label(name)}: {_with_unit(name, value)}" for name, value in self.facts.items()]
        given = [one for one in self.settings if one[2] != DEFAULT]
        lines += ["settings that are not defaults:"] if given else []
        lines += [f"  {key} = {to_json(value)}  # {source}" for key, value, source in given]
        return "\n".join(lines), self.table


def silent(event: Event) -> None:
    """Ignores every event."""


def both(first: Report, second: Report) -> Report:
    """A report that sends every event to two others."""

    def send(event: Event) -> None:
        first(event)
        second(event)

    return send


def metrics_file(path: Path) -> Report:
    """Append every `Measured` row to a JSON Lines file, each line whole and flushed."""

    def write(event: Event) -> None:
        if isinstance(event, Measured):
            with os_errors(path, "write"), path.open("a", encoding="utf-8") as file:
                file.write(to_json(event.values) + "\n")

    return write


def _label(name: str) -> str:
    """The name of a fact for a person, whose value tells its unit."""
    if name == "seconds about":
        return "time, about"
    return re.sub("^bytes (of )?", "", name)


def _with_unit(name: str, value: Value) -> str:
    """A fact for a person: bytes as 13.5GB, seconds as 2 min 5 s."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if "bytes" in name:
        return amount(value, "B")
    if name.startswith("seconds"):
        return duration(value) if value >= 1 else "less than a second"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _key(name: str) -> str:
    return name.replace(",", "").replace("-", "_").replace(" ", "_")
