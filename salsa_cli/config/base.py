"""What can be set: one frozen dataclass a command, here that of `soup` and what all share.

The command-line option, its help, the bounds check, the JSON record and the type all come from
the one line that declares a field here (`settings.py` does the translating).
"""

import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from salsa_cli.errors import UsageError

MEGABYTE = 10**6
GIGABYTE = 10**9

Device = Literal["auto", "cpu", "cuda"]
TRACKERS = ("tensorboard", "wandb", "trackio")


def size_text(count: float) -> str:
    """Bytes for a person: 256MB, 13.5GB."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.3g}{unit}"
    return f"{count:.0f}B"


@dataclass(frozen=True)
class Setting:
    """How one field meets a person.

    `low`/`high` are inclusive bounds, `above`/`below` exclusive ones; they hold for every item of a
    list. `size` fields are bytes and are written like `256MB`. A field that is not `recorded`
    says how to run, not what to compute, and stays out of the JSON record. `instead_of` names an
    optional field that says the same thing in another way.
    """

    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    positional: bool = False
    size: bool = False
    recorded: bool = True
    instead_of: str = ""
    panel: str = "Options"

    def bounds(self) -> str:
        """The range in words, empty where there is none."""
        show = size_text if self.size else "{:g}".format
        lower = f"from {show(self.low)}" if self.low is not None else ""
        if self.above is not None:
            lower = f"above {show(self.above)}"
        upper = f"to {show(self.high)}" if self.high is not None else ""
        if self.below is not None:
            upper = f"below {show(self.below)}"
        return f"{lower} {upper}".strip()

    def admits(self, value: float) -> bool:
        """Whether `value` lies within the bounds; NaN and infinities never do."""
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


@dataclass(frozen=True)
class Field:
    """One declared field of a configuration: name, bare type, `Setting`, default if it has one."""

    name: str
    type: Any
    setting: Setting
    default: Any = MISSING

    @property
    def option(self) -> str:
        """What the user types for it: `--max-length`, or the bare name of an argument."""
        if self.setting.positional:
            return self.name.upper()
        return next(
            (flag for flag in self.setting.flags if flag.startswith("--")),
            "--" + self.name.replace("_", "-"),
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """What all commands share; checks the bounds of every field when it is made."""

    output: Annotated[
        Path, Setting("Folder to write. It appears when it is complete.", flags=("-o", "--output"))
    ]
    force: Annotated[bool, Setting("Replace OUTPUT if it exists.", recorded=False, panel="Run")] = (
        False
    )

    def __post_init__(self) -> None:
        reasons = [
            text
            for field in declared(type(self))
            for text in out_of_bounds(field, getattr(self, field.name))
        ]
        if len(reasons) == 1:
            raise UsageError(reasons[0])
        if reasons:
            raise UsageError("\n  - ".join([f"{len(reasons)} things are wrong:", *reasons]))


def declared(config_type: type[Config]) -> tuple[Field, ...]:
    """The fields of a configuration class in their order, required ones first."""
    hints = get_type_hints(config_type, include_extras=True)
    found = []
    for field in fields(config_type):
        annotation = hints[field.name]
        (setting,) = (m for m in annotation.__metadata__ if isinstance(m, Setting))
        found.append(Field(field.name, annotation.__origin__, setting, field.default))
    return tuple(found)


def out_of_bounds(field: Field, value: object) -> Iterator[str]:
    """Why a number (or one of a tuple of numbers) is out of its range."""
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, int | float) and not field.setting.admits(number):
            shown = size_text(number) if field.setting.size else f"{number:g}"
            expected = f"a number {field.setting.bounds()}".rstrip()
            yield f"{field.option} is {shown}, which is out of range; expected {expected}"


@dataclass(frozen=True, kw_only=True)
class ParallelConfig(Config):
    """What the commands share that train: on how many processes, and how."""

    processes: Annotated[
        int,
        Setting(
            "Processes to start on this machine, one a GPU. They share the work of each batch; "
            "what is computed stays the same.",
            low=1,
            recorded=False,
            metavar="N",
            panel="Run",
        ),
    ] = 1
    shard: Annotated[
        bool,
        Setting(
            "Spread weights, gradients and moments of what learns over the processes (FSDP2).",
            recorded=False,
            panel="Run",
        ),
    ] = False
