"""What `train-rm` works on: the plan that its configuration names, and the run around it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.devices.runtime import Runtime
from salsa_cli.records import JSON
from salsa_cli.reward_models.pair_data import SourcePairs
from salsa_cli.reward_models.pairs import EncodedPair


@dataclass(frozen=True)
class TrainingPlan:
    """The model and the pairs of a training run, found, checked and encoded."""

    model: Path
    training: tuple[EncodedPair, ...]
    held_out: tuple[EncodedPair, ...]
    sources: tuple[SourcePairs, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class TrainingRun:
    """One training run: its plan, its settings, where it computes and the folder it writes to.

    `inputs` are the model and the data with their digests; a resumed run must find the same.
    """

    plan: TrainingPlan
    config: TrainRMConfig
    runtime: Runtime
    folder: Path
    inputs: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationPlan:
    """One reward model, or the members of an ensemble, and the pairs to evaluate them on."""

    models: tuple[Path, ...]
    source: SourcePairs

    @property
    def pairs(self) -> tuple[EncodedPair, ...]:
        """The pairs that are scored."""
        return self.source.kept
