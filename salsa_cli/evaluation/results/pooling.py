"""Many judges as one: the votes of a crowd are counted together."""

from collections.abc import Sequence
from dataclasses import replace

from salsa_cli.evaluation.verdicts.formats import Stored
from salsa_cli.evaluation.verdicts.verdict import Verdict

HANDFUL = 10
"""So many judges have rows of their own."""


def judges_of(stored: Sequence[Stored]) -> list[str]:
    """The judges of some files in the order of their first verdict, without gold labels."""
    return list(
        dict.fromkeys(v.judge for one in stored for v in one.verdicts if v.judge != one.gold)
    )


def pooled(stored: Sequence[Stored]) -> list[Stored]:
    """The same verdicts by one judge, such as `65 judges`, in place of more than a handful.

    Files of other formats are pooled apart, since each format counts in its own way.
    """
    formats = list(dict.fromkeys(one.format for one in stored))
    names = {
        kind: f"{len(judges):,} judges" + (f" ({kind})" if len(formats) > 1 else "")
        for kind in formats
        if len(judges := judges_of([one for one in stored if one.format == kind])) > HANDFUL
    }
    return [
        replace(one, verdicts=_by(one, names[one.format])) if one.format in names else one
        for one in stored
    ]


def _by(one: Stored, name: str) -> list[Verdict]:
    return [v if v.judge == one.gold else v.by(name) for v in one.verdicts]
