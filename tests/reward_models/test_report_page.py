"""The reports of a reward model."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from salsa_cli import VERSION, pages
from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.pages.charts import Histogram
from salsa_cli.reward_models import assessment, report_page
from salsa_cli.reward_models.assessment import PairScores
from salsa_cli.reward_models.held_out import HeldOutAssessment
from salsa_cli.reward_models.pair_data import SourcePairs
from salsa_cli.reward_models.pairs import Dropped, EncodedPair
from salsa_cli.reward_models.report_page import EvaluationReport, TrainingReport
from salsa_cli.reward_models.rewards import RewardScale
from salsa_cli.reward_models.worst_pairs import ScoreReport, WorstPair
from tests.support.html_tree import Tree

PAIRS = tuple(
    EncodedPair("p", (1,) * (2 + n), (1,) * (5 - n), category=("easy", "<hard>")[n % 2])
    for n in range(4)
)
SCORES = (
    PairScores(np.array([0.0, 1, 2, 3]), np.array([2.0, 1.5, 1, 0])),
    PairScores(np.array([1.0, 1, 2, 3]), np.array([0.0, 1.5, 1, 4])),
)
SCALES = (RewardScale(0.5, 2.0), RewardScale(0.0, 1.0))
SOURCES = (SourcePairs("prefs.jsonl", PAIRS, (Dropped("equal scores", (3, 9)),), (1, 4, 5)),)
LONG = "very " * 5000 + "<long>"
LOOKED = ScoreReport(
    (0.0, 1.0, 2.0, 3.0),
    (2.0, 1.5, 1.0, 0.0),
    (
        WorstPair(12, "easy", "user: why?", "because", LONG, 0.0, 2.0),
        WorstPair(7, None, "p", "", "no", 1.0, 1.5),
    ),
)


@pytest.fixture(params=[1, 2])
def trained(request: pytest.FixtureRequest) -> TrainingReport:
    count = int(request.param)
    config = TrainRMConfig(model="sft", data="prefs.jsonl", output=Path("rm"), ensemble=count)
    members = [assessment.assess(PAIRS, scores) for scores in SCORES[:count]]
    together = members[0]
    if count > 1:
        together = assessment.assess_ensemble(PAIRS, SCORES, SCALES)
    metrics = [
        {"step": step, "loss": 1 / step, "accuracy": 0.5, "margin": 0.1}
        | ({"member": member} if count > 1 else {})
        for member in range(count)
        for step in range(1, 501)
    ]
    found = HeldOutAssessment(tuple(members), SCALES[:count], together)
    warnings = ("prefs.jsonl: 2 of 42 pairs left out",)
    return TrainingReport(config, 40, SOURCES, warnings, found, LOOKED, metrics)


def test_the_report_says_everything_that_was_found(trained: TrainingReport) -> None:
    page = pages.render(report_page.training_page(trained))
    for words in (
        "held-out accuracy",
        "Calibration",
        "Accuracy by length",
        "equal scores",
        "answer truncated",
    ):
        assert words in page
    assert "2 of 42 pairs left out" in page and "training pairs" in page
    assert "The accuracy is not significantly different from chance (4 pairs)." in page
    assert "Length bias." not in page  # of four pairs nobody can tell
    assert "&lt;hard&gt;" in page and "<hard>" not in page
    assert ("members agree" in page) == (len(trained.found.members) > 1)
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_length_bias_is_named_where_the_pairs_suffice(trained: TrainingReport) -> None:
    scores = PairScores(np.tile(SCORES[0].chosen, 4), np.tile(SCORES[0].rejected, 4))
    found = assessment.assess(PAIRS * 4, scores)
    assert found.length.correlation is not None and found.length.correlation > 0.9
    many = HeldOutAssessment((found,), SCALES[:1], found)
    page = pages.render(report_page.training_page(replace(trained, found=many)))
    assert "Length bias." in page


def test_a_curve_is_thinned_by_means() -> None:
    rows = [{"step": step, "loss": float(step)} for step in range(1, 402)]
    steps, values = report_page._thinned(rows, "loss")
    assert len(steps) == len(values) <= 80
    assert (steps[0], values[0]) == (6.0, 3.5) and steps[-1] == 401.0


def test_the_report_of_an_evaluation_has_no_training(trained: TrainingReport) -> None:
    report = EvaluationReport(trained.config, SOURCES[0], trained.found, LOOKED, SCALES)
    page = pages.render(report_page.evaluation_page(report))
    assert "An evaluation of sft" in page and "mean raw score" in page
    assert "Training" not in page and "training pairs" not in page


def test_the_worst_pairs_are_shown_whole_with_their_scores(trained: TrainingReport) -> None:
    tree = Tree(pages.render(report_page.training_page(trained)))
    texts = tree.text["blockquote"]
    assert texts == ["user: why?", "because", LONG, "p", "an empty answer", "no"]
    titles = tree.text["h4"]
    assert titles[:3] == ["Row 12, easy: margin -2.000", "chosen", "rejected"]
    assert "Row 7: margin -0.500" in titles
    scores = [text for text in tree.text["b"] if text.endswith("00")]
    assert scores == ["0.000", "2.000", "1.000", "1.500"]
    right = ScoreReport((1.0,), (0.0,), ())
    assert "Worst pairs" not in pages.render(
        report_page.training_page(replace(trained, scores=right))
    )


def test_the_histogram_shows_both_sides(trained: TrainingReport) -> None:
    for block in report_page.training_page(trained).blocks:
        for chart in block.blocks if isinstance(block, pages.Grid) else ():
            if isinstance(chart, Histogram):
                found = {one.name: tuple(one.values) for one in chart.samples}
    assert found == {"chosen": (0.0, 1.0, 2.0, 3.0), "rejected": (2.0, 1.5, 1.0, 0.0)}


def test_how_the_model_was_made_stands_on_its_page(trained: TrainingReport, tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("{}")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "eval_scores.jsonl").write_text("")
    report_page.write(tmp_path, trained)
    tree = Tree((tmp_path / "report.html").read_text(encoding="utf-8"))
    more = " --ensemble 2" if trained.config.ensemble > 1 else ""
    assert tree.text["pre"][0] == f"salsa train-rm sft --data prefs.jsonl{more} -o rm"
    assert tree.text["h1"] == ["salsa train-rm: rm"] and VERSION in tree.text["td"]
    links = [value for name, value in tree.attributes if name == "href"]
    assert links == ["./evaluation.json", "./1/eval_scores.jsonl"]
