"""`--fail-under`: whether the first pair's win rate is surely as high as it has to be."""

from collections.abc import Sequence
from dataclasses import dataclass

from salsa_cli.config.eval import EvalConfig
from salsa_cli.errors import UsageError
from salsa_cli.evaluation.results.arm_results import WIN_RATE
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.runs.events import GateFailed, Result


@dataclass(frozen=True)
class FirstRate:
    """The win rate of `a` over `b` that has to be high enough, with the low end of its interval."""

    a: str
    b: str
    judge: str
    rate: float
    low: float
    n: int


def check(models: Sequence[str], scoring: Sequence[bool], config: EvalConfig) -> None:
    """Refuse `--fail-under` where no models will be compared.

    Args:
        scoring: of each judge, whether it scores answers.

    Raises:
        UsageError: there is one model, or judges only grade each answer alone.
    """
    if config.fail_under is None:
        return
    if len(models) < 2:
        raise UsageError(
            f"--fail-under needs two models to compare; found {', '.join(models) or 'none'}"
        )
    if config.grading == "single" and not any(scoring):
        raise UsageError("--fail-under needs win rates; --grading single does not compare models")


def gated(result: EvalResult, config: EvalConfig) -> Result:
    """The result itself, or why it does not pass."""
    rate = first_rate(result, config)
    if rate is None or config.fail_under is None:
        return result
    if rate.n and rate.low >= config.fail_under:
        return result
    if not rate.n:
        reason = f"no comparison of {rate.a} and {rate.b} by {rate.judge} has a valid verdict"
    else:
        reason = (
            f"by {rate.judge}, {rate.a} wins {rate.rate:.1%} against {rate.b}, and the interval "
            f"begins at {rate.low:.1%}"
        )
    return GateFailed(result, f"--fail-under {config.fail_under:g}: {reason}")


def first_rate(result: EvalResult, config: EvalConfig) -> FirstRate | None:
    """What `--fail-under` is about: the first pair, or the first with the baseline.

    Where arms of several runs are compared, it is the first pair of arms, with the interval over
    runs and prompts.

    Raises:
        UsageError: `--fail-under` is set, but nothing was compared.
    """
    if config.fail_under is None:
        return None
    for arms in result.arms.pairs:
        if arms.measure == WIN_RATE and config.baseline in (None, arms.b):
            rate, low = 0.5 + arms.difference, 0.5 + arms.low
            return FirstRate(arms.a, arms.b, short_name(arms.judge), rate, low, arms.n)
    for row in result.pairs:
        if not row.of_itself and config.baseline in (None, row.b):
            judge = short_name(row.judge)
            return FirstRate(row.a, row.b, judge, row.win_rate, row.low, row.n)
    raise UsageError("--fail-under needs win rates, but no two models were compared")
