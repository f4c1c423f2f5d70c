"""What can be set: one frozen dataclass per command; here is what they share.

The command-line option, its help and bounds, the environment variable, the key in files and
records, the type, and whether a resumed run may change it all come from the declaration of the
field. `options.py` and `files.py` read the values, `sources.py` decides which one counts,
`comparison.py` compares the settings of two runs.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from salsa_cli.errors import UsageError
from salsa_cli.formatting import amount

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
        essential: whether `--help` shows the option; `--help-all` shows all of them.
        names: what the value names, if that must exist before anything is loaded.
        values: the names that it takes, if only some texts are names.
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
    essential: bool = False
    names: Literal[
        "", "model", "arm", "reference", "reward", "judge", "data", "prompts", "answers"
    ] = ""
    values: tuple[str, ...] = ()
    instead_of: str = ""
    panel: str = "Options"
    place: int = 0

    def __post_init__(self) -> None:
        assert self.recorded or not self.changes_result, "nothing to compare with later"

    def bounds(self, name: str) -> str:
        """The range as a formula, `0 < X <= 1`; empty if there is none."""
        show = _bytes if self.size else "{:g}".format
        least = self.above if self.above is not None else self.low
        most = self.below if self.below is not None else self.high
        if least is None and most is None:
            return ""
        if most is None:
            return f"{name} {'>' if self.above is not None else '>='} {show(float(least or 0))}"
        upper = f"{name} {'<' if self.below is not None else '<='} {show(most)}"
        if least is None:
            return upper
        return f"{show(least)} {'<' if self.above is not None else '<='} {upper}"

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
        """How it is given on the command line: `--max-length`, or the name of an argument."""
        if self.setting.positional:
            return self.name.upper()
        return next(
            (flag for flag in self.setting.flags if flag.startswith("--")),
            "--" + self.name.replace("_", "-"),
        )

    @property
    def flags(self) -> tuple[str, ...]:
        """All spellings of the option, short ones first; none for an argument."""
        return () if self.setting.positional else self.setting.flags or (self.option,)

    @property
    def key(self) -> str:
        """Its name in files and records: that of the option, `max_length`."""
        return self.name if self.setting.positional else self.option[2:].replace("-", "_")

    @property
    def keys(self) -> frozenset[str]:
        """The names that files may use; records of older versions have the field's own."""
        return frozenset({self.key, self.name})

    def variable(self, command: str) -> str:
        """The environment variable that sets it: `SALSA_TRAIN_RM_MAX_LENGTH`."""
        return f"{prefix(command)}{self.key.upper()}"

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is MISSING

    @property
    def optional(self) -> bool:
        """Whether it may be None."""
        return type(None) in get_args(self.type)

    @property
    def _kind(self) -> Any:
        """The type without None, and without words in place of a number."""
        kinds = [kind for kind in get_args(self.type) if kind is not type(None)]
        if self.words:
            return next(kind for kind in kinds if get_origin(kind) is not Literal)
        return kinds[0] if self.optional else self.type

    @property
    def words(self) -> tuple[str, ...]:
        """The words that may stand in place of a number: `none` in `float | Literal["none"]`."""
        parts = [part for part in get_args(self.type) if part is not type(None)]
        named = [part for part in parts if get_origin(part) is Literal]
        return tuple(word for part in named for word in get_args(part)) if named != parts else ()

    @property
    def is_list(self) -> bool:
        """Whether it has several values."""
        return get_origin(self._kind) is tuple

    @property
    def length(self) -> int | None:
        """The number of values of a list; None if there may be any number."""
        parts = get_args(self._kind)
        return len(parts) if self.is_list and Ellipsis not in parts else None

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that are allowed, if these are a few names."""
        return get_args(self._kind) if get_origin(self._kind) is Literal else ()

    @property
    def item(self) -> type:
        """The type of the value, or of the items of a list."""
        found: type = get_args(self._kind)[0] if self.is_list else self._kind
        return found

    @property
    def is_flag(self) -> bool:
        """Whether it is switched on by `--NAME` and off by `--no-NAME`."""
        return self._kind is bool

    @property
    def opposite(self) -> str:
        """The option that switches a flag off."""
        return f"--no-{self.option[2:]}"

    @property
    def metavar(self) -> str:
        """The placeholder of its value in the help."""
        if self.choices:
            return "|".join(self.choices)
        if self.setting.metavar is not None:
            return self.setting.metavar
        names = {int: "N", float: "X", Path: "FOLDER"}
        return "SIZE" if self.setting.size else names.get(self.item, "TEXT")

    @property
    def expected(self) -> str:
        """What a value has to be, for errors."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.is_flag:
            return "true or false"
        kinds = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
        what = "a size" if self.setting.size else kinds[self.item]
        bounds = self.setting.bounds(self.setting.metavar or "X")
        what = f"{what}, {bounds}" if bounds else what
        return f"{what}, or {', '.join(self.words)}" if self.words else what


def prefix(command: str) -> str:
    """What the environment variables of a command begin with: `SALSA_TRAIN_RM_`."""
    return f"SALSA_{command.replace('-', '_').upper()}_"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What all commands share; checks the type and the bounds of every field when it is made.

    Python code may give a text for a path, a path for a name, and a list or a single value for a
    tuple.
    """

    output: Annotated[
        Path,
        Setting(
            "Folder for the result. It appears when it is complete.",
            flags=("-o", "--output"),
            changes_result=False,
        ),
    ]
    force: Annotated[
        bool,
        Setting(
            "Replace OUTPUT if it exists, or start again if a run was stopped.",
            recorded=False,
            changes_result=False,
            panel="Run",
        ),
    ] = False

    origins: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Where the values come from, by field; what is not in it has its default."""

    ignored: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Notes about settings of files and the environment that are ignored, as `idle` says."""

    @classmethod
    def idle(cls, values: Mapping[str, object]) -> tuple[frozenset[str], str]:
        """Fields that have no effect with other `values`, and with which.

        On the command line such an option is an error. A file or the environment may set it for
        other runs of the same folder, so there it is ignored, with a note.
        """
        return frozenset(), ""

    def __post_init__(self) -> None:
        reasons = []
        for one in declared(type(self)):
            try:
                value = accepted(one, getattr(self, one.name))
            except UsageError as error:
                reasons.append(str(error))
            else:
                object.__setattr__(self, one.name, value)
                reasons += out_of_bounds(one, value)
        if len(reasons) == 1:
            raise UsageError(reasons[0])
        if reasons:
            raise UsageError("\n  - ".join([f"{len(reasons)} settings are wrong:", *reasons]))


def declared(config_type: type) -> tuple[Field, ...]:
    """The fields of a configuration class in the order of help and record."""
    hints = get_type_hints(config_type, include_extras=True)
    found = []
    for one in fields(config_type):
        if one.name in ("origins", "ignored"):
            continue
        annotation = hints[one.name]
        (setting,) = (m for m in annotation.__metadata__ if isinstance(m, Setting))
        found.append(Field(one.name, annotation.__origin__, setting, one.default))
    return tuple(sorted(found, key=lambda one: one.setting.place))


def accepted(field: Field, value: object) -> object:
    """A value from Python code as the field declares it.

    A text for a list is one item, and never one item a letter.

    Raises:
        UsageError: it has another type, or is none of the choices.
    """
    if value is None and field.optional:
        return None
    if not field.is_list:
        return _accepted_one(field, value)
    items = tuple(value) if isinstance(value, list | tuple) else (value,)
    if field.length is not None and len(items) != field.length:
        raise UsageError(f"{field.option} has {len(items)} values; expected {field.length}")
    return tuple(_accepted_one(field, item) for item in items)


def _accepted_one(field: Field, value: object) -> object:
    if value in (*field.words, *field.choices):
        return value
    fits = not field.choices and isinstance(value, _KINDS[field.item])
    if not fits or isinstance(value, bool) != field.is_flag:  # a bool is an int, too
        raise UsageError(f"{field.option} is {value!r}; expected {field.expected}")
    return value if isinstance(value, int | float) else field.item(value)


_KINDS: dict[type, tuple[type, ...]] = {
    str: (str, PathLike),
    Path: (str, PathLike),
    bool: (bool,),
    int: (Integral,),
    float: (Real,),
}
"""What may be given for a field, by its type; NumPy's numbers are among the abstract ones."""


def out_of_bounds(field: Field, value: object) -> Iterator[str]:
    """Why a number (or one of a tuple of numbers) is out of its range."""
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, int | float) and not field.setting.admits(number):
            shown = _bytes(number) if field.setting.size else f"{number:g}"
            yield f"{field.option} is {shown}, which is out of range; expected {field.expected}"


def _bytes(count: float) -> str:
    return amount(count, "B")


@dataclass(frozen=True, kw_only=True)
class ResultModelConfig(Config):
    """Settings of the commands whose result is a model: `soup`, `train-rm` and `ppo`."""

    push_to_hub: Annotated[
        str | None,
        Setting(
            "Upload the finished model with its tokenizer and card to this repository of the "
            "Hugging Face hub. A new one is private.",
            metavar="ORG/NAME",
            recorded=False,
            changes_result=False,
            panel="Run",
            place=1,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """Settings of the commands that run models: `train-rm`, `ppo` and `eval`."""

    seed: Annotated[
        int,
        Setting(
            "Random seed.",
            low=0,
            metavar="N",
            panel="Run",
            place=2,
        ),
    ] = 0
    device: Annotated[
        Device,
        Setting(
            "Device to compute on; auto: a CUDA GPU if there is one, else the CPU (Apple's MPS is "
            "not used).",
            panel="Run",
            place=2,
            essential=True,
        ),
    ] = "auto"
    resume: Annotated[
        bool,
        Setting(
            "Continue a run that was stopped. A complete run returns its result.",
            recorded=False,
            changes_result=False,
            panel="Run",
            place=2,
            essential=True,
        ),
    ] = False
    dry_run: Annotated[
        bool,
        Setting(
            "Check all inputs, and print what would be done and what it would take.",
            recorded=False,
            changes_result=False,
            panel="Run",
            place=2,
            essential=True,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ModelConfig, ResultModelConfig):
    """Settings of the commands that train: `train-rm` and `ppo`."""

    processes: Annotated[
        int,
        Setting(
            "Number of processes to start on this machine, usually one per GPU. They share "
            "the work of each batch; the result is the same up to rounding.",
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
            "Shard weights, gradients and optimiser state of the trained models over the "
            "processes (FSDP2).",
            recorded=False,
            changes_result=False,
            panel="Run",
        ),
    ] = False
    track: Annotated[
        tuple[str, ...],
        Setting(
            f"Log the metrics to {', '.join(TRACKERS)}.",
            values=TRACKERS,
            changes_result=False,
            metavar="TRACKER",
            panel="Run",
            place=1,
        ),
    ] = ()
    run_name: Annotated[
        str | None,
        Setting(
            "Name of the run in the trackers. Default: WANDB_NAME for wandb, else that of OUTPUT.",
            changes_result=False,
            metavar="NAME",
            panel="Run",
            place=1,
        ),
    ] = None

    def tracking_reasons(self) -> Iterator[str]:
        """Reasons against the settings of trackers: unknown ones, a name that nobody gets."""
        for name in self.track:
            if name not in TRACKERS:
                yield f"--track {name}: expected one of {', '.join(TRACKERS)}"
        if self.run_name is not None and not self.track:
            yield "--run-name has no effect without --track"
