"""Student's t: published quantiles, and integration of the density."""

from math import exp, lgamma, pi

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.maths.student_t import cumulative, quantile


@pytest.mark.parametrize(
    ("p", "df", "published"),
    [  # Tables of the t distribution, for example NIST/SEMATECH e-Handbook, 1.3.6.7.2
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.975, 7, 2.365),
        (0.975, 14, 2.145),
        (0.975, 100, 1.984),
        (0.9, 5, 1.476),
        (0.999, 10, 4.144),
        (0.95, 30, 1.697),
    ],
)
def test_quantiles_are_those_of_the_tables(p: float, df: float, published: float) -> None:
    assert round(quantile(p, df), 3) == published
    assert round(quantile(1 - p, df), 3) == -published


@pytest.mark.parametrize("df", [0.7, 1.0, 2.5, 6.3, 40.0])
@pytest.mark.parametrize("t", [-3.0, -0.2, 0.0, 0.4, 1.7, 5.0])
def test_the_distribution_is_the_integral_of_its_density(t: float, df: float) -> None:
    def density(x: np.ndarray) -> np.ndarray:
        log_front = lgamma((df + 1) / 2) - lgamma(df / 2)
        return exp(log_front) / np.sqrt(df * pi) * np.exp(-(df + 1) / 2 * np.log1p(x * x / df))

    nodes, weights = np.polynomial.legendre.leggauss(200)
    area = float((weights * density(t / 2 * (nodes + 1))).sum()) * t / 2
    # 200 nodes integrate this smooth function to the last digits; 1e-12 leaves room for rounding.
    assert cumulative(t, df) == pytest.approx(0.5 + area, abs=1e-12)


@given(st.floats(0.001, 0.999), st.floats(0.5, 500))
def test_a_quantile_is_the_inverse(p: float, df: float) -> None:
    # The quantile is good to a relative 1e-13, the density at most 0.4.
    assert cumulative(quantile(p, df), df) == pytest.approx(p, abs=1e-10)


def test_many_degrees_of_freedom_are_nearly_the_normal_distribution() -> None:
    z, df = 1.959963984540054, 1e5
    # Cornish and Fisher's expansion; the next term is of order df^-2.
    assert quantile(0.975, df) == pytest.approx(z + (z**3 + z) / (4 * df), abs=1e-8)


@pytest.mark.parametrize(
    ("p", "df"), [(0.0, 3), (1.0, 3), (0.5, 0), (0.5, -1), (0.5, float("nan"))]
)
def test_arguments_out_of_range_are_refused(p: float, df: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        quantile(p, df)
