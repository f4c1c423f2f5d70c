"""The page of a study: charts of what the tables say, then all tables."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

from claims import claims
from pipelines import ARMS, Point, Unit
from tables import (
    CONDITIONS,
    EQUAL_KL,
    Interval,
    Table,
    best_within,
    cells,
    chosen_difference,
    details,
    differences,
    hypotheses,
    pipelines,
    primary,
    within_kl,
)

from salsa_cli import pages
from salsa_cli.pages.charts import Estimate, IntervalChart, Line, LineChart, Rule
from salsa_cli.pages.scales import Axis

NAMES = {
    "ppo": "PPO (reference A)",
    "salsa": "SALSA (reference soup)",
    "start-soup": "start and reference soup",
    "ref-b": "reference B",
    "two-kls": "mean of the KLs to A and B",
    "union": "reference trained on the data of both",
    "ema": "moving average of the policy",
    "perturbed": "A with noise",
}
PRIMARY = ("ppo", "salsa", "start-soup")


def page(study: dict[str, list[Unit]]) -> str:
    """The whole page, as HTML."""
    counts = ", ".join(
        f"{len(found)} where the precondition {name}" for name, found in study.items()
    )
    blocks: list[pages.Block] = [
        pages.Prose(
            "PPO with the KL penalty to A, the SFT model it starts from, compared with SALSA: the "
            "same with the soup of A and a second SFT model B as reference. Gold is a reward that "
            "no policy was trained on; the proxy is the reward model that all were trained on. "
            f"The unit is a pipeline (SFT models, reward model, PPO): {counts}. The precondition "
            "is that the soup is better than both SFT models before RL. Intervals and bands are "
            "95 % t-intervals over pipelines."
        ),
        *shown(primary(study)),
        pages.Prose(
            "The margin is a tenth of the standard deviation of gold over answers of A. A p "
            "(equivalence) below .05 says that the difference is smaller than the margin."
        ),
        *shown(within_kl(study)),
        differences_chart(study),
        *shown(hypotheses(study)),
        *shown(without_commands(claims(study))),
    ]
    for name, found in study.items():
        blocks += condition(name, found)
    return pages.render(pages.Page("Does SALSA beat PPO?", blocks))


def condition(name: str, found: list[Unit]) -> list[pages.Block]:
    """Charts and tables of one condition."""
    meaning = CONDITIONS.get(name, "")
    with_others = [unit for unit in found if unit.has("ema")]
    charts: list[pages.Block] = [
        frontier(found, PRIMARY, "Gold against KL to A"),
        by_beta(found, "length", "Length of answers", Axis("tokens per answer", low=0)),
        by_beta(found, "kl", "KL to A", Axis("nats per answer", low=0)),
        by_beta(found, "proxy", "Proxy reward", Axis("mean score")),
    ]
    if with_others:
        title = f"Gold against KL to A, all arms ({pipelines(len(with_others))})"
        charts.append(frontier(with_others, ARMS, title, bands=False))
    return [
        pages.Heading(f"{name}: {meaning} ({pipelines(len(found))})"),
        pages.Grid(charts),
        pages.Details(
            "All tables", [block for one in details(name, found) for block in shown(one)]
        ),
    ]


def frontier(found: list[Unit], arms: Sequence[str], title: str, bands: bool = True) -> LineChart:
    """Mean gold against mean KL to A, from the start of an arm through its coefficients."""
    lines = []
    for arm in arms:
        having = [unit for unit in found if unit.has(arm)]
        if not having:
            continue
        each = [[unit.start(arm) for unit in having]]
        each += [[unit.arms[arm, beta] for unit in having] for beta in having[0].betas(arm)]
        each.sort(key=lambda points: mean(point.kl for point in points))
        lines.append(
            line(arm, [mean(p.kl for p in points) for points in each], each, "gold", bands)
        )
    note = (
        "Each curve goes from the start of training through the coefficients, in order of KL: no "
        "policy was trained between two points. Dashed lines are the KLs at which the arms are "
        "compared."
    )
    if bands:
        note += " The band is the 95 % interval of gold over pipelines."
    x = Axis("KL to A, nats per answer")
    return LineChart(title, x, Axis("mean gold"), lines, [Rule("x", kl) for kl in EQUAL_KL], note)


def by_beta(found: list[Unit], measure: str, title: str, y: Axis) -> LineChart:
    """A measure of the primary arms against the KL coefficient."""
    betas = found[0].betas("ppo")
    lines = [
        line(arm, betas, [[unit.arms[arm, beta] for unit in found] for beta in betas], measure)
        for arm in PRIMARY
        if found[0].has(arm)
    ]
    return LineChart(title, Axis("KL coefficient (beta)", kind="log"), y, lines)


def line(
    arm: str, x: list[float], each: list[list[Point]], measure: str, band: bool = True
) -> Line:
    """The mean of a measure over pipelines, one list of points for each x."""
    found = [Interval.of([getattr(point, measure) for point in points]) for points in each]
    low = [one.low for one in found] if band else None
    high = [one.high for one in found] if band else None
    return Line(NAMES[arm], x, [one.mean for one in found], low, high)


def differences_chart(study: dict[str, list[Unit]]) -> IntervalChart:
    """SALSA - PPO in gold: at equal KL, within a KL, at equal beta, and with beta tuned."""
    rows = []
    for name, found in study.items():
        rows += [
            estimate(f"at {cell.kl:g} nats", cell.difference, name)
            for cell in cells(study)
            if cell.condition == name
        ]
        rows += [
            estimate(f"up to {kl:g} nats", one, name)
            for kl in EQUAL_KL
            if (one := best_within(found, "salsa", kl))
        ]
        rows += [
            estimate(f"at beta {beta:g}", differences(found, beta, "gold"), name)
            for beta in found[0].betas("salsa")
        ]
        rows.append(estimate("beta tuned", chosen_difference(found, "salsa"), name))
    title = "SALSA - PPO in gold, 95 % intervals over pipelines (not adjusted)"
    return IntervalChart(title, Axis("difference in gold"), rows, reference=0.0)


def estimate(label: str, interval: Interval, condition: str) -> Estimate:
    return Estimate(
        f"{condition}, {label}", interval.mean, interval.low, interval.high, group=condition
    )


def without_commands(table: Table) -> Table:
    """The claims without their last column, for which a page has no room."""
    return replace(table, head=table.head[:-1], rows=[row[:-1] for row in table.rows])


def shown(table: Table) -> list[pages.Block]:
    """A table as blocks of the page."""
    notes = [pages.Prose(table.note)] if table.note else []
    of_words = all(row[-1].replace(" ", "").isalpha() for row in table.rows)
    names = len(table.head) if of_words else 1
    return [pages.DataTable(table.head, table.rows, names, table.title), *notes]
