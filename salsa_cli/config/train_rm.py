"""The settings of `salsa train-rm`, and which of them contradict each other."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from salsa_cli.config.base import Setting, TrainingConfig, declared
from salsa_cli.errors import UsageError

EVAL_SHARE = 0.1

_OF_EVALUATION = {
    *("model", "eval_data", "output", "force", "resume", "dry_run", "device", "store_scale"),
    *("batch_size", "micro_batch_size", "max_length", "on_long", "on_empty"),
}
"""Settings that have an effect without `--data`, if a reward model is only evaluated."""


@dataclass(frozen=True, kw_only=True)
class TrainRMConfig(TrainingConfig):
    """`salsa train-rm`."""

    model: Annotated[
        str,
        Setting(
            "Model to start from, usually an SFT model. Without --data: the reward model or "
            "ensemble to evaluate.",
            positional=True,
            metavar="MODEL",
            names="model",
        ),
    ]
    data: Annotated[
        str | None,
        Setting(
            "Preference pairs to train on: a file, a folder or a hub id. Without it, MODEL "
            "is only evaluated on --eval-data.",
            metavar="DATA",
            essential=True,
            names="data",
        ),
    ] = None
    eval_data: Annotated[
        str | None,
        Setting(
            "Held-out pairs. Default: a share of --data.",
            metavar="DATA",
            essential=True,
            names="data",
        ),
    ] = None
    eval_share: Annotated[
        float | None,
        Setting(
            f"Share of --data to hold out if there is no --eval-data. Default: {EVAL_SHARE:g}.",
            above=0,
            below=1,
            metavar="X",
        ),
    ] = None
    epochs: Annotated[
        int,
        Setting(
            "Number of passes over the pairs.",
            low=1,
            metavar="N",
            panel="Training",
            essential=True,
        ),
    ] = 1
    batch_size: Annotated[
        int,
        Setting(
            "Pairs per optimiser step.",
            low=1,
            metavar="N",
            panel="Training",
            essential=True,
        ),
    ] = 16
    micro_batch_size: Annotated[
        int | None,
        Setting(
            "Pairs per forward pass. Default: the whole batch.",
            low=1,
            metavar="N",
            panel="Training",
        ),
    ] = None
    learning_rate: Annotated[
        float,
        Setting(
            "Peak learning rate of AdamW.",
            above=0,
            metavar="X",
            panel="Training",
            essential=True,
        ),
    ] = 1e-5
    warmup: Annotated[
        float,
        Setting(
            "Share of the steps over which the learning rate rises linearly.",
            low=0,
            below=1,
            panel="Training",
        ),
    ] = 0.05
    schedule: Annotated[
        Literal["linear", "cosine"],
        Setting(
            "Learning-rate schedule after the warmup: linear or cosine decay to 0.",
            panel="Training",
        ),
    ] = "linear"
    max_length: Annotated[
        int,
        Setting(
            "Maximum length of a prompt with its answer, in tokens.",
            low=2,
            metavar="N",
            essential=True,
        ),
    ] = 1024
    on_long: Annotated[
        Literal["drop", "truncate"],
        Setting(
            "What to do with longer pairs: drop them, or truncate their answers.",
        ),
    ] = "drop"
    on_empty: Annotated[
        Literal["error", "drop"],
        Setting(
            "What to do with empty answers: stop with an error, or drop the pair. A "
            "rejected answer that was rated may be empty.",
        ),
    ] = "error"
    store_scale: Annotated[
        bool,
        Setting(
            "Without --data: store the mean and standard deviation of the scores on "
            "--eval-data in MODEL's config.json, so that ppo and eval normalise the scores.",
        ),
    ] = False
    pad_token: Annotated[
        str | None,
        Setting(
            "Padding token, if the model has none.",
            metavar="TOKEN",
        ),
    ] = None
    margin: Annotated[
        str | None,
        Setting(
            "Column with the margin by which the chosen answer should score higher.",
            metavar="COLUMN",
            panel="Training",
        ),
    ] = None
    label_smoothing: Annotated[
        float,
        Setting(
            "Assumed share of wrong labels.",
            low=0,
            below=0.5,
            panel="Training",
        ),
    ] = 0.0
    center: Annotated[
        float,
        Setting(
            "Weight of the penalty on the sum of both scores, which keeps scores around 0; "
            "0.01 is usual.",
            low=0,
            metavar="X",
            panel="Training",
        ),
    ] = 0.0
    max_grad_norm: Annotated[
        float,
        Setting(
            "Clip the gradient norm to this value.",
            above=0,
            panel="Training",
        ),
    ] = 1.0
    lora_rank: Annotated[
        int | None,
        Setting(
            "Train a LoRA adapter of this rank and the score head; needs the extra 'lora'.",
            low=1,
            metavar="R",
            panel="Training",
            essential=True,
        ),
    ] = None
    lora_save: Annotated[
        Literal["merged", "adapter"],
        Setting(
            "What --lora-rank writes: the whole model with the adapter merged, or the PEFT "
            "adapter, whose base `salsa ppo` can share with other models.",
            panel="Training",
        ),
    ] = "merged"
    gradient_checkpointing: Annotated[
        bool,
        Setting(
            "Recompute activations in the backward pass: less memory, more time.",
            changes_result=False,
            panel="Training",
        ),
    ] = False
    ensemble: Annotated[
        int,
        Setting(
            "Number of reward models to train. Several are written to OUTPUT/0, OUTPUT/1 "
            "and so on.",
            low=1,
            metavar="K",
            panel="Training",
            essential=True,
        ),
    ] = 1
    save_every: Annotated[
        int,
        Setting(
            "Optimiser steps between checkpoints.",
            low=1,
            metavar="N",
            panel="Run",
            changes_result=False,
        ),
    ] = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        reasons = [*(self._training() if self.data is not None else self._evaluation())]
        if reasons:
            raise UsageError("; ".join(reasons))

    def _training(self) -> Iterator[str]:
        """Reasons against a training run: settings without effect, unknown names."""
        if self.eval_data is not None and self.eval_share is not None:
            yield "--eval-share has no effect with --eval-data"
        yield from self.tracking_reasons()
        if self.push_to_hub is not None and self.ensemble > 1:
            yield (
                f"--push-to-hub uploads one model, and --ensemble {self.ensemble} writes several; "
                "upload each with `hf upload`"
            )
        if self.lora_save != "merged" and self.lora_rank is None:
            yield f"--lora-save {self.lora_save} has no effect without --lora-rank"
        if self.store_scale:
            yield "--store-scale has no effect with --data: training stores the scale"

    def _evaluation(self) -> Iterator[str]:
        """Reasons against an evaluation: missing pairs, settings without effect."""
        if self.eval_data is None:
            yield (
                "--data is missing; expected preference pairs to train on, or --eval-data with "
                "pairs to evaluate a reward model on"
            )
            return
        idle = [
            field.option
            for field in declared(type(self))
            if field.name not in _OF_EVALUATION and getattr(self, field.name) != field.default
        ]
        if idle:
            verb = "has" if len(idle) == 1 else "have"
            yield f"{', '.join(idle)} {verb} no effect without --data, since nothing is trained"

    @property
    def held_out_share(self) -> float:
        """Share of the pairs that is held out if there are no separate evaluation pairs."""
        return EVAL_SHARE if self.eval_share is None else self.eval_share

    @property
    def forward_size(self) -> int:
        """Pairs per forward pass."""
        return min(self.micro_batch_size or self.batch_size, self.batch_size)
