"""The design matrix of comparisons of models, used without being written out.

A row has a plus for the first model, a minus for the second, and a few features: of hundreds of
models, all but two columns are zero.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class PairedDesign:
    """The matrix X [b, m + f] of b comparisons of m models with f features.

    Row i has `scale` in column `first[i]`, then -`scale` in column `second[i]` (assigned: where a
    model meets itself, the second sign alone), and `features[i]` in the last f columns.
    """

    first: Places
    second: Places
    features: Array
    models: int
    scale: float

    @property
    def columns(self) -> int:
        """m + f."""
        return self.models + int(self.features.shape[1])

    def times(self, beta: Array) -> Array:
        """X beta, [b]."""
        strengths = self.scale * beta[: self.models]
        return np.asarray(
            np.where(self.first == self.second, 0.0, strengths[self.first])
            - strengths[self.second]
            + self.features @ beta[self.models :]
        )

    def sums(self, values: Array) -> Array:
        """X' values, [m + f], for one value a row."""
        return np.asarray(self.sums_by(np.zeros_like(self.first), values, 1)[0])

    def sums_by(self, groups: Places, values: Array, count: int) -> Array:
        """The same within each group of rows, [count, m + f]."""
        m = self.models
        own, other = self._signed(values)
        of_models = _summed(groups * m + self.first, own, count * m)
        of_models -= _summed(groups * m + self.second, other, count * m)
        of_features = [
            _summed(groups, values * column, count)[:, None] for column in self.features.T
        ]
        return np.hstack([of_models.reshape(count, m), *of_features])

    def gram(self, weights: Array) -> Array:
        """X' diag(weights) X, [m + f, m + f]."""
        m, scale = self.models, self.scale
        own, other = self._signed(weights)
        crossed = _summed(self.first * m + self.second, scale * own, m * m).reshape(m, m)
        found = np.zeros((self.columns, self.columns))
        diagonal = _summed(self.first, scale * own, m) + _summed(self.second, scale * other, m)
        found[:m, :m] = np.diag(diagonal) - crossed - crossed.T
        for place, column in enumerate(self.features.T, start=m):
            shared = _summed(self.first, own * column, m) - _summed(self.second, other * column, m)
            found[:m, place] = found[place, :m] = shared
        found[m:, m:] = (self.features * weights[:, None]).T @ self.features
        return found

    def _signed(self, values: Array) -> tuple[Array, Array]:
        """The values times the entry of the first model, and of the second without its sign."""
        other = self.scale * values
        return np.where(self.first == self.second, 0.0, other), other


def _summed(places: Places, values: Array, count: int) -> Array:
    return np.bincount(places, weights=values, minlength=count).astype(np.float64)
