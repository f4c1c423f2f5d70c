"""Read the finished pipelines of a study and print its tables, as PLAN.md lays them down.

    python analysis.py study/                     Markdown on stdout
    python analysis.py study/ --json results.json writes every figure of every pipeline, too

Works on a study that is not finished: each figure says from how many pipelines it is. The unit is
a pipeline; intervals are 95 % t-intervals over pipelines, of paired differences where two arms are
compared. Interpolation at equal KL and the t quantile are those of `salsa eval`.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from salsa_cli.maths import frontier, student_t
from salsa_cli.maths.significance import holm

ARMS = ("ppo", "salsa", "ref-b", "two-kls", "union", "start-soup", "ema", "perturbed")
EQUAL_KL = (2.0, 5.0, 10.0)  # nats per answer, to A
MARGIN = 0.1  # of equivalence, in standard deviations of gold over answers of A


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


@dataclass(frozen=True)
class Interval:
    """A mean over pipelines with its 95 % t-interval; one pipeline has none."""

    mean: float
    half: float | None
    n: int
    p: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Of at least one value; p is two-sided against 0."""
        n, centre = len(values), mean(values)
        if n < 2:
            return cls(centre, None, n)
        error = stdev(values) / n**0.5
        if error == 0:
            return cls(centre, 0.0, n, float(centre == 0))
        p = 2 * student_t.cumulative(-abs(centre) / error, n - 1)
        return cls(centre, student_t.quantile(0.975, n - 1) * error, n, p)

    def within(self, margin: float) -> float | None:
        """p of two one-sided tests that the mean lies within +-margin (Schuirmann 1987)."""
        if not self.half or self.n < 2:
            return None
        error = self.half / student_t.quantile(0.975, self.n - 1)
        worst = max(self.mean - margin, -margin - self.mean) / error
        return student_t.cumulative(worst, self.n - 1)

    def __str__(self) -> str:
        if self.half is None:
            return f"{self.mean:+.3f} (n = {self.n})"
        low, high = self.mean - self.half, self.mean + self.half
        return f"{self.mean:+.3f} [{low:+.3f}, {high:+.3f}] (n = {self.n})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--json", type=Path, help="file for the figures of every pipeline")
    given = parser.parse_args()
    study = {
        folder.name: list(units(folder))
        for folder in sorted(given.study.iterdir())
        if any(folder.glob("seed-*"))
    }
    study = {name: found for name, found in study.items() if found}
    if given.json:
        record = {name: [figures(unit) for unit in found] for name, found in study.items()}
        given.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n".join(tables(study)))


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


def tables(study: dict[str, list[Unit]]) -> Iterator[str]:
    """All tables of PLAN.md, as Markdown."""
    for name, found in study.items():
        yield f"## Condition: {name} ({len(found)} pipelines)\n"
        yield from precondition(found)
        yield from by_beta(found)
        yield from equal_beta(found)
        yield from chosen_beta(found)
        yield from others(found)
        yield from sampling(found)
    yield from primary(study)


def precondition(found: list[Unit]) -> Iterator[str]:
    """Gold of the SFT models and their soup on test prompts, which did not decide admission."""
    yield "### Before RL: does the soup beat its ingredients?\n"
    gains: dict[str, Callable[[Unit], float]] = {
        "gold of A": lambda unit: unit.models["a"].mean,
        "gold of B": lambda unit: unit.models["b"].mean,
        "gold of the soup": lambda unit: unit.models["soup"].mean,
        "soup - better of A and B": lambda unit: (
            unit.models["soup"].mean - max(unit.models["a"].mean, unit.models["b"].mean)
        ),
        "the same without fluency": lambda unit: (
            unit.models["soup"].plain - max(unit.models["a"].plain, unit.models["b"].plain)
        ),
        "KL(A to soup), nats per answer": lambda unit: unit.models["a"].kl_to_soup,
        "barrier, nats per token": lambda unit: float(unit.admission[-1]["barrier"]),
        "SFT pairs tried": lambda unit: float(len(unit.admission)),
    }
    yield from table(["figure", "mean [95 %]"], ([k, over(found, f)] for k, f in gains.items()))


def by_beta(found: list[Unit]) -> Iterator[str]:
    yield "### Every arm at every beta, means over pipelines\n"
    head = ["arm", "beta", "n", "gold", "plain", "proxy"]
    head += ["KL to A", "KL to soup", "tokens", "finished"]
    keys = sorted({key for unit in found for key in unit.arms}, key=order)
    rows = []
    for arm, beta in keys:
        points = [unit.arms[arm, beta] for unit in found if (arm, beta) in unit.arms]
        means = [
            mean(getattr(point, name) for point in points)
            for name in ("mean", "plain", "proxy", "kl", "kl_to_soup", "length", "finished")
        ]
        rows.append([arm, f"{beta:g}", str(len(points)), *(f"{value:.3f}" for value in means)])
    yield from table(head, rows)


def equal_beta(found: list[Unit]) -> Iterator[str]:
    """H1 and H5."""
    yield "### SALSA - PPO at equal beta\n"
    rows = []
    for beta in sorted({beta for unit in found for beta in unit.betas("salsa")}):
        pairs = [
            (unit.arms["salsa", beta], unit.arms["ppo", beta])
            for unit in found
            if ("salsa", beta) in unit.arms and ("ppo", beta) in unit.arms
        ]
        gold, plain, kl, length = (
            Interval.of([getattr(one, name) - getattr(other, name) for one, other in pairs])
            for name in ("mean", "plain", "kl", "length")
        )
        rows.append([f"{beta:g}", str(gold), str(plain), str(kl), str(length)])
    yield from table(["beta", "gold", "gold without fluency", "KL to A", "tokens"], rows)


def chosen_beta(found: list[Unit]) -> Iterator[str]:
    """H2: each arm at the beta that its held-out proxy chooses; and at the best, by gold."""
    yield "### SALSA - PPO with beta chosen for each arm\n"
    choices: dict[str, Callable[[Unit, str], float]] = {
        "highest proxy on tuning prompts": Unit.tuned,
        "highest gold on test prompts (an oracle)": Unit.best,
    }
    rows = []
    for name, choose in choices.items():
        pairs = [
            tuple(unit.arms[arm, choose(unit, arm)] for arm in ("salsa", "ppo")) for unit in found
        ]
        gold = Interval.of([one.mean - other.mean for one, other in pairs])
        wins = Interval.of([100 * win_rate(one, other) - 50 for one, other in pairs])
        rows.append([name, str(gold), str(wins)])
    yield from table(["beta chosen", "gold", "win rate by gold, points above 50 %"], rows)


def others(found: list[Unit]) -> Iterator[str]:
    """Every other arm against PPO: at equal KL, and at the beta that the proxy chooses."""
    yield "### Other arms - PPO in gold\n"
    rows = []
    for arm in ARMS[1:]:
        having = [unit for unit in found if unit.has(arm)]
        if not having:
            continue
        tuned = [
            unit.arms[arm, unit.tuned(arm)].mean - unit.arms["ppo", unit.tuned("ppo")].mean
            for unit in having
        ]
        at = [at_equal_kl(having, arm, kl) for kl in EQUAL_KL]
        reached = (str(one) if one else "not reached" for one in at)
        rows.append([arm, str(Interval.of(tuned)), *reached])
    yield from table(["arm", "beta tuned", *(f"at {kl:g} nats" for kl in EQUAL_KL)], rows)


def sampling(found: list[Unit]) -> Iterator[str]:
    yield "### Best of n without RL; the proxy chooses\n"
    rows = []
    for model in ("a", "soup"):
        pairs = [unit.best_of[model] for unit in found if model in unit.best_of]
        if pairs:
            rows.append([model, str(pairs[0][0]), str(Interval.of([gold for _, gold in pairs]))])
    yield from table(["model", "n", "gold"], rows)


def primary(study: dict[str, list[Unit]]) -> Iterator[str]:
    """The primary measure: SALSA - PPO in gold at equal KL to A, with Holm and equivalence."""
    yield "## Primary: SALSA - PPO in gold at equal KL to A\n"
    cells = [
        (name, kl, interval, MARGIN * spread(found))
        for name, found in study.items()
        for kl in EQUAL_KL
        if (interval := at_equal_kl(found, "salsa", kl))
    ]
    tested = [cell for cell in cells if cell[2].p is not None]
    adjusted = iter(holm([interval.p or 0.0 for _, _, interval, _ in tested]))
    rows = []
    for name, kl, interval, margin in cells:
        p = f"{next(adjusted):.3f}" if interval.p is not None else "-"
        within = interval.within(margin)
        equal = "-" if within is None else f"{within:.3f}"
        rows.append([name, f"{kl:g}", str(interval), p, f"{margin:.3f}", equal])
    head = ["condition", "KL to A", "gold [95 %]", "p (Holm)", "margin", "p (equivalence)"]
    yield from table(head, rows)


def at_equal_kl(found: list[Unit], arm: str, kl: float) -> Interval | None:
    """The paired difference to PPO over the pipelines where both arms reach this KL."""
    pairs = [(unit.at_kl(arm, kl), unit.at_kl("ppo", kl)) for unit in found]
    reached = [one - other for one, other in pairs if one is not None and other is not None]
    return Interval.of(reached) if reached else None


def win_rate(one: Point, other: Point) -> float:
    """(wins + ties / 2) / n by gold, as the paper counts."""
    pairs = zip(one.gold, other.gold, strict=True)
    return mean((a > b) + (a == b) / 2 for a, b in pairs)


def spread(found: list[Unit]) -> float:
    """Standard deviation of gold over answers of A, mean over pipelines."""
    return mean(stdev(unit.models["a"].gold) for unit in found)


def over(found: list[Unit], figure: Callable[[Unit], float]) -> str:
    return str(Interval.of([figure(unit) for unit in found]))


def order(key: tuple[str, float]) -> tuple[int, float]:
    return ARMS.index(key[0]), key[1]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


if __name__ == "__main__":
    main()
