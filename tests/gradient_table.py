"""Every penalty, estimator, place and advantage: is the gradient that of the divergence?

    python -m tests.gradient_table

Prints a table: the largest difference between the expected gradient of `learn`, enumerated in
float64 over the answers of a tabular policy, and that of the divergence from its definition; or why
the pair is refused. Exits 1 if a difference exceeds 1e-9. `grpo`, whose gradient is another, is not
in it.
"""

import sys
from itertools import product

from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import UsageError
from tests.support.tabular import COEF, PAIRS, learned, objective_gradient, settings

MEANING = {
    "kl": "KL(policy||REF) of whole answers",
    "mean-kl": "mean of the KLs to several REF",
    "chi2": "chi-squared of each token, summed",
}

WAYS = (("gae", 1), ("rloo", 2), ("group", 2))
"""Advantages with the answers per prompt."""


def main() -> None:
    """Print the table."""
    runtime = start_runtime("cpu")
    worst = 0.0
    header = f"{'--advantage':12} {'--penalty':10} {'estimator':10} {'--kl-in':8} {'divergence':36}"
    print(f"{header} result")
    for (advantage, size), (penalty, estimator, place) in product(WAYS, PAIRS):
        given = {"penalty": penalty, "kl_estimator": estimator, "kl_in": place}
        try:
            config = settings(**given, advantage=advantage, samples_per_prompt=size)
        except UsageError as refused:
            result = f"refused: {refused}"
        else:
            found = learned(config, runtime)
            difference = found.gradients[0] / found.scale - objective_gradient(penalty, COEF)
            error = float(difference.abs().max())
            worst = max(worst, error)
            result = f"largest difference {error:.1e}"
        row = f"{advantage:12} {penalty:10} {estimator:10} {place:8} {MEANING[penalty]:36}"
        print(f"{row} {result}")
    sys.exit(worst > 1e-9)


if __name__ == "__main__":
    main()
