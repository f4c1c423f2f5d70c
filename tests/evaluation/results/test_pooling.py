"""Many judges are counted as one."""

from pathlib import Path

from salsa_cli.config.eval import EvalConfig
from salsa_cli.evaluation.results import counting, pooling
from salsa_cli.evaluation.verdicts.formats import Convention, Stored
from salsa_cli.evaluation.verdicts.verdict import Verdict


def crowd(judges: int, name: str = "FastChat votes", gold: str | None = None) -> Stored:
    """Every judge votes on two questions: two of three for x."""
    verdicts = [
        Verdict(str(question), f"j{n}", "x", "y", outcome=float(n % 3 > 0))
        for n in range(judges)
        for question in range(2)
    ]
    verdicts += [Verdict("0", gold, "x", "y", outcome=1.0)] if gold else []
    return Stored("file", name, Convention(), verdicts, gold)


def config(**changes: object) -> EvalConfig:
    settings: dict[str, object] = {"judgments": ("f",), "output": Path("out"), "draws": 100}
    return EvalConfig(**{**settings, **changes})  # type: ignore[arg-type]


def test_a_handful_of_judges_stay_apart() -> None:
    stored = [crowd(10)]
    assert pooling.pooled(stored) == stored
    result = counting.count(stored, {}, config())
    assert len(result.pairs) == 10 and result.remarks == ()
    assert len(result.agreements) == 45 + 1


def test_a_crowd_is_one_judge() -> None:
    result = counting.count([crowd(30)], {}, config())
    (row,) = result.pairs
    # Ten of thirty vote for y, on both questions.
    assert (row.judge, row.n, row.judgements) == ("30 judges", 2, 60)
    assert row.win_rate == 2 / 3
    assert result.remarks == ("30 judges are counted together; --by-judge counts each separately",)
    # Their agreement is that of all of them, not of each two.
    (agreement,) = result.agreements
    assert len(agreement.judges) == 30
    apart = counting.count([crowd(30)], {}, config(by_judge=True))
    assert len(apart.pairs) == 30 and len(apart.agreements) == 1 and apart.remarks == ()


def test_gold_labels_stay_and_formats_are_pooled_apart() -> None:
    first, second = pooling.pooled([crowd(12, gold="label"), crowd(11, "PandaLM")])
    assert {v.judge for v in first.verdicts} == {"12 judges (FastChat votes)", "label"}
    assert {v.judge for v in second.verdicts} == {"11 judges (PandaLM)"}
    assert pooling.judges_of([crowd(2, gold="label")]) == ["j0", "j1"]
