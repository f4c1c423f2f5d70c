"""Read what the finished pipelines of a study left, or a record of it: one `Unit` for each."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import permutations
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from salsa_cli.maths import frontier

RIVALS = ("ppo", "ref-b")
ARMS = ("ppo", "salsa", "ref-b", "two-kls", "union", "start-soup", "ema", "perturbed")


Key = tuple[str, float]
"""An arm and its KL coefficient."""


@dataclass(frozen=True)
class Point:
    """A model of a pipeline on the test prompts: means over its answers."""

    gold: float
    spread: float  # standard deviation of gold over the answers
    plain: float
    proxy: float
    kl: float  # to A
    kl_to_soup: float
    length: float
    finished: float


@dataclass(frozen=True)
class Unit:
    """One finished pipeline: its SFT pair, and the points of its models and arms."""

    seed: int
    admission: list[dict[str, Any]]
    accuracy: float  # of the reward model, on pairs held out from it
    loss_gain: float  # held-out loss of the better SFT model - that of the soup, nats per token
    models: dict[str, Point]
    arms: dict[Key, Point]
    tuning: dict[Key, float]  # the proxy on the tuning prompts
    wins: dict[Key, dict[Key, float]]  # win rate by gold over each run of the RIVALS
    best_of: dict[str, tuple[int, float]]  # n and gold of the best of n
    line: dict[str, dict[float, float]] = field(default_factory=dict)  # by judge and alpha

    def betas(self, arm: str) -> list[float]:
        return sorted(beta for name, beta in self.arms if name == arm)

    def has(self, arm: str) -> bool:
        return bool(self.betas(arm))

    def start(self, arm: str) -> Point:
        return self.models["soup" if arm == "start-soup" else "a"]

    def points(self, arm: str) -> list[Point]:
        """The start of an arm and its runs."""
        return [self.start(arm), *(self.arms[arm, beta] for beta in self.betas(arm))]

    def at_kl(self, arm: str, kl: float, measure: str = "gold") -> float | None:
        """A measure at this KL to A, along the arm's start and runs; None out of its reach."""
        table = np.array([(one.kl, getattr(one, measure)) for one in self.points(arm)])
        found = frontier.score_at(table[:, :1], table[:, 1:], kl)
        return None if found is None else float(found[0])

    def between_runs(self, arm: str, kl: float) -> bool:
        """Whether a run of the arm is closer to A than this KL, and another further."""
        reached = [self.arms[arm, beta].kl for beta in self.betas(arm)]
        return min(reached) <= kl <= max(reached)

    def within_kl(self, arm: str, kl: float, measure: str = "gold") -> float | None:
        """The highest measure within this KL to A, by mixtures of two of the arm's points.

        A mixture answers a prompt by one of the two policies, drawn by a coin. Its measure is the
        mean of theirs, and its KL at most the mean of theirs (KL is convex), so that each point
        on the line between two points is within reach. None if all points are further away.
        """
        points = [(one.kl, getattr(one, measure)) for one in self.points(arm)]
        found = [value for far, value in points if far <= kl]
        for (near, low), (far, high) in permutations(points, 2):
            if near <= kl < far:
                found.append(low + (kl - near) / (far - near) * (high - low))
        return max(found, default=None)

    def tuned(self, arm: str) -> float:
        """The beta with the highest proxy on the tuning prompts."""
        return max(self.betas(arm), key=lambda beta: self.tuning[arm, beta])

    def best(self, arm: str) -> float:
        """The beta with the highest gold on the test prompts, which nobody knows in real work."""
        return max(self.betas(arm), key=lambda beta: self.arms[arm, beta].gold)


def read_study(source: Path) -> dict[str, list[Unit]]:
    """The finished pipelines of each condition, in the order of their seeds.

    Args:
        source: the folder of a study, or the file that `analysis.py --json` wrote.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is neither.
    """
    if source.is_file():
        record = json.loads(source.read_text(encoding="utf-8"), parse_constant=not_a_number)
        study = {name: [from_record(unit) for unit in found] for name, found in record.items()}
    else:
        study = {
            folder.name: list(units(folder))
            for folder in sorted(source.iterdir())
            if any(folder.glob("seed-*"))
        }
    study = {name: found for name, found in study.items() if found}
    for name, found in study.items():
        check(name, found)
    return study


def not_a_number(text: str) -> float:
    raise ValueError(f"expected finite numbers, found {text}")


def check(name: str, found: list[Unit]) -> None:
    """ValueError for pipelines that are there twice or lack an arm of the comparison."""
    seeds = [unit.seed for unit in found]
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        raise ValueError(f"{name}: seed {twice[0]} is there twice")
    for unit in found:
        for arm in ("ppo", "salsa"):
            if unit.betas(arm) != found[0].betas("ppo") or not unit.has(arm):
                raise ValueError(
                    f"{name}: seed {unit.seed} has {arm} with beta {unit.betas(arm)}, and not "
                    f"{found[0].betas('ppo')}"
                )


def left_out(study: Path) -> list[str]:
    """The pipelines in a study's folder that have no admitted pair of SFT models."""
    return [
        str(chosen.parent.relative_to(study))
        for chosen in sorted(study.glob("*/seed-*/admission.json"))
        if not json.loads(chosen.read_text())[-1]["admitted"]
    ]


def units(folder: Path) -> Iterator[Unit]:
    """The pipelines of a condition whose primary arms are evaluated."""
    for place in sorted(folder.glob("seed-*")):
        if (place / "results-primary").exists():
            yield read(place)


def read(place: Path) -> Unit:
    """The pipeline in a folder; values are rounded as in a record, so that both are equal."""
    points: dict[str, Point] = {}
    golds: dict[str, list[float]] = {}
    best_of = {}
    for part in ("results-primary", "results-secondary"):
        if not (place / part).exists():
            continue
        results = json.loads((place / part / "results.json").read_text())
        said = golds_of(place / part)
        golds |= said
        points |= points_of(results, said)
        for row in results["best_of"]:
            if judge(row["judge"]) == "score":
                best_of[row["model"]] = (row["n"], short(row["score"]))
    admission = json.loads((place / "admission.json").read_text())
    arms = {name: name.rpartition("-") for name in points if name.rpartition("-")[0] in ARMS}
    keys = {name: (arm, float(beta)) for name, (arm, _, beta) in arms.items()}
    return Unit(
        seed=int(place.name.removeprefix("seed-")),
        admission=admission,
        accuracy=accuracy(place / "rm"),
        loss_gain=loss_gain(place / admission[-1]["pair"] / "probe"),
        models={name: point for name, point in points.items() if name not in keys},
        arms={keys[name]: points[name] for name in keys},
        tuning={key: tuning(place / "runs" / name) for name, key in keys.items()},
        wins={
            key: {
                keys[other]: short(win_rate(golds[name], golds[other]))
                for other in keys
                if keys[other][0] in RIVALS and keys[other][0] != key[0]
            }
            for name, key in keys.items()
        },
        best_of=best_of,
        line=line_of(place / "line") if (place / "line").exists() else {},
    )


def golds_of(results: Path) -> dict[str, list[float]]:
    """Gold of the answers of each model, in the order of the questions."""
    found: dict[str, dict[int, float]] = {}
    for line in (results / "judgments.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        if judge(row["judge"]) == "score":
            for side in "ab":
                found.setdefault(row[side], {})[int(row["question"])] = row[f"score_{side}"]
    return {model: [said[key] for key in sorted(said)] for model, said in found.items()}


def points_of(results: Mapping[str, Any], golds: Mapping[str, list[float]]) -> dict[str, Point]:
    """The models of one `salsa eval`, by name."""
    scores = {(row["model"], judge(row["judge"])): row["score"] for row in results["scores"]}
    kls = {(row["model"], row["anchor"].rpartition("/")[2]): row["kl"] for row in results["kl"]}
    return {
        name: Point(
            gold=short(mean(golds[name])),
            spread=short(stdev(golds[name])),
            plain=short(scores[name, "plain"]),
            proxy=short(scores[name, "rm"]),
            kl=short(kls[name, "a"]),
            kl_to_soup=short(kls[name, "soup"]),
            length=short(row["length"]),
            finished=short(row["finished"]),
        )
        for row in results["answers"]
        if (name := row["model"])
    }


def accuracy(model: Path) -> float:
    """The ranking accuracy of a reward model on held-out pairs, as `train-rm` measured it."""
    found = json.loads((model / "evaluation.json").read_text())["evaluation"]
    return short(found["accuracy"]["accuracy"])


def loss_gain(probe: Path) -> float:
    """How much lower the soup's held-out loss is than that of the better model."""
    loss = {
        point["alpha"]: point["nll"]
        for point in json.loads((probe / "probe.json").read_text())["line"]
    }
    return short(min(loss[0.0], loss[1.0]) - loss[0.5])


def line_of(folder: Path) -> dict[str, dict[float, float]]:
    """The score of the soups between A and B, by judge and alpha, from `salsa eval --line`."""
    found: dict[str, dict[float, float]] = {}
    for row in json.loads((folder / "results.json").read_text())["line"]:
        found.setdefault(judge(row["judge"]), {})[row["weights"][1]] = short(row["score"])
    return found


def judge(name: str) -> str:
    """The short name of a judge: rm, score or plain."""
    return "rm" if name.startswith("rm:") else name.rpartition(":")[2]


def tuning(run: Path) -> float:
    """The held-out reward at the end of a run, in the run's own units."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    last: float = [row["heldout"] for row in rows if "heldout" in row][-1]["reward"]["mean"]
    return short(last)


def win_rate(one: Sequence[float], other: Sequence[float]) -> float:
    """(wins + ties / 2) / n, as the paper counts."""
    return mean((a > b) + (a == b) / 2 for a, b in zip(one, other, strict=True))


def short(value: float) -> float:
    return round(value, 6)


def to_record(unit: Unit) -> dict[str, Any]:
    """What is kept of a pipeline, for JSON."""

    def named(found: Mapping[Key, Any]) -> dict[str, Any]:
        return {f"{arm}-{beta:g}": value for (arm, beta), value in found.items()}

    return asdict(unit) | {
        "arms": named({key: asdict(point) for key, point in unit.arms.items()}),
        "tuning": named(unit.tuning),
        "wins": named({key: named(over) for key, over in unit.wins.items()}),
    }


def from_record(record: Mapping[str, Any]) -> Unit:
    """The pipeline of a record."""

    def keyed(found: Mapping[str, Any]) -> dict[Key, Any]:
        parts = {name: name.rpartition("-") for name in found}
        return {(parts[name][0], float(parts[name][2])): found[name] for name in found}

    return Unit(
        seed=record["seed"],
        admission=record["admission"],
        accuracy=record["accuracy"],
        loss_gain=record["loss_gain"],
        models={name: Point(**point) for name, point in record["models"].items()},
        arms={key: Point(**point) for key, point in keyed(record["arms"]).items()},
        tuning=keyed(record["tuning"]),
        wins={key: keyed(over) for key, over in keyed(record["wins"]).items()},
        best_of={model: (n, gold) for model, (n, gold) in record["best_of"].items()},
        line={
            name: {float(alpha): score for alpha, score in along.items()}
            for name, along in record["line"].items()
        },
    )
