"""Detect and read the format of a file of stored verdicts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from salsa_cli import data
from salsa_cli.data import Source
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.evaluation.verdicts import (
    alpaca_eval,
    arena_hard,
    evalscope,
    fastchat,
    judge_bench,
    llmbar,
    mapped,
    pandalm,
    reward_bench,
)
from salsa_cli.evaluation.verdicts.mapped import Columns
from salsa_cli.evaluation.verdicts.rows import StoredRow
from salsa_cli.evaluation.verdicts.verdict import Verdict, from_row

_MAPPED = "--columns"
_NEAR = 0.6


@dataclass(frozen=True)
class Convention:
    """How a benchmark aggregates verdicts into a rate.

    Attributes:
        rate: mean over questions, or over all verdicts (`pooled`).
        strong_weight: weight of a strong verdict.
        dropped: whether a failed game also drops the game in the other order.
        style_origin: difference in style at which controlled rates hold: zero, or the mean.
    """

    rate: Literal["questions", "pooled"] = "questions"
    strong_weight: int = 1
    dropped: Literal["game", "both"] = "both"
    style_origin: Literal["zero", "mean"] = "zero"


@dataclass(frozen=True)
class Stored:
    """The verdicts of one file; `gold` is the judge that holds the gold labels.

    `rows` has the row of each verdict in the file, from 0; it is empty for verdicts of this run.
    `outputs` has the answers that the file itself holds, by model and question.
    """

    source: str
    format: str
    convention: Convention
    verdicts: Sequence[Verdict]
    gold: str | None = None
    rows: Sequence[int] = ()
    outputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def by_judge(self, name: str) -> "Stored":
        """Only the verdicts of one judge."""
        return replace(self, verdicts=[v for v in self.verdicts if v.judge == name], rows=())


@dataclass(frozen=True)
class _Context:
    baseline: str | None
    sides: pandalm.Sides


@dataclass(frozen=True)
class _Format:
    name: str
    columns: frozenset[str]
    read: Callable[[StoredRow, _Context], list[Verdict]]
    convention: Convention = Convention()
    gold: str | None = None
    outputs: Callable[[StoredRow], list[tuple[str, str, str]]] | None = None
    ending: str | None = None

    def lacks(self, row: Mapping[str, object]) -> list[str]:
        """The columns that a row lacks for this format; `ending` is of a column of any name."""
        missing = sorted(self.columns - set(row))
        if self.ending is not None and not any(name.endswith(self.ending) for name in row):
            missing.append(f"...{self.ending}")
        return missing


def _own(row: StoredRow, context: _Context) -> list[Verdict]:
    try:
        return [from_row(row.source.rows[row.index])]
    except SalsaError as error:
        raise row.error(str(error)) from error


_PANDALM_TESTSET = _Format("PandaLM", pandalm.TESTSET, lambda row, _: pandalm.annotators(row))
_FORMATS = (
    _Format("FastChat pairwise", fastchat.PAIR, lambda row, _: fastchat.pair(row)),
    _Format(
        "FastChat single",
        fastchat.SINGLE,
        lambda row, _: fastchat.single(row),
        Convention(rate="pooled"),
    ),
    _Format("FastChat pairwise", fastchat.PAIR_OF_MODEL, lambda row, _: fastchat.pair(row)),
    _Format(
        "FastChat single",
        fastchat.SINGLE_OF_MODEL,
        lambda row, _: fastchat.single(row),
        Convention(rate="pooled"),
    ),
    _Format("FastChat votes", fastchat.VOTE, lambda row, _: fastchat.vote(row)),
    _Format(
        "Arena-Hard v2.0",
        arena_hard.V20,
        lambda row, context: arena_hard.v20(row, context.baseline),
        Convention(rate="pooled", strong_weight=3, style_origin="mean"),
    ),
    _Format(
        "Arena-Hard v0.1",
        arena_hard.V01,
        lambda row, context: arena_hard.v01(row, context.baseline),
        Convention(rate="pooled", strong_weight=3, dropped="game", style_origin="mean"),
    ),
    _Format("LLMBar", llmbar.COLUMNS, lambda row, _: llmbar.games(row), gold=llmbar.GOLD),
    _Format("LLMBar", llmbar.RESULT, lambda row, _: llmbar.result(row), gold=llmbar.GOLD),
    _PANDALM_TESTSET,
    _Format(
        "PandaLM verdicts",
        pandalm.VERDICTS,
        lambda row, context: pandalm.model(row, context.sides),
        ending=pandalm.RESULT,
    ),
    _Format(
        "AlpacaEval",
        alpaca_eval.COLUMNS,
        lambda row, _: alpaca_eval.annotation(row),
        outputs=alpaca_eval.outputs,
    ),
    _Format(
        "JudgeBench",
        judge_bench.COLUMNS,
        lambda row, _: judge_bench.games(row),
        gold=judge_bench.GOLD,
    ),
    _Format("RewardBench", reward_bench.COLUMNS, lambda row, _: reward_bench.credit(row)),
    _Format(
        "evalscope",
        evalscope.REVIEW,
        lambda row, _: evalscope.battle(row),
        Convention(rate="pooled", strong_weight=3),
    ),
    _Format(
        "evalscope",
        evalscope.BATTLE,
        lambda row, _: evalscope.battle(row),
        Convention(rate="pooled", strong_weight=3),
    ),
    _Format("salsa", frozenset({"question", "judge", "a"}), _own),
    _Format("salsa", frozenset({"prompt", "judge", "a", "b", "outcome"}), _own),
)


def read(
    names: Sequence[str], baseline: str | None = None, columns: Sequence[str] = ()
) -> list[Stored]:
    """The verdicts of files and folders, each in whichever format it has.

    Args:
        names: files that `data.read` reads, or folders of them.
        baseline: the model that Arena-Hard's games are against, where the file does not name it.
        columns: `NAME=COLUMN`, the columns of files in none of the known formats.

    Raises:
        SalsaError: a file cannot be read, is named twice, has a format that is not known, or a row
            that does not fit it; names file and row.
    """
    files = [str(file) for name in names for file in data.local_files(name) or (name,)]
    places = Counter(str(Path(file).resolve()) for file in files)
    if twice := [file for file, times in places.items() if times > 1]:
        raise UsageError(f"{twice[0]} is given {places[twice[0]]} times; expected once")
    sources = [data.read(file) for file in files]
    given = mapped.columns(columns)
    known = [(source, _format(source, given)) for source in sources]
    if given is not None and all(kind.name != _MAPPED for _, kind in known):
        raise UsageError("--columns has no effect: the format of every file is known")
    context = _Context(baseline, _sides(known))
    return [_read(source, kind, context) for source, kind in known]


def _format(source: Source, columns: Columns | None) -> _Format:
    row = source.rows[0]
    for kind in _FORMATS:
        if not kind.lacks(row):
            return kind
    if columns is not None:
        needed = frozenset(columns.of.values())
        if missing := sorted(needed - set(row)):
            raise UsageError(
                f"--columns: {source.name} has no column {', '.join(missing)}; it has "
                f"{', '.join(row)}"
            )
        return _Format(_MAPPED, needed, lambda row, _: columns.read(row))
    raise SalsaError(
        f"{source.name}: unknown format of stored verdicts; the first row has the columns "
        f"{', '.join(row) or 'none'}; expected a file of "
        f"{', '.join(dict.fromkeys(kind.name for kind in _FORMATS))}{_nearest(row)}. "
        "--columns a=COLUMN,b=COLUMN,outcome=COLUMN maps the columns of other formats"
    )


def _nearest(row: Mapping[str, object]) -> str:
    """Which format a row comes nearest to, and what it lacks for it; nothing if none is near."""
    shares = [(1 - len(kind.lacks(row)) / (len(kind.columns) or 1), kind) for kind in _FORMATS]
    share, kind = max(shares, key=lambda one: one[0])
    if share < _NEAR:
        return ""
    missing = []
    for name in kind.lacks(row):
        alike = get_close_matches(name, [one for one in row if one not in kind.columns], n=1)
        missing.append(f"{name} (is it {alike[0]}?)" if alike else name)
    return f"; the closest format is {kind.name}, which also needs {', '.join(missing)}"


def _sides(known: Sequence[tuple[Source, _Format]]) -> Mapping[str, tuple[str, str]]:
    rows = [
        StoredRow(source, index)
        for source, kind in known
        if kind is _PANDALM_TESTSET
        for index in range(len(source.rows))
    ]
    return {row.identifier("idx"): pandalm.sides(row) for row in rows}


def _read(source: Source, kind: _Format, context: _Context) -> Stored:
    verdicts: list[Verdict] = []
    rows: list[int] = []
    outputs: dict[str, dict[str, str]] = {}
    for index, row in enumerate(source.rows):
        if missing := kind.lacks(row):
            raise source.error(index, f"no column {', '.join(missing)}, which {kind.name} has")
        stored = StoredRow(source, index)
        verdicts += kind.read(stored, context)
        rows += [index] * (len(verdicts) - len(rows))
        for model, question, text in kind.outputs(stored) if kind.outputs else ():
            outputs.setdefault(model, {})[question] = text
    return Stored(source.name, kind.name, kind.convention, verdicts, kind.gold, rows, outputs)
