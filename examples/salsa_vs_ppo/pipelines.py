"""Read what the finished pipelines of a study left: one `Unit` for each."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from salsa_cli.maths import frontier

ARMS = ("ppo", "salsa", "ref-b", "two-kls", "union", "start-soup", "ema", "perturbed")


@dataclass(frozen=True)
class Point:
    """A model of a pipeline on the test prompts; gold is one value a prompt."""

    gold: tuple[float, ...]
    plain: float
    proxy: float
    kl: float  # to A
    kl_to_soup: float
    length: float
    finished: float

    @property
    def mean(self) -> float:
        return mean(self.gold)


@dataclass(frozen=True)
class Unit:
    """One finished pipeline: its SFT pair, and the points of its models and arms."""

    seed: int
    admission: list[dict[str, Any]]
    models: dict[str, Point]
    arms: dict[tuple[str, float], Point]
    tuning: dict[tuple[str, float], float]  # the proxy on the tuning prompts, by arm and beta
    best_of: dict[str, tuple[int, float]]  # n and gold of the best of n

    def betas(self, arm: str) -> list[float]:
        return sorted(beta for name, beta in self.arms if name == arm)

    def has(self, arm: str) -> bool:
        return bool(self.betas(arm))

    def start(self, arm: str) -> Point:
        return self.models["soup" if arm == "start-soup" else "a"]

    def at_kl(self, arm: str, kl: float) -> float | None:
        """Gold of the arm at this KL to A, along its start and its runs; None out of its reach."""
        points = [self.start(arm), *(self.arms[arm, beta] for beta in self.betas(arm))]
        table = np.array([(point.kl, point.mean) for point in points])
        found = frontier.score_at(table[:, :1], table[:, 1:], kl)
        return None if found is None else float(found[0])

    def tuned(self, arm: str) -> float:
        """The beta with the highest proxy on the tuning prompts."""
        return max(self.betas(arm), key=lambda beta: self.tuning[arm, beta])

    def best(self, arm: str) -> float:
        """The beta with the highest gold on the test prompts, which nobody knows in real work."""
        return max(self.betas(arm), key=lambda beta: self.arms[arm, beta].mean)


def read_study(root: Path) -> dict[str, list[Unit]]:
    """The finished pipelines of each condition, in the order of their seeds."""
    study = {
        folder.name: list(units(folder))
        for folder in sorted(root.iterdir())
        if any(folder.glob("seed-*"))
    }
    return {name: found for name, found in study.items() if found}


def units(folder: Path) -> Iterator[Unit]:
    """The pipelines of a condition whose primary arms are evaluated."""
    for place in sorted(folder.glob("seed-*")):
        if (place / "results-primary").exists():
            yield read(place)


def read(place: Path) -> Unit:
    points: dict[str, Point] = {}
    best_of = {}
    for part in ("results-primary", "results-secondary"):
        if not (place / part).exists():
            continue
        points |= points_of(place / part)
        results = json.loads((place / part / "results.json").read_text())
        for row in results.get("best_of", []):
            if judge(row["judge"]) == "score":
                best_of[row["model"]] = (row["n"], row["score"])
    arms = {name: name.rpartition("-") for name in points if name.rpartition("-")[0] in ARMS}
    keys = {name: (arm, float(beta)) for name, (arm, _, beta) in arms.items()}
    return Unit(
        seed=int(place.name.removeprefix("seed-")),
        admission=json.loads((place / "admission.json").read_text()),
        models={name: point for name, point in points.items() if name not in keys},
        arms={keys[name]: points[name] for name in keys},
        tuning={key: tuning(place / "runs" / name) for name, key in keys.items()},
        best_of=best_of,
    )


def points_of(results: Path) -> dict[str, Point]:
    """The models of one `salsa eval`, by name."""
    found = json.loads((results / "results.json").read_text())
    golds: dict[str, dict[str, float]] = {}
    for line in (results / "judgments.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        if judge(row["judge"]) == "score":
            for side in "ab":
                golds.setdefault(row[side], {})[row["question"]] = row[f"score_{side}"]
    scores = {(row["model"], judge(row["judge"])): row["score"] for row in found["scores"]}
    kls = {(row["model"], row["anchor"]): row["kl"] for row in found["kl"]}
    anchors = {anchor.rpartition("/")[2]: anchor for _, anchor in kls}
    return {
        row["model"]: Point(
            gold=tuple(golds[row["model"]][key] for key in sorted(golds[row["model"]], key=int)),
            plain=scores[row["model"], "plain"],
            proxy=scores[row["model"], "rm"],
            kl=kls[row["model"], anchors["a"]],
            kl_to_soup=kls[row["model"], anchors["soup"]],
            length=row["length"],
            finished=row["finished"],
        )
        for row in found["answers"]
    }


def judge(name: str) -> str:
    """The short name of a judge: rm, score or plain."""
    return "rm" if name.startswith("rm:") else name.rpartition(":")[2]


def tuning(run: Path) -> float:
    """The held-out reward at the end of a run, in the run's own units."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    last: float = [row["heldout"] for row in rows if "heldout" in row][-1]["reward"]["mean"]
    return last


def figures(unit: Unit) -> dict[str, Any]:
    """What is kept of a pipeline: means over the test prompts."""

    def short(point: Point) -> dict[str, float]:
        return {
            "gold": point.mean,
            "plain": point.plain,
            "proxy": point.proxy,
            "kl": point.kl,
            "kl_to_soup": point.kl_to_soup,
            "length": point.length,
            "finished": point.finished,
        }

    return {
        "seed": unit.seed,
        "admission": unit.admission,
        "models": {name: short(point) for name, point in unit.models.items()},
        "arms": {
            f"{arm}-{beta:g}": short(point) | {"tuning": unit.tuning[arm, beta]}
            for (arm, beta), point in unit.arms.items()
        },
        "best_of": unit.best_of,
    }
