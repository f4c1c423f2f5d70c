"""From verdicts to a result: the one place where everything that they show is counted.

`salsa eval` counts the verdicts of its own judges, `salsa eval --judgments` those of files.
"""

from collections.abc import Sequence

from salsa_cli.config.eval import EvalConfig
from salsa_cli.evaluation.results import (
    invalid_verdicts,
    judge_agreement,
    pooling,
    style_control,
    win_rates,
)
from salsa_cli.evaluation.results.comparisons import Rules
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.results.style_control import Answers
from salsa_cli.evaluation.results.win_rates import Resampling
from salsa_cli.evaluation.verdicts.formats import Stored
from salsa_cli.evaluation.verdicts.verdict import Verdict


def count(
    stored: Sequence[Stored],
    answers: Answers,
    config: EvalConfig,
    *,
    gradings: Sequence[Verdict] = (),
    style_baseline: str | None = None,
    max_invalid: float | None = None,
    remedy: str = "",
) -> EvalResult:
    """Win rates, scores, ratings, style control and judge agreement of some verdicts.

    Args:
        answers: the texts that were judged, for win rates by length and at equal style; may be
            empty.
        gradings: scores of single answers that count for mean scores, but not for the agreement
            of judges.
        style_baseline: the model whose rate is one half at equal style; None takes the second
            model of the first comparison.
        max_invalid: largest share of invalid verdicts; None accepts any.
        remedy: what the user can do about too many invalid verdicts.

    More than a handful of judges are counted as one, unless `--by-judge`; their agreement is of all
    of them. The result says nothing of answers, KL and soups, and its time is 0.

    Raises:
        SalsaError: too many verdicts are invalid, or answers are missing.
    """
    drawn = Resampling(config.seed, config.draws)
    judged = stored
    remarks: tuple[str, ...] = ()
    if answers and any(one.format == "AlpacaEval" for one in stored):
        remarks = (style_control.NOT_ALPACA_EVAL,)
    if not config.by_judge and (stored := pooling.pooled(judged)) != list(judged):
        remarks = (
            *remarks,
            f"{len(pooling.judges_of(judged)):,} judges are counted together; --by-judge counts "
            "each separately",
        )
    rules = Rules(config.rule, config.failed, config.baseline)
    verdicts = [verdict for one in stored for verdict in one.verdicts]
    compared = win_rates.comparisons(stored, rules)
    pairs = win_rates.pair_rows(compared, rules, drawn)
    scores = win_rates.score_rows([*gradings, *verdicts], drawn)
    rated = win_rates.ratings(compared, rules, drawn)
    if max_invalid is not None:
        invalid_verdicts.refuse(pairs, scores, max_invalid, remedy)
    return EvalResult(
        output=str(config.output),
        prompts=len({verdict.question for verdict in verdicts}),
        pairs=pairs,
        scores=scores,
        answers=(),
        seconds=0.0,
        categories=win_rates.category_rows(compared, rules, drawn),
        lengths=style_control.length_rows(compared, rules, drawn, answers),
        ratings=rated.rows,
        rating_gaps=rated.gaps,
        controlled=style_control.all_controls(stored, answers, style_baseline, drawn)
        if answers
        else (),
        agreements=judge_agreement.agreements(judged, drawn),
        accuracies=judge_agreement.accuracies(stored, drawn),
        remarks=remarks,
    )
