"""The settings of `salsa soup`."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from salsa_cli.config.base import MEGABYTE, ResultModelConfig, Setting
from salsa_cli.errors import UsageError
from salsa_cli.formatting import counted

WeightDtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class SoupConfig(ResultModelConfig):
    """`salsa soup`."""

    models: Annotated[
        tuple[str, ...],
        Setting(
            "Two or more models, or LoRA adapters of the same base: folders or hub ids.",
            positional=True,
            metavar="A B [C ...]",
            names="model",
        ),
    ]
    alpha: Annotated[
        float | None,
        Setting(
            "Weight of B in (1 - alpha) A + alpha B, for two models.",
            low=0,
            high=1,
            metavar="X",
            instead_of="weights",
            essential=True,
        ),
    ] = None
    weights: Annotated[
        tuple[float, ...] | None,
        Setting(
            "One weight per model; they sum to 1. Default: equal weights.",
            metavar="X,Y,...",
            instead_of="alpha",
            essential=True,
        ),
    ] = None
    normalize: Annotated[
        bool,
        Setting(
            "Divide --weights by their sum.",
        ),
    ] = False
    allow_nonfinite: Annotated[
        bool,
        Setting(
            "Average NaN and infinite values instead of refusing them.",
        ),
    ] = False
    memory: Annotated[
        int,
        Setting(
            "Memory for the tensors being averaged.",
            size=True,
            low=8 * MEGABYTE,
            changes_result=False,
            essential=True,
        ),
    ] = 256 * MEGABYTE
    dtype: Annotated[
        WeightDtype,
        Setting(
            "Data type of the result; auto keeps that of A. With another one, integer tensors that "
            "differ are also averaged and rounded.",
            essential=True,
        ),
    ] = "auto"
    max_shard_size: Annotated[
        int | None,
        Setting(
            "Maximum size of a safetensors file. Default: the same files as A.",
            size=True,
            low=MEGABYTE,
            essential=True,
        ),
    ] = None
    tokenizer: Annotated[
        str | None,
        Setting(
            "Model whose tokenizer is copied. Default: A.",
            metavar="MODEL",
            names="model",
        ),
    ] = None
    merge_into: Annotated[
        str | None,
        Setting(
            "For LoRA adapters, or for a single one: merge their average into this base model and "
            "write the whole model.",
            metavar="BASE",
            names="model",
        ),
    ] = None
    base: Annotated[
        str | None,
        Setting(
            "For LoRA adapters that name their base differently: the base of all of them. With "
            "--probe: the model that A and B were trained from.",
            metavar="BASE",
        ),
    ] = None
    allow_different: Annotated[
        tuple[str, ...],
        Setting(
            "Average models even if they differ in KEY, as named in the error: "
            "config.rope_scaling, tokenizer.eos_token.",
            metavar="KEY",
        ),
    ] = ()
    probe: Annotated[
        str | None,
        Setting(
            "Write no model: measure on this text (or prompts with answers) whether A and B are "
            "close enough to be averaged, and whether averaging changes anything. -o is optional.",
            metavar="DATA",
            names="data",
            essential=True,
        ),
    ] = None
    verify: Annotated[
        bool,
        Setting(
            "Read the result back and compare every value with a recomputation.",
            changes_result=False,
            essential=True,
        ),
    ] = False
    resume: Annotated[
        bool,
        Setting(
            "Continue a soup that was stopped. A complete soup returns its result.",
            recorded=False,
            changes_result=False,
            panel="Run",
            essential=True,
        ),
    ] = False
    dry_run: Annotated[
        bool,
        Setting(
            "Check all inputs, and print what would be written and what it would take.",
            recorded=False,
            changes_result=False,
            essential=True,
        ),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(self.models)
        if self.probe is not None:
            self._check_probe()
        if count < 1 or (count == 1 and self.merge_into is None):
            raise UsageError(
                f"a soup needs two or more models; found {count} (--merge-into BASE also merges a "
                "single LoRA adapter)"
            )
        if self.alpha is not None and self.weights is not None:
            raise UsageError("--alpha and --weights both set the weights; use one of them")
        if self.alpha is not None and count != 2:
            raise UsageError(f"--alpha mixes two models; found {count}. Use --weights for more")
        if self.weights is not None and len(self.weights) != count:
            raise UsageError(
                f"--weights has {counted(len(self.weights), 'number')} for {count} models"
            )
        if not all(map(math.isfinite, (*(self.weights or ()), sum(self.weights or ())))):
            raise UsageError("--weights must be finite numbers, and so must their sum")
        if self.normalize and (self.weights is None or not sum(self.weights)):
            raise UsageError("--normalize needs --weights whose sum is not 0")
        if abs(sum(self.mixing) - 1.0) > 1e-9:
            raise UsageError(
                f"--weights sum to {sum(self.mixing):g}; expected 1 (or use --normalize)"
            )

    def _check_probe(self) -> None:
        """Refuse what has no effect on a probe."""
        if len(self.models) != 2:
            raise UsageError(f"--probe compares two models; found {len(self.models)}")
        unused = [
            option
            for option, value in (
                ("--alpha", self.alpha is not None),
                ("--weights", self.weights is not None),
                ("--dtype", self.dtype != "auto"),
                ("--max-shard-size", self.max_shard_size is not None),
                ("--tokenizer", self.tokenizer is not None),
                ("--merge-into", self.merge_into is not None),
                ("--verify", self.verify),
                ("--resume", self.resume),
                ("--dry-run", self.dry_run),
                ("--push-to-hub", self.push_to_hub is not None),
            )
            if value
        ]
        if unused:
            raise UsageError(f"--probe writes no model; remove {', '.join(unused)}")

    @property
    def mixing(self) -> tuple[float, ...]:
        """The weight of each model, in the order of `models`."""
        if self.weights is not None:
            total = sum(self.weights) if self.normalize else 1.0
            return tuple(weight / total for weight in self.weights)
        if self.alpha is not None:
            return (1.0 - self.alpha, self.alpha)
        return (1.0 / len(self.models),) * len(self.models)
