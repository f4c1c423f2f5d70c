"""Metrics to TensorBoard, Weights & Biases or trackio, through accelerate's trackers."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from accelerate.tracking import (
    GeneralTracker,
    TensorBoardTracker,
    TrackioTracker,
    WandBTracker,
)

from salsa_cli.errors import SalsaError, one_line
from salsa_cli.formatting import plain
from salsa_cli.records import JSON, read_rows, to_json
from salsa_cli.runs.events import Event, Measured, Report, Warned

PACKAGES: Mapping[str, Sequence[str]] = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}
"""Trackers by name, each with packages of which one must be installed."""


SAMPLES = "samples.jsonl"
"""Where a run writes samples of its answers, if it does."""

_MOST_SAMPLES = 1000


def check(names: Sequence[str]) -> None:
    """Refuse trackers whose package is not installed.

    Raises:
        SalsaError: names every such tracker, and how to install it.
    """
    missing = [name for name in names if not any(map(_installed, PACKAGES[name]))]
    if missing:
        packages = " ".join(PACKAGES[name][0] for name in missing)
        options = " ".join(f"--track {name}" for name in missing)
        raise SalsaError(
            f"{options}: not installed in this Python; run `pip install {packages}`, or remove the "
            "option"
        )


@dataclass(frozen=True)
class TrackedRun:
    """What trackers need to know about a run.

    Attributes:
        project: the project that the run belongs to, unless WANDB_PROJECT names another.
        name: name of the run that was asked for, if one was.
        folder: name of its folder, by which it goes otherwise.
        settings: stored when the run starts.
        done: rows of metrics that exist already; above 0 for a resumed run.
    """

    project: str
    name: str | None
    folder: str
    settings: Mapping[str, JSON]
    done: int


@contextmanager
def tracking(
    names: Sequence[str], folder: Path, run: TrackedRun, report: Report
) -> Iterator[Report]:
    """A report that sends every `Measured` row to the trackers, with its number as the step.

    A tracker that fails during the run is dropped with a warning; the run continues.

    Args:
        names: the trackers; may be empty.
        folder: TensorBoard writes its event files to `tensorboard/` in it.
        run: facts about the run for the trackers.
        report: receives the warning about a tracker that fails.

    Raises:
        SalsaError: a tracker cannot be started.
    """
    with ExitStack() as stack:
        trackers = {
            name: stack.enter_context(_started(name, folder, run, report))
            for name in dict.fromkeys(names)
        }
        step = run.done

        def log(event: Event) -> None:
            nonlocal step
            if isinstance(event, Measured):
                step += 1
                for name, tracker in list(trackers.items()):
                    with _survived(name, f"at step {step}", report) as survived:
                        tracker.log(labelled(event.values), step=step)
                    if not survived:
                        del trackers[name]

        yield log


def labelled(values: Mapping[str, object]) -> dict[str, float]:
    """The numbers of a row; those of a member of an ensemble as `member-1/...`."""
    member = values.get("member")
    if member is None:
        return flat(values)
    return flat({f"member-{member}": {k: v for k, v in values.items() if k != "member"}})


def flat(values: Mapping[str, object]) -> dict[str, float]:
    """The numbers of a row, those of inner mappings as `outer/inner`; None is left out."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            # The inner names may be paths of models, `sft-a/`.
            found |= {f"{name}/{inner.strip('/')}": number for inner, number in flat(value).items()}
        elif isinstance(value, int | float):
            found[name] = value
    return found


@contextmanager
def _started(name: str, folder: Path, run: TrackedRun, report: Report) -> Iterator[GeneralTracker]:
    # Some trackers print to stdout, which is for the result.
    try:
        with redirect_stdout(sys.stderr):
            tracker = _tracker(name, folder, run)
            tracker.start()
            if not run.done:
                tracker.store_init_configuration(_primitive(run.settings))
    except Exception as error:
        raise SalsaError(f"--track {name}: failed to start: {one_line(str(error))}") from error
    try:
        yield tracker
    finally:
        with _survived(name, "when logging the samples", report):
            _log_samples(tracker, folder / SAMPLES)
        with _survived(name, "when finishing", report):
            _finish(tracker)


@contextmanager
def _survived(name: str, when: str, report: Report) -> Iterator[list[str]]:
    """Run a block in which a tracker may fail; the list yielded is empty afterwards if it did."""
    survived = [name]
    try:
        with redirect_stdout(sys.stderr):
            yield survived
    except Exception as error:
        survived.clear()
        said = one_line(str(error)) or type(error).__name__
        report(
            Warned(
                f"--track {name} failed {when} ({said}) and is disabled; metrics.jsonl has every "
                "row"
            )
        )


def _tracker(name: str, folder: Path, run: TrackedRun) -> GeneralTracker:
    match name:
        case "tensorboard":
            # Steps that a resumed run repeats replace those written before.
            return TensorBoardTracker("tensorboard", folder, purge_step=run.done + 1)
        case "wandb":
            return WandBTracker(
                os.environ.get("WANDB_PROJECT") or run.project,
                name=run.name or os.environ.get("WANDB_NAME") or run.folder,
            )
        case _:
            return TrackioTracker(run.project, name=run.name or run.folder)


def _log_samples(tracker: GeneralTracker, file: Path) -> None:
    """The samples of answers, the newest last, as a table in the trackers that have tables."""
    rows = read_rows(file)[-_MOST_SAMPLES:] if file.is_file() else []
    if not rows:
        return
    columns = list(rows[0])
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    if isinstance(tracker, WandBTracker):
        tracker.log_table("samples", columns=columns, data=cells)
    elif isinstance(tracker, TensorBoardTracker):
        tracker.writer.add_text("samples", _markdown(columns, cells))


def _cell(value: object) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else to_json(value)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(plain(str(cell), 400).replace("|", "\\|") for cell in line) + " |"
        for line in lines
    )


def _finish(tracker: GeneralTracker) -> None:
    if isinstance(tracker, TrackioTracker):
        # After the tracker's own `finish`, trackio would print to stdout again at exit.
        import_module("trackio").finish()
    else:
        tracker.finish()


def _primitive(settings: Mapping[str, JSON]) -> dict[str, JSON]:
    """Settings as trackers accept them: no lists, no None."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in settings.items()
    }


def _installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
