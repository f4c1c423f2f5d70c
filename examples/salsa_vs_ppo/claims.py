"""The claims of the SALSA paper, one by one, beside what the pipelines say.

A claim is reproduced if the 95 % interval lies on its side, not reproduced if it lies on the
other side, and undecided otherwise. That something is no better than PPO is reproduced if the
interval ends below a tenth of the standard deviation of gold, the margin of PLAN.md.
"""

from collections.abc import Iterator
from statistics import mean

from pipelines import Unit
from tables import (
    MARGIN,
    Interval,
    Table,
    chosen_difference,
    chosen_win_rate,
    percent,
    spread,
)

Row = tuple[str, str, str, str, str, str]
HEAD = ("claim", "figure", "condition", "mean [95 %]", "verdict", "command")
NOT_HERE = "not decidable here"


def ppo(reference: str, output: str, beta: float | None = None) -> str:
    """The command of an arm; beta is one of the four if it is not given."""
    coefficient = "BETA" if beta is None else f"{beta:g}"
    return (
        f"`salsa ppo --ref {reference} --policy a/ --reward rm/ --prompts prompts.jsonl "
        f"--kl-coef {coefficient} -o {output}`"
    )


def evaluate(models: str, prompts: str = "test.jsonl") -> str:
    """The command that compares models by gold."""
    return (
        f"`salsa eval {models} --prompts {prompts} --judge python:study_gold.py:score -o results/`"
    )


def claims(study: dict[str, list[Unit]]) -> Table:
    """One row per claim and condition, with the command behind its figure.

    The commands are those of study.py with short names: a/, b/ and soup/ are the SFT models of a
    pipeline, rm/ its reward model, runs/ its policies.
    """
    rows = [row for claim in CLAIMS for name, found in study.items() for row in claim(found, name)]
    rows += [
        (
            "more SFT models in the soup win more often",
            "all soups here are of two models",
            "-",
            "-",
            NOT_HERE,
            "`salsa soup a/ b/ c/ -o soup/`",
        ),
        (
            "robustness outside the training distribution improves",
            "all prompts here are from the same stories",
            "-",
            "-",
            NOT_HERE,
            evaluate("salsa/ ppo/", "other.jsonl"),
        ),
    ]
    return Table("The claims of the paper", HEAD, rows)


def wins_over_ppo(found: list[Unit], condition: str) -> Iterator[Row]:
    wins = chosen_win_rate(found, "salsa", "ppo")
    yield (
        "SALSA beats PPO (50.7 to 57.2 %)",
        "win rate by gold, beta tuned for each",
        condition,
        percent(wins),
        higher(wins),
        f"{ppo('soup/', 'salsa/')}, {ppo('a/', 'ppo/')}",
    )


def loses_with_b(found: list[Unit], condition: str) -> Iterator[Row]:
    having = [unit for unit in found if unit.has("ref-b")]
    if not having:
        return
    wins = chosen_win_rate(having, "ref-b", "ppo")
    yield (
        "alpha = 1 loses to PPO (43.1 %)",
        "win rate of reference B",
        condition,
        percent(wins),
        lower(wins),
        ppo("b/", "ref-b/"),
    )
    wins = chosen_win_rate(having, "salsa", "ref-b")
    yield (
        "alpha = 0.5 is better than alpha = 1",
        "win rate of SALSA over reference B",
        condition,
        percent(wins),
        higher(wins),
        ppo("b/", "ref-b/"),
    )


def two_kls(found: list[Unit], condition: str) -> Iterator[Row]:
    having = [unit for unit in found if unit.has("two-kls")]
    if not having:
        return
    gold = chosen_difference(having, "two-kls")
    yield (
        "two KLs do not beat PPO",
        "mean of the KLs to A and B - PPO in gold",
        condition,
        str(gold),
        no_higher(gold, MARGIN * spread(having)),
        ppo("a/ --ref b/ --penalty mean-kl", "two-kls/"),
    )


def soup_before_rl(found: list[Unit], condition: str) -> Iterator[Row]:
    golds = [unit.admission[0]["gold"] for unit in found]
    gain = Interval.of([each["soup"] - max(each["a"], each["b"]) for each in golds])
    yield (
        "before RL the soup is better than both models",
        "gold of the soup - the better of A and B, first pair of each pipeline",
        condition,
        str(gain),
        higher(gain),
        evaluate("a/ b/ soup/", "prompts.jsonl"),
    )
    having = [unit for unit in found if unit.line]
    if not having:
        return
    for judge, what in (("score", "gold"), ("rm", "reward")):
        lines = [unit.line[judge] for unit in having]
        bend = Interval.of([line[0.5] - max(line[0.0], line[1.0]) for line in lines])
        along = {alpha: mean(line[alpha] for line in lines) for alpha in sorted(lines[0])}
        top = max(along, key=along.__getitem__)
        yield (
            f"the {what} along the line from A to B peaks near the middle",
            f"alpha = 0.5 - the better end; the mean peaks at alpha = {top:g}",
            condition,
            str(bend),
            higher(bend),
            evaluate("--line a/ b/ --points 5 --judge rm:rm/"),
        )


def larger_kl(found: list[Unit], condition: str) -> Iterator[Row]:
    kl = Interval.of(
        [
            mean(
                unit.arms["salsa", beta].kl - unit.arms["ppo", beta].kl
                for beta in unit.betas("ppo")
            )
            for unit in found
        ]
    )
    yield (
        "the policy moves further from A",
        "KL to A, SALSA - PPO, nats per answer, mean over betas",
        condition,
        str(kl),
        higher(kl),
        evaluate("salsa/ ppo/ --anchors a/"),
    )


def short_answers(found: list[Unit], condition: str) -> Iterator[Row]:
    strong = max(found[0].betas("salsa"))
    pairs = [(unit.arms["salsa", strong], unit.arms["ppo", strong]) for unit in found]
    shorter = Interval.of([one.length - other.length for one, other in pairs])
    length = mean(one.length for one, _ in pairs)
    yield (
        "with the soup as reference, a high beta shortens answers",
        f"tokens at beta {strong:g}, SALSA ({length:.1f}) - PPO",
        condition,
        str(shorter),
        lower(shorter),
        ppo("soup/", "salsa/", strong),
    )


CLAIMS = (wins_over_ppo, loses_with_b, two_kls, soup_before_rl, larger_kl, short_answers)


def higher(interval: Interval) -> str:
    """The verdict on a claim that a figure is above 0."""
    if interval.half is None:
        return "undecided"
    if interval.low > 0:
        return "reproduced"
    return "not reproduced" if interval.high < 0 else "undecided"


def lower(interval: Interval) -> str:
    """The verdict on a claim that a figure is below 0."""
    return higher(Interval(-interval.mean, interval.half, interval.n))


def no_higher(interval: Interval, margin: float) -> str:
    """The verdict on a claim that a figure is not above 0."""
    if interval.half is None:
        return "undecided"
    if interval.high < margin:
        return "reproduced"
    return "not reproduced" if interval.low > 0 else "undecided"
