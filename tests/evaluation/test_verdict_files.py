"""`eval --judgments` from file to result, and in the words it prints."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from salsa_cli.config.eval import EvalConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.evaluation import verdict_files
from salsa_cli.evaluation.results import invalid_verdicts, win_rates
from salsa_cli.evaluation.results.comparisons import Rules
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.results.win_rates import Resampling
from salsa_cli.evaluation.verdicts.verdict import Order, Verdict, to_row
from salsa_cli.records import to_json
from salsa_cli.runs.events import DryRun, Event, Note, Warned, silent
from tests.support import tiny
from tests.support.verdict_rows import OWN, PAIR, SINGLE, UNREAD, V01, pairs
from tests.support.verdict_rows import count_files as run


def test_54_percent_of_80_prompts_prove_nothing(tmp_path: Path) -> None:
    result = run(tmp_path, pairs(43, 0, 37))
    (row,) = result.pairs
    assert row.win_rate == 0.5375 and row.low < 0.5 < row.high
    text, table = result.summary()
    assert table is not None and table.rows[0][3] == "53.8%"
    # (1.96 + 0.84) sqrt(0.5375 * 0.4625 / 79) = 0.157.
    assert (
        "By gpt-4, no significant difference between x and y (53.8%, 80 prompts). With 80% "
        "power, this many prompts show a difference of 15.7 points or more."
    ) in text


def test_what_is_proven_is_not_called_nothing(tmp_path: Path) -> None:
    result = run(tmp_path, pairs(60, 0, 20))
    assert result.pairs[0].decided and result.pairs[0].p_value < 1e-5
    assert "nothing" not in result.summary()[0]


def test_turning_the_models_round_turns_the_rate_round(tmp_path: Path) -> None:
    random.seed(0)
    winners = ["model_1", "model_2", "tie", "error"]
    rows = [
        {**PAIR, "question_id": n // 2, "turn": 1 + n % 2}
        | {f"g{game}_winner": random.choice(winners) for game in (1, 2)}
        for n in range(120)
    ]
    (ours,) = run(tmp_path, rows, baseline="y").pairs
    (theirs,) = run(tmp_path, rows, baseline="x").pairs
    assert (ours.a, ours.b, theirs.a, theirs.b) == ("x", "y", "y", "x")
    assert ours.win_rate == 1 - theirs.win_rate
    assert (ours.low, ours.high) == pytest.approx((1 - theirs.high, 1 - theirs.low), abs=1e-12)
    assert (ours.wins, ours.losses, ours.ties) == (theirs.losses, theirs.wins, theirs.ties)
    assert ours.p_value == theirs.p_value and ours.consistency == theirs.consistency
    assert ours.first_position == theirs.first_position


def test_equal_answers_are_even(tmp_path: Path) -> None:
    (row,) = run(tmp_path, pairs(0, 30, 0)).pairs
    assert (row.win_rate, row.low, row.high, row.p_value) == (0.5, 0.5, 0.5, 1.0)
    # A judge that prefers whatever comes first is even too, and says so.
    (biased,) = run(tmp_path, pairs(0, 30, 0, g1_winner="model_1", g2_winner="model_2")).pairs
    assert (biased.win_rate, biased.consistency, biased.first_position) == (0.5, 0.0, 1.0)


def test_a_clean_sweep_is_not_certain(tmp_path: Path) -> None:
    (row,) = run(tmp_path, pairs(10, 0, 0)).pairs
    # Wilson: z^2 = 3.8415, 10 / 13.8415.
    assert (row.win_rate, row.high) == (1.0, 1.0)
    assert row.low == pytest.approx(10 / 13.841459, abs=1e-6)


def test_failures_are_told_with_bounds(tmp_path: Path) -> None:
    rows = [*pairs(6, 0, 2), {**PAIR, "question_id": 9, "g2_winner": "error"}]
    result = run(tmp_path, rows)
    (row,) = result.pairs
    assert (row.n, row.invalid, row.win_rate) == (8, 1, 0.75)
    # The failed game had a win beside it: 6.5 or 7 of 9.
    assert (row.worst, row.best) == (pytest.approx(6.5 / 9), pytest.approx(7 / 9))
    text, _ = result.summary()
    assert (
        "1 comparison of x and y without a valid verdict (once: the judge's text contains no "
        "verdict)" in text
    )
    assert "x would win 72.2% to 77.8%" in text
    assert "(once: the judge&#x27;s text contains no verdict)" in page_of(tmp_path)


def page_of(tmp_path: Path) -> str:
    return (tmp_path / "out" / "report.html").read_text()


def test_failures_by_reason(tmp_path: Path) -> None:
    reasons = ["e", "b", "a", "c", "b", "d", "a", "a"]
    rows = [{**OWN, "question": "0"}, *({**UNREAD, "invalid": reason} for reason in reasons)]
    (row,) = run(tmp_path, rows).pairs
    assert list(row.reasons.items()) == [("a", 3), ("b", 2), ("e", 1), ("c", 1), ("d", 1)]
    assert (row.judgements, row.invalid) == (9, 8)
    assert (
        invalid_verdicts.counted(row.reasons)
        == "3 times: a; 2 times: b; once: e; 2 times: other reasons"
    )


def test_too_many_stored_failures_are_refused_if_that_is_asked_for(tmp_path: Path) -> None:
    rows = [*pairs(6, 0, 2), {**PAIR, "question_id": 9, "g2_winner": "error"}]
    with pytest.raises(SalsaError) as caught:
        run(tmp_path, rows, max_invalid=0.05)
    assert str(caught.value) == (
        "gpt-4: 1 of 18 judgements of x against y is invalid (once: the judge's text contains no "
        "verdict); the win rate is between 72.2% and 77.8%\n"
        "That is more than --max-invalid 0.05. Increase it to count the others"
    )
    assert not (tmp_path / "out").exists()
    assert run(tmp_path, rows, max_invalid=1 / 18).pairs[0].invalid == 1
    # Arena-Hard's strong verdicts count three times, the missing one too: 3 of 6 to 6 of 6.
    arena = [{**V01, "games": [{"score": "B>>A"}, {"score": None}]}]
    with pytest.raises(SalsaError, match=r"between 50\.0% and 100\.0%"):
        run(tmp_path, arena, max_invalid=0.1)


def test_too_many_stored_grades_that_failed(tmp_path: Path) -> None:
    rows = [{**SINGLE, "question_id": n, "score": score} for n, score in enumerate([7, 8, -1])]
    # (15 + 1) / 3 and (15 + 10) / 3.
    with pytest.raises(SalsaError, match=r"1 of 3 judgements of x .* between 5\.33 and 8\.33"):
        run(tmp_path, rows, max_invalid=0.3)
    assert run(tmp_path, rows, max_invalid=0.34).scores[0].reasons


def test_three_models(tmp_path: Path) -> None:
    rows = [
        *pairs(30, 0, 10),
        *pairs(20, 0, 20, model_2="z"),
        *pairs(10, 0, 30, model_1="y", model_2="z"),
    ]
    result = run(tmp_path, rows)
    assert [(row.a, row.b) for row in result.pairs] == [("x", "y"), ("x", "z"), ("y", "z")]
    smallest = min(row.p_value for row in result.pairs)
    assert min(row.p_holm for row in result.pairs) == pytest.approx(3 * smallest)
    strengths = {row.model: row for row in result.ratings}
    # x and z meet the others alike.
    assert strengths["x"].strength == pytest.approx(strengths["z"].strength, abs=1e-6)
    assert strengths["x"].win_rate == pytest.approx((0.75 + 0.5) / 2, abs=1e-6)
    assert strengths["y"].high < 0.5
    # Against one baseline alone, a joint fit has nothing to add.
    assert run(tmp_path, rows[:80]).ratings == ()


def test_a_model_against_itself_changes_nothing_else(tmp_path: Path) -> None:
    others = [
        *pairs(30, 0, 10),
        *pairs(20, 0, 20, model_2="z"),
        *pairs(10, 0, 30, model_1="y", model_2="z"),
    ]
    others += [{**row, "judge": "human"} for row in others]
    # Shown first, it won 3 games of 4: both of one question, and one of another.
    games = [("model_1", "model_2"), ("model_1", "model_1")]
    itself = [
        {**PAIR, "model_2": "x", "question_id": n, "g1_winner": one, "g2_winner": two, "judge": who}
        for n, (one, two) in enumerate(games)
        for who in ("gpt-4", "human")
    ]
    for n, row in enumerate(others + itself):
        row["category"] = "ab"[n % 2]
    without, result = run(tmp_path, others), run(tmp_path, others + itself)
    assert [row for row in result.pairs if not row.of_itself] == list(without.pairs)
    even, _ = (row for row in result.pairs if row.of_itself)
    assert (even.win_rate, even.low, even.high, even.ties, even.n) == (0.5, 0.5, 0.5, 2, 2)
    assert (even.p_value, even.p_holm, even.first_position) == (1.0, 1.0, 0.75)
    assert result.ratings == without.ratings and result.categories == without.categories
    assert result.agreements == without.agreements
    text, _ = result.summary()
    assert "By gpt-4, x was compared with itself: a tie; the answer shown first won 75.0%." in text
    assert "between x and x" not in text


def test_where_nothing_counts_there_is_no_number(tmp_path: Path) -> None:
    failed = {**PAIR, "g1_winner": "error", "g2_winner": "error"}
    text, table = run(tmp_path, [failed]).summary()
    assert table is not None and table.rows[0][3:5] == ("none", "")
    assert "nan" not in text and "nan%" not in page_of(tmp_path)
    text, table = run(tmp_path, [{**SINGLE, "score": -1}]).summary()
    assert table is not None and table.rows[0][2:4] == ("none", "")
    assert "nan" not in text and ">nan" not in page_of(tmp_path)


def test_single_grading(tmp_path: Path) -> None:
    rows = [{**SINGLE, "question_id": q, "turn": t, "score": 5 + t} for q in (1, 2) for t in (1, 2)]
    result = run(tmp_path, [*rows, {**SINGLE, "question_id": 3, "score": -1}])
    (row,) = result.scores
    assert (row.model, row.score, row.turns, row.n, row.invalid) == ("x", 6.5, (6.0, 7.0), 4, 1)
    text, table = result.summary()
    assert "1 of 5 answers of x has no valid score" in text and table is not None
    assert result.pairs == ()


def test_categories(tmp_path: Path) -> None:
    rows = pairs(4, 0, 0, category="math") + pairs(0, 0, 4, category="writing")
    rows = [{**row, "question_id": n} for n, row in enumerate(rows)]
    result = run(tmp_path, rows)
    assert [(row.category, row.win_rate) for row in result.categories] == [
        ("math", 1.0),
        ("writing", 0.0),
    ]


def test_two_judges(tmp_path: Path) -> None:
    other = pairs(30, 5, 5, judge="human")
    result = run(tmp_path, pairs(25, 5, 10), other)
    assert [(row.judge, row.win_rate) for row in result.pairs] == [
        ("gpt-4", 0.6875),
        ("human", 0.8125),
    ]
    (row,) = result.agreements
    assert (row.judges, row.n, row.raw) == (("gpt-4", "human"), 40, 0.75)
    assert "gpt-4, human on 40 comparisons: agree on 75.0%" in result.summary()[0]


def test_equal_length(tmp_path: Path) -> None:
    random.seed(1)
    answers = []
    rows = []
    for n in range(300):
        lengths = {name: random.randint(50, 500) for name in ("x", "y")}
        answers += [
            {
                "question_id": n,
                "model_id": name,
                "conv_metadata": {"token_len": length, **counts(n, name)},
            }
            for name, length in lengths.items()
        ]
        longer = "model_1" if lengths["x"] + 150 > lengths["y"] else "model_2"
        rows.append({**PAIR, "question_id": n, "g1_winner": longer, "g2_winner": longer})
    file = tiny.write_rows(tmp_path / "answers.jsonl", answers)
    result = run(tmp_path, rows, answers=(str(file),))
    length, style = result.controlled
    (row,) = length.rows
    assert (row.model, row.baseline, row.control) == ("x", "y", "length")
    # The judge wants the longer answer, with a bonus for x; at equal length x wins nearly all.
    assert row.low > result.pairs[0].high
    assert length.coefficients["token_len"] > 0
    parts = {row.category: row for row in result.lengths}
    assert list(parts) == ["shorter", "about as long", "longer"]
    assert sum(row.n for row in parts.values()) == 300
    # 5% of the sum at most: about a tenth of uniform pairs. x has a bonus of 150 tokens.
    assert 15 < parts["about as long"].n < 60 and parts["longer"].win_rate == 1.0
    assert set(style.coefficients) == {"token_len", "header_count", "list_count", "bold_count"}
    with pytest.raises(
        SalsaError, match="the answer to question 300 of y is missing; pass it with"
    ):
        run(tmp_path, [*rows, {**PAIR, "question_id": 300}], answers=(str(file),))


def lengths(tmp_path: Path, *given: tuple[int, ...], names: str = "xy") -> str:
    """Answers of so many words, a tuple a question."""
    return str(
        tiny.write_rows(
            tmp_path / "answers.jsonl",
            [
                {"question_id": n, "model_id": name, "choices": [{"turns": ["word " * length]}]}
                for n, row in enumerate(given)
                for name, length in zip(names, row, strict=True)
            ],
        )
    )


def test_where_length_tells_all_there_is_no_rate_at_equal_length(tmp_path: Path) -> None:
    answers = lengths(tmp_path, *[(90, 60)] * 20, *[(60, 90)] * 20, *[(80, 70)] * 5)
    result = run(tmp_path, pairs(20, 0, 20) + pairs(0, 0, 0), answers=(answers,))
    assert [one.rows for one in result.controlled] == [(), ()]
    assert [one.coefficients for one in result.controlled] == [{}, {}]
    text, _ = result.summary()
    assert "By gpt-4, at equal length, against y: no win rate: length alone separates wins" in text
    assert "No rate:" in page_of(tmp_path)


def test_a_model_that_won_all_has_no_rate_at_equal_length(tmp_path: Path) -> None:
    given = [(50 + 7 * (n % 5), 60 + 5 * (n % 4), 55 + 9 * (n % 3)) for n in range(40)]
    answers = lengths(tmp_path, *given, names="xyz")
    mixed = pairs(20, 0, 20)
    mixed = [mixed[(7 * n) % 40] | {"question_id": n} for n in range(40)]
    result = run(
        tmp_path,
        [*pairs(40, 0, 0, model_1="z"), *mixed],
        answers=(answers,),
        baseline="y",
    )
    length, style_ = result.controlled
    for one in (length, style_):
        (row,) = one.rows
        assert row.model == "x" and row.low < row.win_rate < row.high
        assert one.separated is not None and "no win rate for z" in one.separated


def counts(n: int, name: str) -> dict[str, int]:
    names = ("header_count", "list_count", "bold_count")
    return {
        key: (n + len(name) + at) * (at + 3) % 7 + (name == "x") for at, key in enumerate(names)
    }


def test_what_is_written(tmp_path: Path) -> None:
    result = run(tmp_path, pairs(5, 1, 2))
    folder = tmp_path / "out"
    stored = json.loads((folder / "results.json").read_text())
    assert stored == json.loads(json.dumps(result.record()))
    made = json.loads((folder / "salsa.json").read_text())
    assert made["settings"]["rule"] == "half"
    (files,) = made["inputs"]["judgments"]
    assert files["source"].endswith("0.jsonl") and len(files["sha256"]) == 1


def test_what_is_said_on_the_way(tmp_path: Path) -> None:
    heard: list[Event] = []
    file = tiny.write_rows(tmp_path / "a.jsonl", [V01])
    config = EvalConfig(judgments=(str(file),), output=tmp_path / "out")
    verdict_files.run(config, heard.append)
    assert heard == [
        Note("Arena-Hard v0.1: 2 verdicts in 1 file"),
        Warned("gpt-4-0314 is assumed to be the baseline; choose another with --baseline NAME"),
    ]


def test_a_complete_result_is_handed_back(tmp_path: Path) -> None:
    answers = [
        {"question_id": n, "model_id": name, "choices": [{"turns": [f"{n} of {name}" * n]}]}
        for n in range(12)
        for name in ("x", "y")
    ]
    given = str(tiny.write_rows(tmp_path / "answers.jsonl", answers))
    rows = [*pairs(8, 0, 4), {**PAIR, "question_id": 11, "g2_winner": "error"}]
    rows = [{**row, "category": "ab"[n % 2]} for n, row in enumerate(rows)]
    # Nothing counts here: the rate is no number, which JSON does not have.
    rows += pairs(1, 0, 0, model_2="z", g2_winner="error")
    files = (rows, [{**row, "judge": "human"} for row in rows], [SINGLE, {**SINGLE, "score": -1}])
    names = [str(tiny.write_rows(tmp_path / f"{n}.jsonl", one)) for n, one in enumerate(files)]
    config = EvalConfig(judgments=tuple(names[:2]), answers=(), output=tmp_path / "out", draws=200)
    for settings in (
        {},
        {"judgments": tuple(names)},
        {"answers": (given,), "judgments": names[:1]},
    ):
        one = replace(config, **settings, force=True)
        if one.answers:
            tiny.write_rows(tmp_path / "0.jsonl", pairs(8, 0, 4))
        result = verdict_files.run(one, silent)
        heard: list[Event] = []
        again = verdict_files.run(replace(one, force=False, resume=True), heard.append)
        assert isinstance(result, EvalResult) and isinstance(again, EvalResult)
        assert to_json(again.record()) == to_json(result.record())
        assert again.summary() == result.summary()
        assert heard == [Note(f"{one.output} is already complete; nothing to do")]
    with pytest.raises(SalsaError, match="was made with other settings: draws was 200, is 300"):
        verdict_files.run(replace(one, force=False, resume=True, draws=300), silent)


def test_a_result_that_still_has_t_intervals_is_read(tmp_path: Path) -> None:
    config = EvalConfig(
        judgments=(str(tiny.write_rows(tmp_path / "v.jsonl", pairs(8, 0, 4))),),
        output=tmp_path / "out",
    )
    result = verdict_files.run(config, silent)
    assert isinstance(result, EvalResult)
    file = tmp_path / "out" / "results.json"
    record = json.loads(file.read_text())
    record["pairs"][0] |= {"t_low": 0.1, "t_high": 0.9}
    file.write_text(json.dumps(record))
    assert verdict_files.run(replace(config, resume=True), silent) == result


def test_what_is_odd_is_said_and_kept(tmp_path: Path) -> None:
    heard: list[Event] = []
    file = tiny.write_rows(tmp_path / "a.jsonl", [PAIR, PAIR])
    result = verdict_files.run(
        EvalConfig(judgments=(str(file),), output=tmp_path / "out"), heard.append
    )
    assert isinstance(result, EvalResult)
    (remark,) = result.remarks
    assert "2 verdicts have an earlier one, 2 of them an exact copy" in remark
    assert heard == [Note("FastChat pairwise: 4 verdicts in 1 file"), Warned(remark)]
    assert "row 2: the same question" in page_of(tmp_path)


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    file = tiny.write_rows(tmp_path / "a.jsonl", [OWN])
    config = EvalConfig(judgments=(str(file),), output=tmp_path / "out", dry_run=True)
    result = verdict_files.run(config, silent)
    assert isinstance(result, DryRun) and result.facts["verdicts"] == 1
    assert not config.output.exists()


def test_a_baseline_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--baseline w: no such model; expected one of x, y"):
        run(tmp_path, [PAIR], baseline="w")
    with pytest.raises(UsageError, match="none: answers were graded individually"):
        run(tmp_path, [SINGLE], baseline="w")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "missing MODEL, --prompts, --judge; expected"),
        ({"models": ("m",), "judge": ("rm:r",)}, "missing --prompts; expected"),
        ({"judgments": ("j",), "models": ("m",)}, "MODEL would have no effect"),
        ({"judgments": ("j",), "models": ("m",), "judge": ("j",)}, "MODEL, --judge would have"),
    ],
)
def test_what_eval_needs(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        EvalConfig(output=Path("out"), **given)


def test_our_own_verdicts_give_the_same_again(tmp_path: Path) -> None:
    orders: tuple[tuple[Order, int], ...] = (("ab", 1), ("ba", 2))
    verdicts = [
        Verdict(str(n), "gpt", "x", "y", 1 + n % 2, order, (n * step % 3) / 2, category="art")
        for n in range(20)
        for order, step in orders
    ]
    rules, drawn = Rules(), Resampling(0, 500)
    compared = win_rates.comparisons([win_rates.as_stored(verdicts)], rules)
    result = run(tmp_path, [dict(to_row(verdict)) for verdict in verdicts], draws=500)
    assert result.pairs == win_rates.pair_rows(compared, rules, drawn)


@pytest.mark.slow
@pytest.mark.parametrize("models", [2, 100])
def test_100_000_verdicts_are_counted_whole(models: int, tmp_path: Path) -> None:
    random.seed(3)
    labels = ["A>>B", "A>B", "A=B", "B>A", "B>>A"]
    rows = [
        {**V01, "question_id": str(n // models), "model": f"m{n % models}"}
        | {"games": [{"score": random.choice(labels)} for _ in range(2)]}
        for n in range(50_000)
    ]
    file = tiny.write_rows(tmp_path / "v.jsonl", rows)
    config = EvalConfig(judgments=(str(file),), output=tmp_path / "out")
    result = verdict_files.run(config, silent)
    assert isinstance(result, EvalResult) and len(result.pairs) == models
    assert sum(pair.wins + pair.losses + pair.ties for pair in result.pairs) == 50_000
