"""The best policy of a run by a held-out figure, kept as a model folder: `--keep-best`."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import Any, Self

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.records import read_json, write_json
from salsa_cli.rl import snapshots
from salsa_cli.rl.actors import Actors
from salsa_cli.rl.held_out_metrics import HeldOutFigure, HeldOutMetrics
from salsa_cli.rl.metrics import UpdateMetrics
from salsa_cli.rl.run import Run

FOLDER = "best"
RECORD = "best.json"
"""The file in the folder that says of which update the policy is."""


@dataclass(frozen=True)
class BestUpdate:
    """The update with the highest held-out figure; 0 is the policy before the first one.

    Attributes:
        by: what `--keep-best` names.
        value: mean over the held-out prompts, with its standard error.
    """

    update: int
    by: str
    value: float
    standard_error: float

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record in the folder of a run; None where no best policy is kept."""
        path = folder / FOLDER / RECORD
        if not path.is_file():
            return None
        made = read_json(path)
        error = made["standard_error"]
        return cls(made["update"], made["by"], made["value"], nan if error is None else error)

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def figure(metrics: HeldOutMetrics, by: str) -> HeldOutFigure:
    """The figure that `--keep-best` compares; `watch` is the first watched reward."""
    if by == "watch":
        return next(iter(metrics.watch.values()))
    found: HeldOutFigure | None = metrics.objective if by == "objective" else metrics.reward
    assert found is not None  # refused with a penalty that is no KL
    return found


def find(history: Iterable[UpdateMetrics], by: str) -> BestUpdate | None:
    """The best update of a history; the earliest of equal ones; None where none was measured."""
    best = None
    for metrics in history:
        for update, measured in ((0, metrics.heldout_start), (metrics.update, metrics.heldout)):
            if measured is None:
                continue
            given = figure(measured, by)
            if given.mean == given.mean and (best is None or given.mean > best.value):
                best = BestUpdate(update, by, given.mean, given.standard_error)
    return best


class BestPolicy:
    """Which update is the best so far, and its folder.

    A new best policy is written after the checkpoint of its update. So a run that is killed in
    between has the state to write it from, and the folder is never of an update that is lost.

    Args:
        history: updates that a resumed run has made already.
    """

    def __init__(self, config: PPOConfig, history: Iterable[UpdateMetrics] = ()) -> None:
        self._by = config.keep_best
        self._best = None if self._by is None else find(history, self._by)

    def begin(self, start: HeldOutMetrics | None, update: int, actors: Actors, run: Run) -> None:
        """Before the first update of the run or of its resumption: write what is missing.

        Args:
            start: metrics of the start, if it has just been measured.
            update: updates that are finished.
        """
        if self._by is not None and start is not None:
            given = figure(start, self._by)
            self._best = BestUpdate(0, self._by, given.mean, given.standard_error)
        if self._best is not None and self._best.update == update:
            kept = run.runtime.from_main(lambda: BestUpdate.read(run.folder))
            if kept is None or kept.update != update:
                self.write(actors, run)

    def improves(self, metrics: UpdateMetrics) -> bool:
        """Take in an update; whether its policy is the best so far."""
        if self._by is None:
            return False
        found = find([metrics], self._by)
        if found is None or found.update == 0:
            return False
        if self._best is not None and not found.value > self._best.value:
            return False
        self._best = found
        return True

    def write(self, actors: Actors, run: Run) -> None:
        """Write the policy as the best one. Every process must call it; the main one writes."""
        assert self._best is not None
        record = self._best.record()
        snapshots.write_policy(
            run.folder / FOLDER, actors, run, lambda folder: write_json(folder / RECORD, record)
        )
