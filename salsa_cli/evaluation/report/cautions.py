"""Warnings at the top of the report: undecided pairs, invalid verdicts, remarks on the data."""

from salsa_cli import pages
from salsa_cli.evaluation.results import invalid_verdicts
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.formatting import counted, verb

_MOST_CALLOUTS = 3


def blocks(result: EvalResult) -> list[pages.Block]:
    """The warnings, most important first."""
    others = [row for row in result.pairs if not row.of_itself]
    open_pairs = [row for row in others if row.n and not row.decided]
    found: list[pages.Block] = []
    if open_pairs and not result.of_arms:
        rows = [
            (
                row.a,
                row.b,
                short_name(row.judge),
                f"{row.win_rate:.1%}",
                f"{100 * row.detectable:.1f} points",
            )
            for row in open_pairs
        ]
        columns = ("a", "b", "judge", "a wins", "would show at 80% power")
        found.append(
            pages.Callout(
                "No significant difference:",
                f"{len(rows)} of {counted(len(others), 'pair')} (95% interval, and exact sign "
                "test corrected "
                "for all pairs of a judge).",
            )
        )
        found.append(
            pages.Details(
                "All of them, and the differences that this many prompts could show",
                [pages.DataTable(columns, rows, names=3)],
            )
        )
    found += _failures(result)
    gaps = () if result.of_arms else result.rating_gaps
    found += [pages.Callout("Note:", text, "note") for text in (*gaps, *result.remarks)]
    return found


def _failures(result: EvalResult) -> list[pages.Block]:
    """Invalid verdicts with their reasons; a table where there are many."""
    pairs = [row for row in result.pairs if row.worst is not None and row.best is not None]
    scores = [row for row in result.scores if row.invalid]
    if len(pairs) + len(scores) <= _MOST_CALLOUTS:
        texts = [
            f"{row.invalid} of {counted(row.n + row.invalid, 'comparison')} of {row.a} and {row.b} "
            f"by {short_name(row.judge)} {verb(row.invalid, 'have')} no valid verdict "
            f"({invalid_verdicts.counted(row.reasons)}). "
            f"Depending on their outcome, {row.a} would win {row.worst:.1%} to {row.best:.1%}."
            for row in pairs
        ]
        texts += [
            f"{score.invalid} of {counted(score.n + score.invalid, 'answer')} of {score.model} "
            f"{verb(score.invalid, 'have')} no valid score by {short_name(score.judge)} "
            f"({invalid_verdicts.counted(score.reasons)})."
            for score in scores
        ]
        return [pages.Callout("Failures:", text) for text in texts]
    table = [
        (
            row.a,
            row.b,
            short_name(row.judge),
            invalid_verdicts.counted(row.reasons),
            str(row.invalid),
            f"{row.worst:.1%} to {row.best:.1%}",
        )
        for row in pairs
    ]
    table += [
        (
            score.model,
            "",
            short_name(score.judge),
            invalid_verdicts.counted(score.reasons),
            str(score.invalid),
            "",
        )
        for score in scores
    ]
    failed = sum(row.invalid for row in pairs) + sum(row.invalid for row in scores)
    columns = ("a", "b", "judge", "why", "failed", "bounds for a wins")
    return [
        pages.Callout("Failures:", f"{failed:,} comparisons or scores have no valid verdict."),
        pages.Details("All of them, with reasons", [pages.DataTable(columns, table, names=4)]),
    ]
