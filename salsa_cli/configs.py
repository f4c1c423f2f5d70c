"""What can be set: one frozen dataclass a command.

The command-line option, its help, the bounds check, the JSON record and the type all come from
the one line that declares a field here (`settings.py` does the translating).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from salsa_cli.errors import UsageError

MEGABYTE = 10**6
GIGABYTE = 10**9

Device = Literal["auto", "cpu", "cuda"]
WeightDtype = Literal["auto", "float32", "bfloat16", "float16"]


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
    """One declared field of a configuration: its name, its bare type and its `Setting`."""

    name: str
    type: Any
    setting: Setting

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
        found.append(Field(field.name, annotation.__origin__, setting))
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
class SoupConfig(Config):
    """`salsa soup`."""

    models: Annotated[
        tuple[str, ...],
        Setting(
            "Two or more models, or LoRA adapters, of one base: folders or hub ids.",
            positional=True,
            metavar="A B [C ...]",
        ),
    ]
    alpha: Annotated[
        float | None,
        Setting(
            "Share of B in (1 - alpha) A + alpha B. For two models.",
            low=0,
            high=1,
            metavar="X",
            instead_of="weights",
        ),
    ] = None
    weights: Annotated[
        tuple[float, ...] | None,
        Setting(
            "One weight a model, summing to 1. Equal weights by default.",
            metavar="X,Y,...",
            instead_of="alpha",
        ),
    ] = None
    normalize: Annotated[bool, Setting("Scale --weights so that they sum to 1.")] = False
    allow_nonfinite: Annotated[
        bool, Setting("Average values that are NaN or Inf instead of refusing them.")
    ] = False
    memory: Annotated[
        int, Setting("Memory for the pieces in flight.", size=True, low=8 * MEGABYTE)
    ] = 256 * MEGABYTE
    dtype: Annotated[
        WeightDtype,
        Setting(
            "Type of the result's floating-point tensors; auto keeps A's. With one given, "
            "integers that differ are averaged and rounded too."
        ),
    ] = "auto"
    max_shard_size: Annotated[
        int | None,
        Setting(
            "Largest safetensors file to write. By default files as A has them.",
            size=True,
            low=MEGABYTE,
        ),
    ] = None
    tokenizer: Annotated[
        str | None,
        Setting("Model whose tokenizer the result gets; A by default.", metavar="MODEL"),
    ] = None
    merge_into: Annotated[
        str | None,
        Setting(
            "For LoRA adapters: write this base model with their soup merged into it.",
            metavar="BASE",
        ),
    ] = None
    verify: Annotated[
        bool, Setting("Read the result back and check every value against a recomputation.")
    ] = False
    resume: Annotated[
        bool,
        Setting(
            "Continue a soup that was killed. Begins anew if there is none.",
            recorded=False,
            panel="Run",
        ),
    ] = False
    dry_run: Annotated[
        bool,
        Setting("Check the inputs and say what would be written; write nothing.", recorded=False),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(self.models)
        if count < 2:
            raise UsageError(f"a soup needs two models or more; found {count}")
        if self.alpha is not None and self.weights is not None:
            raise UsageError("--alpha and --weights say the same thing; give one of them")
        if self.alpha is not None and count != 2:
            raise UsageError(f"--alpha mixes two models; found {count}. Use --weights for more")
        if self.weights is not None and len(self.weights) != count:
            raise UsageError(f"--weights has {len(self.weights)} numbers for {count} models")
        if not all(map(math.isfinite, (*(self.weights or ()), sum(self.weights or ())))):
            raise UsageError("--weights must be finite numbers, and so must their sum")
        if self.normalize and (self.weights is None or not sum(self.weights)):
            raise UsageError("--normalize needs --weights whose sum is not 0")
        if abs(sum(self.mixing) - 1.0) > 1e-9:
            raise UsageError(
                f"--weights sum to {sum(self.mixing):g}; expected 1 (--normalize scales them)"
            )

    @property
    def mixing(self) -> tuple[float, ...]:
        """The weight of each model, in the order of `models`."""
        if self.weights is not None:
            total = sum(self.weights) if self.normalize else 1.0
            return tuple(weight / total for weight in self.weights)
        if self.alpha is not None:
            return (1.0 - self.alpha, self.alpha)
        return (1.0 / len(self.models),) * len(self.models)


@dataclass(frozen=True, kw_only=True)
class TrainRMConfig(Config):
    """`salsa train-rm`."""

    model: Annotated[
        str, Setting("Model to start from, usually an SFT model.", positional=True, metavar="MODEL")
    ]
    data: Annotated[str, Setting("Preference pairs: a file, a folder or a hub id.", metavar="DATA")]
    eval_data: Annotated[
        str | None, Setting("Held-out pairs. By default a share of --data.", metavar="DATA")
    ] = None
    eval_share: Annotated[
        float, Setting("Share of --data held out for evaluation.", above=0, below=1, metavar="X")
    ] = 0.1
    epochs: Annotated[
        int, Setting("Passes over the pairs.", low=1, metavar="N", panel="Training")
    ] = 1
    batch_size: Annotated[int, Setting("Pairs a step.", low=1, metavar="N", panel="Training")] = 16
    micro_batch_size: Annotated[
        int | None,
        Setting(
            "Pairs per forward pass; a whole batch by default.",
            low=1,
            metavar="N",
            panel="Training",
        ),
    ] = None
    learning_rate: Annotated[
        float, Setting("Peak rate of AdamW.", above=0, metavar="X", panel="Training")
    ] = 1e-5
    warmup: Annotated[
        float,
        Setting("Share of the steps over which the rate rises.", low=0, below=1, panel="Training"),
    ] = 0.05
    schedule: Annotated[
        Literal["linear", "cosine"],
        Setting("How the rate goes to zero after the warm-up.", panel="Training"),
    ] = "linear"
    max_length: Annotated[
        int, Setting("Longest prompt with answer, in tokens.", low=2, metavar="N")
    ] = 1024
    on_long: Annotated[
        Literal["drop", "truncate"],
        Setting("What becomes of a longer pair: left out, or its answers cut."),
    ] = "drop"
    pad_token: Annotated[
        str | None,
        Setting("Token that pads, where the model has none of its own.", metavar="TOKEN"),
    ] = None
    margin: Annotated[
        str | None,
        Setting(
            "Column with the lead in score that the chosen answer should have.",
            metavar="COLUMN",
            panel="Training",
        ),
    ] = None
    label_smoothing: Annotated[
        float, Setting("Share of labels taken to be wrong.", low=0, below=0.5, panel="Training")
    ] = 0.0
    center: Annotated[
        float,
        Setting(
            "Weight of the penalty that holds scores around 0; 0.01 is usual.",
            low=0,
            metavar="X",
            panel="Training",
        ),
    ] = 0.0
    max_grad_norm: Annotated[
        float, Setting("Gradients are scaled down to this norm.", above=0, panel="Training")
    ] = 1.0
    lora_rank: Annotated[
        int | None,
        Setting(
            "Train low-rank updates of this rank and the score head, and merge them in the end; "
            "needs the extra 'lora'.",
            low=1,
            metavar="R",
            panel="Training",
        ),
    ] = None
    gradient_checkpointing: Annotated[
        bool,
        Setting("Compute activations twice instead of keeping them.", panel="Training"),
    ] = False
    ensemble: Annotated[
        int,
        Setting(
            "Reward models to train, into OUTPUT/0, OUTPUT/1 and so on, where more than one.",
            low=1,
            metavar="K",
            panel="Training",
        ),
    ] = 1
    save_every: Annotated[
        int, Setting("Steps between checkpoints.", low=1, metavar="N", panel="Run")
    ] = 500
    seed: Annotated[
        int, Setting("Seed of the score head and the order.", low=0, metavar="N", panel="Run")
    ] = 0
    device: Annotated[Device, Setting("Where to compute.", panel="Run")] = "auto"
    resume: Annotated[
        bool, Setting("Continue a run that was stopped.", recorded=False, panel="Run")
    ] = False
    dry_run: Annotated[
        bool,
        Setting("Check the inputs and say what would be done.", recorded=False, panel="Run"),
    ] = False

    @property
    def forward_size(self) -> int:
        """Pairs per forward pass."""
        return min(self.micro_batch_size or self.batch_size, self.batch_size)
