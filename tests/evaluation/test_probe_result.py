"""Barriers and verdicts on hand-made numbers."""

from dataclasses import replace

import pytest

from salsa_cli.evaluation.probe_result import (
    LinePoint,
    ProbeResult,
    StoredDistance,
    barrier,
    gain_over_best,
)

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def result(
    middle_kl: float, height: float, error: float | None = 0.0, texts: int = 9
) -> ProbeResult:
    line = tuple(LinePoint(a, 1.0, middle_kl, middle_kl, 0.0, 0.0) for a in ALPHAS)
    stored = StoredDistance("F32", 0.0, 0.0, 0.0)
    return ProbeResult(("a", "b"), texts, 10, line, height, 0.5, error, 0.0, 0.0, (), stored, 1.0)


def test_a_barrier_by_hand() -> None:
    """Two texts of 1 and 3 tokens; the line goes from 4 to 8 nats, straight: 5, 6, 7."""
    nll = [(1.0, 3.0), (1.0, 4.0), (2.0, 6.0), (1.0, 5.0), (2.0, 6.0)]
    height, alpha, error = barrier(ALPHAS, nll, [1, 3])
    # At alpha 0.5 the texts rise by 2 - 1.5 and 6 - 4.5: 2 nats on 4 tokens, 0.5 on each of them.
    assert (height, alpha) == (0.5, 0.5)
    assert error == 0
    nll[2] = (4.0, 4.0)
    height, _, error = barrier(ALPHAS, nll, [1, 3])
    # Rises 2.5 and -0.5, mean 0.5 a token: 2 and -2 off, sqrt((4 + 4) * 2 / 1) / 4 = 1.
    assert (height, error) == (0.5, 1.0)


def test_a_line_that_sags_has_a_negative_barrier() -> None:
    nll = [(4.0,), (3.5,), (3.0,), (3.5,), (4.0,)]
    assert barrier(ALPHAS, nll, [2]) == (-0.25, 0.25, None)


def test_the_gain_of_a_soup_by_hand() -> None:
    """Texts of 1 and 3 tokens; the better model loses 2 and 6 nats, the soup 1 and 5."""
    ends = [(9.0, 9.0), (2.0, 6.0)]
    gain, error = gain_over_best(ends, (1.0, 5.0), [1, 3])
    # 2 nats on 4 tokens: .5. The texts gain 1 and 1, .5 and -.5 off; sqrt(.5 * 2 / 1) / 4.
    assert (gain, error) == (0.5, 0.25)
    assert gain_over_best([(2.0,), (3.0,)], (2.5,), [2]) == (-0.25, None)


@pytest.mark.parametrize(
    ("gain", "error", "says"),
    [
        (0.17, 0.01, "start PPO at the soup (salsa ppo --ref SOUP --policy SOUP)"),
        (0.17, 0.09, "0.170 nats per token lower than that of the better model: expect no more"),
        (0.005, 0.001, "lower than that of the better model: expect no more from it than from"),
        (-0.1, 0.01, "0.100 nats per token higher than that of the better model: expect no more"),
    ],
)
def test_a_good_pair_is_worth_as_much_as_its_soup_predicts(
    gain: float, error: float, says: str
) -> None:
    found = replace(result(0.1, 0.0), gain=gain, gain_error=error)
    assert found.verdict == "good" and says in found.sentence()


@pytest.mark.parametrize(
    ("kl", "height", "error", "verdict"),
    [
        (0.1, -0.01, 0.0, "good"),
        (0.1, 0.04, 0.0, "good"),
        (0.1, 0.06, 0.01, "not-connected"),
        (0.1, 0.0, 0.025, "good"),
        (0.1, -0.3, 0.1, "good"),
        (0.1, 0.5, 0.2, "not-connected"),
        (1e-5, 0.0, 0.0, "too-close"),
        (1e-5, 0.2, 0.01, "not-connected"),
    ],
)
def test_verdicts(kl: float, height: float, error: float, verdict: str) -> None:
    found = result(kl, height, error)
    assert found.verdict == verdict
    assert found.sentence().startswith(verdict.replace("-", " "))


@pytest.mark.parametrize(
    ("height", "error", "texts", "says"),
    [
        (0.06, 0.05, 9, "the standard error of the barrier is 0.050 nats per token"),
        (0.0, 0.03, 9, "a verdict needs at most 0.025"),
        (9.0, None, 1, "1 text, too few"),
        (9.0, 0.0, 4, "4 texts, too few"),
    ],
)
def test_too_little_data_gets_no_verdict(
    height: float, error: float | None, texts: int, says: str
) -> None:
    found = result(0.1, height, error, texts)
    assert found.verdict is None and found.record()["verdict"] is None
    assert found.sentence().startswith("too little data: ") and says in found.sentence()
    assert "a barrier above 0.05 nats per token" in found.summary()[0]
    assert ("standard error unknown" in found.summary()[0]) == (error is None)


def test_few_units_in_sixteen_bits_are_a_staircase() -> None:
    assert StoredDistance("BF16", 0.5, 0.5, 1.0).is_staircase
    assert not StoredDistance("BF16", 1.0, 0.0, 0.0).is_staircase
    assert not StoredDistance("BF16", 0.0, 0.0, 40.0).is_staircase
    assert not StoredDistance("F32", 0.5, 0.5, 1.0).is_staircase
