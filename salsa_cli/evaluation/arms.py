"""Arms of a comparison: each one or more training runs, each run one or more policies.

An arm is what is compared (a method, a setting); its runs differ in their seeds alone, and a run's
points are its policy after some updates. Every point is a model of the evaluation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from salsa_cli.config import run_names
from salsa_cli.config.run_names import ALL, BEST, RunName
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.evaluation import names
from salsa_cli.formatting import counted, verb
from salsa_cli.records import JSON, read_json

SNAPSHOTS, BEST_FOLDER, RECORD = "snapshots", "best", "salsa.json"


@dataclass(frozen=True)
class Point:
    """One policy of a run.

    Attributes:
        name: its name among the models of the evaluation.
        source: folder or hub id of the policy.
        label: which policy of the run it is: an update, `best`, or empty at the end.
    """

    name: str
    source: str
    label: str = ""


@dataclass(frozen=True)
class ArmRun:
    """One training run.

    Attributes:
        source: its folder, or a hub id.
        seed: from its salsa.json; None if it has none.
        points: its policies, the earliest first; never empty.
    """

    name: str
    source: str
    seed: int | None
    points: tuple[Point, ...]

    @property
    def last(self) -> str:
        """The name of the policy that stands for the run where one is needed."""
        return self.points[-1].name


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but their seed."""

    name: str
    runs: tuple[ArmRun, ...]

    @property
    def points(self) -> tuple[Point, ...]:
        """The policies of all runs."""
        return tuple(point for run in self.runs for point in run.points)

    @property
    def seeds(self) -> tuple[int, ...] | None:
        """The seeds in the order of the runs; None if one is not known or occurs twice."""
        found = tuple(run.seed for run in self.runs if run.seed is not None)
        return found if len(set(found)) == len(self.runs) else None


def parse(given: Sequence[str]) -> tuple[Arm, ...]:
    """The arms that are given as `RUN`, `NAME=RUN` or `NAME=RUN,RUN,...`.

    Raises:
        SalsaError: a run has no such snapshot.
        UsageError: a name is missing or occurs twice.
    """
    parsed = [run_names.parse(one) for one in given]
    arms: list[Arm] = []
    for argument, arm in zip(given, parsed, strict=True):
        sources = list(dict.fromkeys(run.source for run in arm.runs))
        if arm.name is None and len(sources) > 1:
            raise UsageError(f"{argument} matches {len(sources)} runs; name them: NAME={argument}")
        name = arm.name or _default_name(arm.runs[0])
        if name in (one.name for one in arms):
            taken = [other.name or _default_name(other.runs[0]) for other in parsed]
            free = names.free_name(name, taken)
            rest = run_names.split(argument)[1]
            raise UsageError(
                f"two models are called '{name}'; name them with NAME=MODEL, for example "
                f"{free}={rest}"
            )
        arms.append(_arm(name, sources, arm.runs))
    return tuple(arms)


def of_answers(name: str) -> Arm:
    """The arm of a model whose answers are given."""
    return Arm(name, (ArmRun(name, "", None, (Point(name, ""),)),))


def compared(arms: Sequence[Arm]) -> bool:
    """Whether arms are compared, and not single models."""
    return any(len(arm.points) > 1 for arm in arms)


def matched(a: Arm, b: Arm) -> tuple[tuple[ArmRun, ArmRun], ...]:
    """Runs to compare head to head: those of one seed, else in the given order.

    Of arms with different numbers of runs, the last ones of the larger arm meet nobody.
    """
    if paired(a, b):
        by_seed = {run.seed: run for run in b.runs}
        return tuple((run, by_seed[run.seed]) for run in a.runs)
    return tuple(zip(a.runs, b.runs, strict=False))


def paired(a: Arm, b: Arm) -> bool:
    """Whether both arms have the same seeds, a run each."""
    return a.seeds is not None and b.seeds is not None and set(a.seeds) == set(b.seeds)


def pairs(arms: Sequence[Arm], baseline: str | None) -> list[tuple[str, str]]:
    """The models to compare head to head: the last policies of matched runs of every two arms.

    Each pair is in the order in which the arms were given.
    """
    return [
        (first.last, second.last)
        for a, b in combinations(arms, 2)
        if baseline in (None, a.name, b.name)
        for first, second in matched(a, b)
    ]


def arm_pairs(arms: Sequence[Arm], baseline: str | None) -> list[tuple[Arm, Arm]]:
    """Every two arms; with a baseline, every other arm against it, which is the second then."""
    if baseline is None:
        return list(combinations(arms, 2))
    (base,) = (arm for arm in arms if arm.name == baseline)
    return [(arm, base) for arm in arms if arm is not base]


def setting(source: str, *path: str) -> JSON:
    """A value of the salsa.json of a run's folder, None if there is no such record or key."""
    file = Path(source) / RECORD
    value: JSON = read_json(file) if file.is_file() else None
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def trained_with_other_lengths(arms: Sequence[Arm], length: int) -> list[str]:
    """Warnings about runs whose answers in training had another limit than the answers here.

    Args:
        length: the limit of the answers here, in tokens.
    """
    limits: dict[int, list[str]] = {}
    for run in (run for arm in arms for run in arm.runs):
        known = setting(run.source, "settings", "response_length") if run.source else None
        if isinstance(known, int) and known != length:
            limits.setdefault(known, []).append(run.name)
    return [
        f"{', '.join(named)} {verb(len(named), 'have')} been trained with --response-length "
        f"{known}, and here an answer may have {counted(length, 'token')}, "
        f"{'fewer' if length < known else 'more'} than in training: rewards and finished answers "
        f"differ from those of the run. --response-length {known} answers as in training"
        for known, named in sorted(limits.items())
    ]


def _arm(name: str, sources: Sequence[str], runs: Sequence[RunName]) -> Arm:
    labels = _labels(sources)
    found = []
    for source, label in zip(sources, labels, strict=True):
        own = name if len(sources) == 1 else f"{name}/{label}"
        wanted = [run.point for run in runs if run.source == source]
        policies = [one for point in wanted for one in _policies(source, point)]
        policies = sorted(dict.fromkeys(policies), key=_order)
        alone = len(policies) == 1
        points = tuple(
            # The name of a single model says already which one is meant.
            Point(own if alone or not which else f"{own}@{which}", place, which)
            for which, place in policies
        )
        found.append(ArmRun(own, source, _seed(source), points))
    return Arm(name, tuple(found))


def _policies(source: str, point: str | None) -> list[tuple[str, str]]:
    """The label and the folder of each policy that `source@point` means."""
    if point is None:
        return [("", source)]
    folder = Path(source)
    if not folder.is_dir():
        raise SalsaError(f"{source}@{point}: no such folder: {source}")
    snapshots = sorted(path for path in (folder / SNAPSHOTS).glob("[0-9]*") if path.is_dir())
    if point == BEST:
        if not (folder / BEST_FOLDER).is_dir():
            raise SalsaError(
                f"{source}@best: {source} has no {BEST_FOLDER}/; salsa ppo --keep-best writes it"
            )
        return [(BEST, str(folder / BEST_FOLDER))]
    if not snapshots:
        raise SalsaError(
            f"{source}@{point}: {source} has no {SNAPSHOTS}/; salsa ppo --snapshot-every writes it"
        )
    known = {str(int(path.name)): str(path) for path in snapshots}
    if point == ALL:
        last = str(setting(source, "settings", "updates"))
        before = {label: place for label, place in known.items() if label != last}
        return [*before.items(), ("", source)]  # the last snapshot is the end, too
    if str(int(point)) not in known:
        raise SalsaError(
            f"{source}@{point}: no such snapshot; {source}/{SNAPSHOTS} has {', '.join(known)}"
        )
    return [(str(int(point)), known[str(int(point))])]


def _order(policy: tuple[str, str]) -> tuple[int, int]:
    """Snapshots by update, then the best, then the end."""
    label, _ = policy
    if label.isdigit():
        return 0, int(label)
    return (1, 0) if label else (2, 0)


def named(given: str) -> tuple[str, str]:
    """`NAME=MODEL`, or the last part of the model's path as its name."""
    name, source = run_names.split(given)
    return name or _default_name(RunName(source)), source


def _default_name(run: RunName) -> str:
    path = Path(run.source)
    name = path.resolve().name if path.exists() else run.source.replace("/", "--")
    return f"{name}@{run.point}" if run.point not in (None, ALL) else name


def _labels(sources: Sequence[str]) -> list[str]:
    """Short names that tell runs apart: the parts of their paths in which they differ."""
    parts = [list(Path(source).parts) for source in sources]
    while len(parts) > 1 and all(len(part) > 1 and part[-1] == parts[0][-1] for part in parts):
        parts = [part[:-1] for part in parts]
    ends = [part[-1] for part in parts]
    if len(set(ends)) == len(ends):
        return ends
    while all(len(part) > 1 and part[0] == parts[0][0] for part in parts):
        parts = [part[1:] for part in parts]
    return ["-".join(part) for part in parts]


def _seed(source: str) -> int | None:
    seed = setting(source, "settings", "seed")
    return seed if isinstance(seed, int) and setting(source, "command") == "ppo" else None


def by_name(arms: Iterable[Arm]) -> dict[str, str]:
    """The source of every policy, by its name among the models."""
    return {point.name: point.source for arm in arms for point in arm.points}
