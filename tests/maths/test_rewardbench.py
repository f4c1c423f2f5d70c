"""maths/rewardbench: the section scores of RewardBench."""

import math

import pytest

from salsa_cli.maths import rewardbench
from salsa_cli.maths.rewardbench import SECTIONS, ScoredPrompt, Section


def test_sections_are_means_over_pairs_but_for_reasoning() -> None:
    subsets = {
        "alpacaeval-easy": (100, 0.9),
        "mt-bench-med": (40, 0.5),
        "math-prm": (447, 0.6),
        "hep-cpp": (164, 0.8),
        "hep-rust": (164, 1.0),
    }
    assert rewardbench.sections(subsets) == (
        Section("Chat", 140, pytest.approx(110 / 140)),  # type: ignore[arg-type]
        # Mathematics .6 and code .9 weigh the same, though code has fewer pairs.
        Section("Reasoning", 775, pytest.approx(0.75)),  # type: ignore[arg-type]
    )


def test_the_overall_score_is_the_mean_of_four_sections() -> None:
    scores = {"Chat": 0.9, "Chat Hard": 0.5, "Safety": 0.7, "Reasoning": 0.1}
    subsets = {name: (10, scores[s]) for s, names in SECTIONS.items() for name in names}
    found = rewardbench.sections(subsets)
    assert {one.name: one.score for one in found} == pytest.approx({**scores, "Overall": 0.55})
    assert found[-1].n == 10 * sum(len(names) for names in SECTIONS.values())


def test_only_mathematics_is_reasoning_too() -> None:
    (only,) = rewardbench.sections({"math-prm": (447, 0.6)})
    assert only == Section("Reasoning", 447, pytest.approx(0.6))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "subsets", [{}, {"natural": (3, 1.0)}, {"natural": (3, 1.0), "hep-go": (1, 1.0)}]
)
def test_other_data_has_no_sections(subsets: dict[str, tuple[int, float]]) -> None:
    assert rewardbench.sections(subsets) == ()


def prompt(name: str, right: list[float], wrong: list[float], subset: str = "Ties") -> ScoredPrompt:
    return ScoredPrompt(name, subset, tuple(right), tuple(wrong))


@pytest.mark.parametrize(
    ("right", "wrong", "credit"),
    [
        (2.0, [1, 0, 1], 1.0),
        (2.0, [3, 0, 1], 0.0),
        (2.0, [2, 0, 1], 1 / 2),
        (2.0, [2, 2, 2], 1 / 4),
    ],
)
def test_a_best_of_four_shares_the_credit_of_a_tie(
    right: float, wrong: list[float], credit: float
) -> None:
    assert prompt("1", [right], wrong).credit == credit


def test_subsets_of_rewardbench_2_weigh_the_same_in_the_overall_score() -> None:
    found = rewardbench.prompt_sections(
        [
            prompt("1", [1], [0, 0, 0], "Math"),
            prompt("2", [1], [1, 0, 0], "Math"),
            prompt("3", [0], [1, 0, 0], "Safety"),
        ]
    )
    assert found == (
        Section("Math", 2, 0.75),
        Section("Safety", 1, 0.0),
        Section("Overall", 3, 0.375),
    )


def test_ties_by_hand() -> None:
    prompts = [
        prompt("tied:1", [5, 4], [1, 0]),  # gap 3, spread 1
        prompt("ref:1", [2], [1.5, 0]),  # gap .5
        prompt("tied:2", [5, 2], [3]),  # gap -1, spread 3
        prompt("ref:2", [2], [0]),  # gap 2
        prompt("ref:9", [0], [1]),  # gap -1, without a tied prompt
    ]
    # tied: 1 of 2 right, ref: 2 of 3. Gap above spread: tied alone 1 of 2, both 0 of 2.
    margin = (math.tanh(0.5 / 1 - 1) + math.tanh(-1 / 3 - 1)) / 2
    expected = 0.3 / 2 + 0.3 * 2 / 3 + 0.2 / 2 + 0.01 * margin
    assert rewardbench.ties_score(prompts) == pytest.approx(expected)


def test_a_perfect_model_scores_as_the_paper_says() -> None:
    prompts = [prompt("tied:1", [5, 5], [1]), prompt("ref:1", [9], [1])]
    assert rewardbench.ties_score(prompts) == pytest.approx(1.0)  # no spread: nothing to divide by
    prompts = [prompt("tied:1", [5, 5 - 1e-9], [1]), prompt("ref:1", [9], [1])]
    assert rewardbench.ties_score(prompts) == pytest.approx(1.01)
