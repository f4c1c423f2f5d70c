"""Tables of arms: for the terminal, and as rows of text for the page."""

from salsa_cli.evaluation.results.arm_results import ArmPairRow, ArmResults, ArmRow
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.formatting import figure
from salsa_cli.runs.events import Table

PAIR_COLUMNS = ("a", "b", "judge", "measure", "a - b", "95% interval", "runs", "p (Holm)")
ARM_COLUMNS = ("arm", "judge", "score", "95% interval", "spread of runs", "runs", "prompts")


def table(arms: ArmResults) -> Table:
    """The differences of the arms, or their scores where there is only one."""
    (_, first), *_ = titled(arms)
    return first


def titled(arms: ArmResults) -> list[tuple[str, Table]]:
    """All tables of the arms with their titles; none where single models are compared."""
    found = []
    if arms.pairs:
        pairs = [pair_cells(row) for row in arms.pairs]
        found.append(("Differences of arms", Table(PAIR_COLUMNS, pairs, names=4)))
    if arms.rows:
        rows = [arm_cells(row) for row in arms.rows]
        found.append(("Scores of arms", Table(ARM_COLUMNS, rows, names=2)))
    return found


def arm_cells(row: ArmRow) -> tuple[str, ...]:
    """One arm's score as text."""
    return (
        row.arm,
        short_name(row.judge),
        figure(row.score),
        f"{figure(row.low)} to {figure(row.high)}",
        "" if row.spread is None else figure(row.spread),
        str(row.runs),
        str(row.n),
    )


def pair_cells(row: ArmPairRow) -> tuple[str, ...]:
    """One difference as text; a win rate is shown as such, and not as its distance from a half."""
    estimate, between = row.amounts()
    runs = str(row.runs_a) if row.runs_a == row.runs_b else f"{row.runs_a} and {row.runs_b}"
    return (
        row.a,
        row.b,
        short_name(row.judge),
        row.measure,
        estimate,
        between,
        f"{runs}, paired" if row.paired else runs,
        f"{row.p_holm:.3f}" if row.p_holm >= 0.001 else "< 0.001",
    )
