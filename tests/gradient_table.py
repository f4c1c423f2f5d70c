"""Every penalty, estimator and place: is the gradient of an update that of the divergence?

    python -m tests.gradient_table

Prints a table: the largest difference between the expected gradient of `learn`, enumerated in
float64 over the answers of a tabular policy, and that of the divergence from its definition; or why
the pair is refused. Exits 1 if a difference exceeds 1e-9.
"""

import sys

from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import UsageError
from tests.support.tabular import COEF, PAIRS, learned, objective_gradient, settings

MEANING = {
    "kl": "KL(policy||REF) of whole answers",
    "mean-kl": "mean of the KLs to several REF",
    "chi2": "chi-squared of each token, summed",
}


def main() -> None:
    """Print the table."""
    runtime = start_runtime("cpu")
    worst = 0.0
    print(f"{'--penalty':10} {'estimator':10} {'--kl-in':8} {'divergence':36} result")
    for penalty, estimator, place in PAIRS:
        try:
            config = settings(penalty=penalty, kl_estimator=estimator, kl_in=place)
        except UsageError as refused:
            result = f"refused: {refused}"
        else:
            found = learned(config, runtime)
            difference = found.gradients[0] / found.scale - objective_gradient(penalty, COEF)
            error = float(difference.abs().max())
            worst = max(worst, error)
            result = f"largest difference {error:.1e}"
        print(f"{penalty:10} {estimator:10} {place:8} {MEANING[penalty]:36} {result}")
    sys.exit(worst > 1e-9)


if __name__ == "__main__":
    main()
