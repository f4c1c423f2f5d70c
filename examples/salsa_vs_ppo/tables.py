"""The tables of PLAN.md, from finished pipelines.

The unit is a pipeline; intervals are 95 % t-intervals over pipelines, of paired differences where
two arms are compared. Interpolation at equal KL and the t quantile are those of `salsa eval`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from pipelines import ARMS, Unit

from salsa_cli.maths import student_t
from salsa_cli.maths.significance import holm

EQUAL_KL = (2.0, 5.0, 10.0)  # nats per answer, to A
MARGIN = 0.1  # of equivalence, in standard deviations of gold over answers of A
CONDITIONS = {
    "holds": "the soup is better than both SFT models before RL",
    "fails": "the soup is no better than the SFT models",
}


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names them."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        rows = [self.head, ["---"] * len(self.head), *self.rows]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join(
            [f"### {self.title}\n", *([f"{self.note}\n"] if self.note else []), *lines, ""]
        )


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

    @property
    def low(self) -> float:
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half or 0.0)

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
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}] (n = {self.n})"


@dataclass(frozen=True)
class Cell:
    """One cell of the primary measure: SALSA - PPO in gold at a KL to A."""

    condition: str
    kl: float
    difference: Interval
    margin: float  # of equivalence, in gold
    p_holm: float | None


def tables(study: dict[str, list[Unit]]) -> Iterator[Table]:
    """All tables: what the study is about first, then each condition in detail."""
    yield primary(study)
    yield within_kl(study)
    yield hypotheses(study)
    for name, found in study.items():
        yield from details(name, found)


def details(name: str, found: list[Unit]) -> Iterator[Table]:
    """All tables of one condition."""
    where = f"{name}, {pipelines(len(found))}"
    yield precondition(found, where)
    yield equal_beta(found, where)
    yield chosen_beta(found, where)
    yield gain_of_rl(found, where)
    yield others(found, where)
    yield others_at_kl(found, where)
    yield sampling(found, where)
    yield by_beta(found, where)


def pipelines(count: int) -> str:
    return f"{count} pipeline{'s' * (count != 1)}"


def cells(study: dict[str, list[Unit]]) -> list[Cell]:
    """The primary measure in each condition at each KL, with Holm over those with an interval."""
    found = [
        (name, kl, interval, MARGIN * spread(units))
        for name, units in study.items()
        for kl in EQUAL_KL
        if (interval := at_equal_kl(units, "salsa", kl))
    ]
    adjusted = iter(holm([one.p for _, _, one, _ in found if one.p is not None]))
    return [
        Cell(name, kl, one, margin, None if one.p is None else next(adjusted))
        for name, kl, one, margin in found
    ]


def primary(study: dict[str, list[Unit]]) -> Table:
    rows = []
    for cell in cells(study):
        within = cell.difference.within(cell.margin)
        found = study[cell.condition]
        between = sum(
            all(unit.between_runs(arm, cell.kl) for arm in ("salsa", "ppo")) for unit in found
        )
        rows.append(
            [
                *(cell.condition, f"{cell.kl:g}", str(cell.difference), probability(cell.p_holm)),
                *(f"{cell.margin:.3f}", probability(within), f"{between} of {len(found)}"),
            ]
        )
    head = ["condition", "KL to A", "gold [95 %]", "p (Holm)", "margin", "p (equivalence)"]
    return Table(
        "Primary: SALSA - PPO in gold at equal KL to A",
        [*head, "between runs"],
        rows,
        "Between runs: pipelines in which both arms have a run below this KL and one above it. In "
        "the others, gold is read from the line between the start and the run closest to it.",
    )


def probability(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def within_kl(study: dict[str, list[Unit]]) -> Table:
    """What PLAN.md adds on 2026-11-29: no run is read where another of its arm is better."""
    rows = []
    for name, found in study.items():
        for kl in EQUAL_KL:
            gold, plain = (best_within(found, "salsa", kl, one) for one in ("gold", "plain"))
            if gold and plain:
                equal = gold.within(MARGIN * spread(found))
                rows.append([name, f"{kl:g}", str(gold), probability(equal), str(plain)])
    head = ["condition", "KL to A", "gold [95 %]", "p (equivalence)", "without fluency"]
    return Table(
        "Exploratory: SALSA - PPO within a KL to A",
        head,
        rows,
        "The highest gold of an arm within this KL, by its start, its runs and mixtures of two of "
        "them.",
    )


def best_within(found: list[Unit], arm: str, kl: float, measure: str = "gold") -> Interval | None:
    """The paired difference to PPO over the pipelines in which both arms have a point so near."""
    pairs = [
        (unit.within_kl(arm, kl, measure), unit.within_kl("ppo", kl, measure)) for unit in found
    ]
    reached = [one - other for one, other in pairs if one is not None and other is not None]
    return Interval.of(reached) if reached else None


def hypotheses(study: dict[str, list[Unit]]) -> Table:
    """H1 to H5 by the rules of PLAN.md, as far as the finished pipelines decide them."""
    holds, fails = (study.get(name, []) for name in CONDITIONS)
    rows: list[Sequence[str]] = []
    if holds:
        strong = max(holds[0].betas("salsa"))
        gold = differences(holds, strong, "gold")
        rows.append(
            ["H1", f"SALSA - PPO in gold at beta {strong:g}, holds", str(gold), above(gold)]
        )
    equal = cells(study)
    ahead = [one for one in equal if one.p_holm is not None and one.p_holm < 0.05]
    ahead = [one for one in ahead if one.difference.mean > 0]
    alike = [one for one in equal if (p := one.difference.within(one.margin)) and p < 0.05]
    tuned = {name: chosen_difference(found, "salsa") for name, found in study.items()}
    better = [name for name, one in tuned.items() if above(one) == "supported"]
    same = [
        name
        for name, one in tuned.items()
        if (p := one.within(MARGIN * spread(study[name]))) and p < 0.05
    ]
    said = f"{len(ahead)} of {len(equal)} cells above 0, {len(alike)} equivalent; beta tuned: "
    said += f"{len(better)} of {len(tuned)} above 0, {len(same)} equivalent"
    shown = equal and len(alike) == len(equal) and len(same) == len(tuned)
    verdict = "refuted" if ahead or better else "supported" if shown else "undecided"
    rows.append(["H2", "not above PPO at equal KL, nor with beta tuned", said, verdict])
    if any(unit.has("start-soup") for unit in holds):
        start = chosen_difference(holds, "start-soup")
        rows.append(["H3", "start at the soup - PPO, beta tuned, holds", str(start), above(start)])
    if fails:
        arms = [arm for arm in ARMS[1:] if any(unit.has(arm) for unit in fails)]
        found = {arm: chosen_difference(fails, arm) for arm in arms}
        better = [arm for arm, one in found.items() if above(one) == "supported"]
        known = all(one.half is not None for one in found.values())
        adjusted = holm([1.0 if one.p is None else one.p for one in found.values()])
        still = [arm for arm, p in zip(arms, adjusted, strict=True) if arm in better and p < 0.05]
        said = f"above PPO: {', '.join(better) or 'none'} of {len(arms)} arms"
        if better:
            said += f" (after Holm over the arms: {', '.join(still) or 'none'})"
        verdict = "refuted" if better else "not refuted" if known else "undecided"
        rows.append(["H4", "no arm above PPO, beta tuned, fails", said, verdict])
    kls = [
        differences(units, beta, "kl")
        for units in (holds, fails)
        if units
        for beta in units[0].betas("salsa")
    ]
    larger = sum(one.half is not None and one.low > 0 for one in kls)
    smaller = sum(one.half is not None and one.high < 0 for one in kls)
    said = f"larger in {larger} of {len(kls)} cells, smaller in {smaller}"
    verdict = "supported" if larger == len(kls) else "refuted" if smaller else "undecided"
    rows.append(["H5", "KL to A larger under SALSA at equal beta", said, verdict])
    return Table("Hypotheses", ["", "figure", "found", "verdict"], rows)


def above(interval: Interval) -> str:
    """Whether the interval lies above 0."""
    if interval.half is None:
        return "undecided"
    return "supported" if interval.low > 0 else "refuted" if interval.high < 0 else "undecided"


def precondition(found: list[Unit], where: str) -> Table:
    """Gold of the SFT models and their soup on test prompts, which did not decide admission."""
    gains: dict[str, Callable[[Unit], float]] = {
        "gold of A": lambda unit: unit.models["a"].gold,
        "gold of B": lambda unit: unit.models["b"].gold,
        "gold of the soup": lambda unit: unit.models["soup"].gold,
        "soup - better of A and B": lambda unit: (
            unit.models["soup"].gold - max(unit.models["a"].gold, unit.models["b"].gold)
        ),
        "soup - mean of A and B": lambda unit: (
            unit.models["soup"].gold - (unit.models["a"].gold + unit.models["b"].gold) / 2
        ),
        "soup - better of A and B, without fluency": lambda unit: (
            unit.models["soup"].plain - max(unit.models["a"].plain, unit.models["b"].plain)
        ),
        "loss of the better model - loss of the soup, nats per token": lambda unit: unit.loss_gain,
        "KL(A to soup), nats per answer": lambda unit: unit.models["a"].kl_to_soup,
        "barrier, nats per token": lambda unit: float(unit.admission[-1]["barrier"]),
        "accuracy of the reward model on held-out pairs": lambda unit: unit.accuracy,
        "SFT pairs tried": lambda unit: float(len(unit.admission)),
    }
    rows = [[name, over(found, figure)] for name, figure in gains.items()]
    return Table(
        f"Before RL: is the soup better than both models? ({where})",
        ["figure", "mean [95 %]"],
        rows,
    )


def by_beta(found: list[Unit], where: str) -> Table:
    head = ["arm", "beta", "n", "gold", "plain", "proxy"]
    head += ["KL to A", "KL to soup", "tokens", "finished"]
    keys = sorted({key for unit in found for key in unit.arms}, key=order)
    rows = []
    for arm, beta in keys:
        points = [unit.arms[arm, beta] for unit in found if (arm, beta) in unit.arms]
        means = [
            mean(getattr(point, name) for point in points)
            for name in ("gold", "plain", "proxy", "kl", "kl_to_soup", "length", "finished")
        ]
        rows.append([arm, f"{beta:g}", str(len(points)), *(f"{value:.3f}" for value in means)])
    return Table(f"Every arm at every beta, means over pipelines ({where})", head, rows)


def equal_beta(found: list[Unit], where: str) -> Table:
    """H1 and H5."""
    rows = []
    for beta in sorted({beta for unit in found for beta in unit.betas("salsa")}):
        measures = ("gold", "plain", "proxy", "kl", "length")
        rows.append([f"{beta:g}", *(str(differences(found, beta, name)) for name in measures)])
    head = ["beta", "gold", "gold without fluency", "proxy", "KL to A", "tokens"]
    return Table(f"SALSA - PPO at equal beta ({where})", head, rows)


def differences(found: list[Unit], beta: float, measure: str) -> Interval:
    """SALSA - PPO in a measure of `Point` at this beta."""
    pairs = [(unit.arms["salsa", beta], unit.arms["ppo", beta]) for unit in found]
    return Interval.of([getattr(one, measure) - getattr(other, measure) for one, other in pairs])


def chosen_beta(found: list[Unit], where: str) -> Table:
    """H2: each arm at the beta that its held-out proxy chooses; and at the best, by gold."""
    choices: dict[str, Callable[[Unit, str], float]] = {
        "highest proxy on tuning prompts": Unit.tuned,
        "highest gold on test prompts (an oracle)": Unit.best,
    }
    rows = []
    for name, choose in choices.items():
        gold = chosen_difference(found, "salsa", choose)
        wins = chosen_win_rate(found, "salsa", "ppo", choose)
        betas = (", ".join(f"{choose(unit, arm):g}" for unit in found) for arm in ("salsa", "ppo"))
        rows.append([name, str(gold), percent(wins), *betas])
    head = ["beta chosen", "gold", "win rate by gold", "betas of SALSA", "betas of PPO"]
    return Table(f"SALSA - PPO with beta chosen for each arm ({where})", head, rows)


def gain_of_rl(found: list[Unit], where: str) -> Table:
    """How far each arm is above its own start: what PPO adds, and not where it begins."""
    rows = [
        [arm, str(Interval.of([gain(unit, arm) for unit in having]))]
        for arm, having in [("ppo", found), *arms_of(found)]
    ]
    both = [unit for unit in found if unit.has("start-soup")]
    if both:
        difference = over(both, lambda unit: gain(unit, "start-soup") - gain(unit, "ppo"))
        rows.append(["start-soup - ppo", difference])
    return Table(f"Gain of an arm over its start, beta tuned ({where})", ["arm", "gold"], rows)


def gain(unit: Unit, arm: str) -> float:
    return unit.arms[arm, unit.tuned(arm)].gold - unit.start(arm).gold


def others(found: list[Unit], where: str) -> Table:
    """Every arm against PPO, each at the beta that the proxy chooses."""
    rows = []
    for arm, having in arms_of(found):
        tuned, plain = (chosen_difference(having, arm, measure=one) for one in ("gold", "plain"))
        wins = percent(chosen_win_rate(having, arm, "ppo"))
        rows.append([arm, str(tuned), str(plain), wins])
    head = ["arm", "gold", "gold without fluency", "win rate by gold"]
    return Table(f"Arms - PPO with beta tuned for each ({where})", head, rows)


def others_at_kl(found: list[Unit], where: str) -> Table:
    """Every arm against PPO at equal KL to A, and within a KL."""
    rows = []
    for arm, having in arms_of(found):
        at = [at_equal_kl(having, arm, kl) for kl in EQUAL_KL]
        within = [best_within(having, arm, kl) for kl in EQUAL_KL[1:]]
        rows.append([arm, *(str(one) if one else "not reached" for one in (*within, *at))])
    head = ["arm", *(f"within {kl:g} nats" for kl in EQUAL_KL[1:])]
    head += [f"at {kl:g} nats" for kl in EQUAL_KL]
    return Table(f"Arms - PPO in gold by KL to A ({where})", head, rows)


def arms_of(found: list[Unit]) -> Iterator[tuple[str, list[Unit]]]:
    """All arms but PPO, each with the pipelines in which it has run."""
    for arm in ARMS[1:]:
        having = [unit for unit in found if unit.has(arm)]
        if having:
            yield arm, having


def chosen_difference(
    found: list[Unit],
    arm: str,
    choose: Callable[[Unit, str], float] = Unit.tuned,
    measure: str = "gold",
) -> Interval:
    """Arm - PPO in a measure of `Point`, each at the beta chosen for it, where the arm has run."""
    points = [
        (unit.arms[arm, choose(unit, arm)], unit.arms["ppo", choose(unit, "ppo")])
        for unit in found
        if unit.has(arm)
    ]
    return Interval.of([getattr(one, measure) - getattr(other, measure) for one, other in points])


def chosen_win_rate(
    found: list[Unit], arm: str, rival: str, choose: Callable[[Unit, str], float] = Unit.tuned
) -> Interval:
    """The win rate by gold above one half, each arm at the beta chosen for it."""
    return Interval.of(
        [
            unit.wins[arm, choose(unit, arm)][rival, choose(unit, rival)] - 0.5
            for unit in found
            if unit.has(arm) and unit.has(rival)
        ]
    )


def percent(above_half: Interval) -> str:
    """A win rate that is stored as its distance from one half."""
    centre, low, high = (50 + 100 * x for x in (above_half.mean, above_half.low, above_half.high))
    if above_half.half is None:
        return f"{centre:.1f}% (n = {above_half.n})"
    return f"{centre:.1f}% [{low:.1f}, {high:.1f}] (n = {above_half.n})"


def sampling(found: list[Unit], where: str) -> Table:
    rows = []
    for model in ("a", "soup"):
        pairs = [unit.best_of[model] for unit in found if model in unit.best_of]
        if pairs:
            rows.append([model, str(pairs[0][0]), str(Interval.of([gold for _, gold in pairs]))])
    head = ["model", "n", "gold"]
    return Table(f"Best of n without RL; the proxy chooses ({where})", head, rows)


def at_equal_kl(found: list[Unit], arm: str, kl: float) -> Interval | None:
    """The paired difference to PPO over the pipelines where both arms reach this KL."""
    pairs = [(unit.at_kl(arm, kl), unit.at_kl("ppo", kl)) for unit in found]
    reached = [one - other for one, other in pairs if one is not None and other is not None]
    return Interval.of(reached) if reached else None


def spread(found: list[Unit]) -> float:
    """Standard deviation of gold over answers of A, mean over pipelines."""
    return mean(unit.models["a"].spread for unit in found)


def over(found: list[Unit], figure: Callable[[Unit], float]) -> str:
    return str(Interval.of([figure(unit) for unit in found]))


def order(key: tuple[str, float]) -> tuple[int, float]:
    return ARMS.index(key[0]), key[1]
