"""Remarks on oddities in stored verdicts that are no errors, with file and row of the first."""

from collections.abc import Iterator, Sequence

from salsa_cli.evaluation.verdicts import arena_hard
from salsa_cli.evaluation.verdicts.formats import Stored
from salsa_cli.evaluation.verdicts.verdict import Verdict
from salsa_cli.formatting import counted, verb

Place = tuple[str, int]
"""A file, and a row of it, from 0."""


def remarks(files: Sequence[Stored]) -> list[str]:
    """Labels unknown to the benchmark, and repeated verdicts."""
    return [*_unknown_labels(files), *_counted_from_nought(files), *_repetitions(files)]


def _counted_from_nought(files: Sequence[Stored]) -> list[str]:
    """A remark on AlpacaEval's files with 0 and 1 alone, which may mean output_1 and output_2."""
    return [
        f"{one.source}: every preference is 0 (a draw) or 1 (for output_1); none is for output_2. "
        "If they are zero-based, add 1 to each"
        for one in files
        if one.format == "AlpacaEval"
        and {v.outcome for v in one.verdicts if v.invalid is None} == {0.0, 0.5}
    ]


def _unknown_labels(files: Sequence[Stored]) -> list[str]:
    found: dict[str, list[Place]] = {}
    for verdict, place in _placed(files):
        if verdict.invalid is not None and verdict.invalid.startswith(arena_hard.UNKNOWN):
            found.setdefault(verdict.invalid, []).append(place)
    return [
        f"{_at(places[0])}: {reason}; {_games(len(places))} with it "
        f"{'is' if len(places) == 1 else 'are'} counted as invalid"
        for reason, places in found.items()
    ]


def _repetitions(files: Sequence[Stored]) -> list[str]:
    """A remark on repeated verdicts: same judge, answers and order."""
    seen: dict[tuple[object, ...], tuple[Verdict, Place]] = {}
    repeated: list[tuple[Place, Place]] = []
    copies = 0
    for given, place in _placed(files):
        verdict = given.swapped if given.b is not None and given.b < given.a else given
        key = (*_answers(verdict), verdict.order, verdict.judge)
        first, earlier = seen.setdefault(key, (verdict, place))
        if earlier is not place:
            repeated.append((place, earlier))
            copies += verdict == first
    if not repeated:
        return []
    place, earlier = repeated[0]
    count = f"{counted(len(repeated), 'verdict')} {verb(len(repeated), 'have')}"
    return [
        f"{_at(place)}: the same question, models, order and judge as {_at(earlier)}. {count} an "
        f"earlier one, {copies:,} of them an exact copy; all are counted"
    ]


def _answers(verdict: Verdict) -> tuple[object, ...]:
    return verdict.question, verdict.turn, verdict.a, verdict.b


def _placed(files: Sequence[Stored]) -> Iterator[tuple[Verdict, Place]]:
    """Every verdict with its place, without gold labels, which may repeat for every judge."""
    for one in files:
        for verdict, row in zip(one.verdicts, one.rows, strict=True):
            if verdict.judge != one.gold:
                yield verdict, (one.source, row)


def _at(place: Place) -> str:
    return f"{place[0]}, row {place[1] + 1}"


def _games(count: int) -> str:
    return counted(count, "game")
