"""The page of many models: what comes first, what is folded, and where many begin."""

from dataclasses import replace
from itertools import combinations

from salsa_cli import pages
from salsa_cli.evaluation.report import many_models, report_page
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.results.win_rates import PairRow, RatingRow, ScoreRow
from salsa_cli.pages.charts import IntervalChart


def pair(a: str, b: str, rate: float = 0.6) -> PairRow:
    return PairRow(a, b, "rm:p/rm", rate, rate - 0.05, rate + 0.05, 10, 6, 4, 0, 0)


def result(models: int, *, scored: bool = True) -> EvalResult:
    """Every pair of models, the second of which is the better one."""
    names = [f"m{n}" for n in range(models)]
    scores = [ScoreRow(n, "rm:p/rm", i, i - 0.5, i + 0.5, (i,), 10, 0) for i, n in enumerate(names)]
    ratings = [RatingRow(n, "rm:p/rm", 0.0, i / 99, 0.0, 1.0) for i, n in enumerate(names)]
    return EvalResult(
        "r",
        10,
        tuple(pair(b, a) for a, b in combinations(names, 2)),
        tuple(scores) if scored else (),
        (),
        1.0,
        ratings=tuple(ratings),
    )


def outline(found: list[pages.Block]) -> list[str]:
    """The blocks in words."""
    words = []
    for block in found:
        match block:
            case pages.Heading(text):
                words.append(text)
            case pages.Grid(charts):
                titles = [c.title for c in charts if isinstance(c, IntervalChart)]
                words.append(f"charts: {', '.join(titles)}")
            case pages.DataTable():
                words.append(f"table of {len(block.rows)}")
            case pages.Details(summary, inner):
                words.append(f"[{summary}: {', '.join(outline(list(inner)))}]")
            case _:
                words.append(type(block).__name__)
    return words


def blocks(given: EvalResult, baseline: str | None = None) -> list[pages.Block]:
    return list(report_page.build(given, [], {}, {}, baseline).blocks)


def test_seven_models_are_many() -> None:
    few, many = result(6), result(7)
    assert not many_models.applies(few) and many_models.applies(many)
    assert "Who wins" in outline(blocks(few)) and "All 7 models" not in outline(blocks(few))
    assert outline(blocks(many, "m0"))[1:4] == [
        "All 7 models",
        "charts: Mean score by rm:rm",
        "table of 7",
    ]


def test_the_baseline_comes_before_all_other_pairs() -> None:
    assert outline(blocks(result(7), "m0"))[-4:] == [
        "Win rates vs. m0",
        "charts: Win rates",
        "table of 6",
        "[15 other pairs: table of 15]",
    ]
    assert outline(blocks(result(7)))[-2:] == ["Who wins", "[All 21 pairs: table of 21]"]
    alone = result(7)
    alone = replace(alone, pairs=tuple(row for row in alone.pairs if row.b == "m0"))
    assert outline(blocks(alone))[-3:] == ["Win rates vs. m0", "charts: Win rates", "table of 6"]


def test_without_scores_the_ratings_come_first() -> None:
    found = outline(blocks(result(7, scored=False)))
    assert found[1:4] == ["All 7 models", "charts: Bradley-Terry rating by rm:rm", "table of 7"]


def test_the_best_come_first_and_long_tables_are_folded() -> None:
    _, _, grid, *_ = blocks(result(41))
    assert isinstance(grid, pages.Grid)
    (chart,) = grid.blocks
    assert isinstance(chart, IntervalChart)
    assert [row.label for row in chart.rows][:2] == ["m40", "m39"] and len(chart.rows) == 40
    assert chart.note.startswith("the best 40 of 41; ")
    assert outline(blocks(result(41)))[3] == "[The numbers: table of 41]"
    _, _, _, table, *_ = blocks(result(7))
    assert isinstance(table, pages.DataTable)
    assert table.columns[-2:] == ("95% interval", "n")
    assert table.rows[0] == (
        *("m6", "rm:rm", "6.000", "5.500 to 6.500"),
        *("6.1%", "0.0% to 100.0%", "10"),
    )


def test_a_model_without_scores_has_empty_cells() -> None:
    some = result(7)
    nan = float("nan")
    none = ScoreRow("m0", "rm:p/rm", nan, nan, nan, (), 0, 3)
    some = replace(some, scores=(none, *some.scores[2:]), ratings=())
    _, _, _, table, *_ = blocks(some)
    assert isinstance(table, pages.DataTable)
    assert table.rows[-1] == ("m0", "rm:rm", "none", "", "", "", "0")
    assert len(table.rows) == 6
