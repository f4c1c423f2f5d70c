"""What can be set: one frozen dataclass per command; here is what they share.

The command-line option, its help, its bounds, the JSON record, the type and whether a resumed run
may change it all come from the declaration of the field. `options.py` does the translation,
`comparison.py` compares the settings of two runs.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from salsa_cli.errors import UsageError
from salsa_cli.text import amount

MEGABYTE = 10**6

Device = Literal["auto", "cpu", "cuda"]
TRACKERS = ("tensorboard", "wandb", "trackio")


@dataclass(frozen=True)
class Setting:
    """How a field is set, checked and compared.

    Attributes:
        low: smallest value allowed; for a list, the bounds apply to every item.
        high: largest value allowed.
        above: the value must be greater than this.
        below: the value must be less than this.
        size: the value is a number of bytes, written like `256MB`.
        recorded: whether the value is part of the JSON record. What is not recorded (`--force`,
            `--processes`) cannot change the result.
        changes_result: whether another value may give other files or figures. `--resume` refuses
            to continue or to return a run if such a setting differs, and ignores all others.
        chosen: if it is left at None, the run chooses a value and records it; a resumed run that
            leaves it at None, too, uses the recorded one.
        instead_of: an optional field that says the same thing in another way.
        place: position among the options of its panel; settings that several commands share come
            last.
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
    changes_result: bool = True
    chosen: bool = False
    instead_of: str = ""
    panel: str = "Options"
    place: int = 0

    def __post_init__(self) -> None:
        assert self.recorded or not self.changes_result, "nothing to compare with later"

    def bounds(self) -> str:
        """The range in words; empty if there is none."""
        show = _bytes if self.size else "{:g}".format
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
    """A declared field of a configuration: name, bare type, `Setting` and default, if any."""

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
        Path,
        Setting(
            "Folder to write. It appears when it is complete.",
            flags=("-o", "--output"),
            changes_result=False,
        ),
    ]
    force: Annotated[
        bool,
        Setting("Replace OUTPUT if it exists.", recorded=False, changes_result=False, panel="Run"),
    ] = False

    SAYS: ClassVar[Mapping[str, str]] = {}
    """Help texts of a command for settings that it shares with others."""

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
    """The fields of a configuration class in the order of help and record."""
    hints = get_type_hints(config_type, include_extras=True)
    found = []
    for field in fields(config_type):
        annotation = hints[field.name]
        (setting,) = (m for m in annotation.__metadata__ if isinstance(m, Setting))
        if field.name in config_type.SAYS:
            setting = replace(setting, help=config_type.SAYS[field.name])
        found.append(Field(field.name, annotation.__origin__, setting, field.default))
    return tuple(sorted(found, key=lambda one: one.setting.place))


def out_of_bounds(field: Field, value: object) -> Iterator[str]:
    """Why a number (or one of a tuple of numbers) is out of its range."""
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, int | float) and not field.setting.admits(number):
            shown = _bytes(number) if field.setting.size else f"{number:g}"
            expected = f"a number {field.setting.bounds()}".rstrip()
            yield f"{field.option} is {shown}, which is out of range; expected {expected}"


def _bytes(count: float) -> str:
    return amount(count, "B")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """Settings of the commands that run models: `train-rm`, `ppo` and `eval`."""

    seed: Annotated[int, Setting("Seed.", low=0, metavar="N", panel="Run", place=2)] = 0
    device: Annotated[Device, Setting("Where to compute.", panel="Run", place=2)] = "auto"
    resume: Annotated[
        bool,
        Setting(
            "Continue a run that was stopped.",
            recorded=False,
            changes_result=False,
            panel="Run",
            place=2,
        ),
    ] = False
    dry_run: Annotated[
        bool,
        Setting(
            "Check the inputs and say what would be done.",
            recorded=False,
            changes_result=False,
            panel="Run",
            place=2,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ModelConfig):
    """Settings of the commands that train: `train-rm` and `ppo`."""

    processes: Annotated[
        int,
        Setting(
            "Processes to start on this machine, one a GPU. They share the work of each batch; "
            "what is computed stays the same.",
            low=1,
            recorded=False,
            changes_result=False,
            metavar="N",
            panel="Run",
        ),
    ] = 1
    shard: Annotated[
        bool,
        Setting(
            "Spread weights, gradients and moments of what learns over the processes (FSDP2).",
            recorded=False,
            changes_result=False,
            panel="Run",
        ),
    ] = False
    track: Annotated[
        tuple[str, ...],
        Setting(
            f"Send the metrics to {', '.join(TRACKERS)}. Repeatable.",
            changes_result=False,
            metavar="TRACKER",
            panel="Run",
            place=1,
        ),
    ] = ()
