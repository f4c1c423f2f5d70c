"""Charts and tables of win rates."""

from salsa_cli.evaluation.report import rate_charts
from salsa_cli.evaluation.results.win_rates import PairRow
from salsa_cli.pages.charts import IntervalChart


def pair(a: str, b: str, rate: float, judge: str = "j", n: int = 10) -> PairRow:
    return PairRow(a, b, judge, rate, rate - 0.05, rate + 0.05, n, 6, 4, 0, 0)


def drawn(rows: list[PairRow]) -> list[IntervalChart]:
    return [c for c in rate_charts.charts("t", rows, "note") if isinstance(c, IntervalChart)]


def test_one_chart_ranked_against_one_rival() -> None:
    (chart,) = drawn([pair("a", "z", 0.3), pair("b", "z", 0.7), pair("c", "z", 0.5, n=0)])
    assert [row.label for row in chart.rows] == ["b", "a"]
    assert chart.x.label == "win rate vs. z" and chart.note == "note"
    (chart,) = drawn([pair("a", "z", 0.3), pair("b", "y", 0.7)])
    assert [row.label for row in chart.rows] == ["a / z", "b / y"]


def test_a_chart_a_judge_of_so_many_rows_and_no_more_than_forty() -> None:
    rows = [pair(f"m{n}", "z", n / 100, judge) for judge in ("j", "k") for n in range(41)]
    first, second = drawn(rows)
    assert len(first.rows) == len(second.rows) == 40
    assert first.rows[0].label == "m40" and first.rows[-1].label == "m1"
    assert first.note == "the best 40 of 41; note"
    (whole,) = drawn(rows[:40])
    assert whole.note == "note"


def test_the_table() -> None:
    table = rate_charts.table([pair("a", "z", 0.3), pair("b", "z", 0.7)])
    assert [row[:5] for row in table.rows] == [
        ("b", "z", "j", "70.0%", "65.0% to 75.0%"),
        ("a", "z", "j", "30.0%", "25.0% to 35.0%"),
    ]
    assert (rate_charts.p_value(0.00009), rate_charts.p_value(0.0123)) == ("< 0.0001", "0.0123")
