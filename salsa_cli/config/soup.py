"""The settings of `salsa soup`."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from salsa_cli.config.base import MEGABYTE, Config, Setting
from salsa_cli.errors import UsageError

WeightDtype = Literal["auto", "float32", "bfloat16", "float16"]


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
        int,
        Setting(
            "Memory for the pieces in flight.",
            size=True,
            low=8 * MEGABYTE,
            changes_result=False,
        ),
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
    base: Annotated[
        str | None,
        Setting(
            "For LoRA adapters that name their base differently: the base of all of them.",
            metavar="BASE",
        ),
    ] = None
    allow_different: Annotated[
        tuple[str, ...],
        Setting(
            "Average models although they differ in KEY, as the refusal names it: "
            "config.rope_scaling, tokenizer.eos_token. Repeatable.",
            metavar="KEY",
        ),
    ] = ()
    verify: Annotated[
        bool,
        Setting(
            "Read the result back and check every value against a recomputation.",
            changes_result=False,
        ),
    ] = False
    resume: Annotated[
        bool,
        Setting(
            "Continue a soup that was killed. Begins anew if there is none.",
            recorded=False,
            changes_result=False,
            panel="Run",
        ),
    ] = False
    dry_run: Annotated[
        bool,
        Setting(
            "Check the inputs and say what would be written; write nothing.",
            recorded=False,
            changes_result=False,
        ),
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
