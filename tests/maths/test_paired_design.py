"""The design matrix of comparisons against the matrix itself."""

import numpy as np
import pytest

from salsa_cli.maths.paired_design import PairedDesign

GENERATOR = np.random.default_rng(0)
FIRST, SECOND = GENERATOR.integers(0, 5, 60), GENERATOR.integers(0, 5, 60)
FEATURES = GENERATOR.normal(size=(60, 3))
DESIGN = PairedDesign(FIRST, SECOND, FEATURES, 6, 2.5)


def dense() -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Row by row; the sixth model meets nobody."""
    matrix = np.zeros((60, 9))
    for row, (first, second) in enumerate(zip(FIRST, SECOND, strict=True)):
        matrix[row, first] = 2.5
        matrix[row, second] = -2.5
        matrix[row, 6:] = FEATURES[row]
    return matrix


def test_it_is_the_matrix() -> None:
    assert (FIRST == SECOND).any()  # some models meet themselves
    matrix, values = dense(), GENERATOR.normal(size=60)
    beta = GENERATOR.normal(size=9)
    assert DESIGN.columns == 9
    assert DESIGN.times(beta) == pytest.approx(matrix @ beta, rel=1e-13, abs=1e-13)
    assert DESIGN.sums(values) == pytest.approx(matrix.T @ values, rel=1e-13, abs=1e-13)
    weights = GENERATOR.random(60)
    gram = (matrix * weights[:, None]).T @ matrix
    assert DESIGN.gram(weights) == pytest.approx(gram, rel=1e-13, abs=1e-13)


def test_sums_within_groups() -> None:
    matrix, values = dense(), GENERATOR.normal(size=60)
    groups = GENERATOR.integers(0, 4, 60)
    found = DESIGN.sums_by(groups, values, 5)
    assert found.shape == (5, 9) and (found[4] == 0).all()
    for group in range(4):
        of_group = matrix[groups == group].T @ values[groups == group]
        assert found[group] == pytest.approx(of_group, rel=1e-13, abs=1e-13)


def test_without_features() -> None:
    bare = PairedDesign(FIRST, SECOND, np.zeros((60, 0)), 6, 2.5)
    assert bare.gram(np.ones(60)) == pytest.approx(dense()[:, :6].T @ dense()[:, :6], abs=1e-12)
