"""What goes wrong silently in PPO, recognised in the metrics: named warnings with what to try.

A monitor is a pure function of the history of a run (its `UpdateMetrics`, oldest first) to a text,
or to None where all is well. A warning is named once, when it first holds. Every threshold stands
below with its reason; they are leads for a person who then looks, not proofs. A figure that is NaN
fires nothing.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from statistics import fmean

from salsa_cli.formatting import counted
from salsa_cli.rl.held_out_metrics import HeldOutFigure, HeldOutMetrics
from salsa_cli.rl.metrics import UpdateMetrics

RECENT = 3
"""Updates that are averaged before a level is believed: with 64 answers an update's mean length is
known to about 5 %, its clip share to far less, so that three leave no room for chance."""

STOPPING_GAIN = 0.5
"""Standard deviations of the reward. A policy that picks the best of its own answers gains about
one; half of it for saying nothing is learned first, since stopping is one decision at one place.
Gains of 0.12 to 0.24 (7 nats to a soup, an end at 4.6 nats, beta 0.05 to 0.1) kept the length. In
examples/salsa_vs_ppo (15.6 nats, an end at 7.4) plain PPO ended at 30 to 36 tokens, and with the
soup as reference a gain of 0.25 ended at 28, 0.8 at 17 and 2.5 at 9."""

SHORTENED = 0.5
"""Share of the length at the start. Half is far outside sampling error, and the collapse that the
paper reports (high beta, soup as reference) goes on from there to zero."""

OBJECTIVE_WINDOW = 10
"""Updates that J must stay below its start. The first steps of a fresh critic may well lower J."""

OBJECTIVE_ERRORS = 2.0
"""Standard errors of the difference that J must lie below its start: the usual 5 %."""

UNFINISHED = 0.5
"""Share of answers with an end token: under one half, most scores are those of fragments."""

UNFINISHED_DROP = 0.3
"""A loss of that share against the start: six standard errors with 64 answers, at 90 % before."""

ENTROPY_LEFT = 1 / 3
"""Share of the start's entropy. Runs that learn keep about 0.7 of it; at a third, the answers of a
batch repeat one another, and there is little left for the advantages to choose from."""

KL_WINDOW = 5
"""Updates in each of the three stretches whose mean KL is compared."""

KL_RATIO = 3.0
"""A rise of the KL this many times the rise before it. A policy that drifts in one direction has a
KL that grows with the square of the steps: its rises never double from the second on."""

KL_SHARE, KL_NATS = 0.5, 1.0
"""The least rise that counts: half of the KL before it, and a nat. Below a nat an answer the policy
still is its start, and a rate that warms up makes any KL accelerate."""

JUMP_WINDOW = 5
"""Updates within which a KL jumps; a shorter history is looked at from its start."""

JUMP_PER_TOKEN, JUMP_NATS = 0.3, 10.0
"""Smallest rise that is a jump: nats per token, and nats per answer. A run with a learning rate of
1e-3 went through 0, 85, 186 and 228 nats per answer."""

RATIO_ERROR = 1e-3
"""Largest |ratio - 1| before a weight moves, on a CPU. Equal passes give 0, compiled ones 1e-6."""

CLIPPED = 0.3
"""Share of tokens without gradient because their ratio is clipped. Runs that learn stay below 0.1
(0.001 to 0.03 here); at 0.3 the steps go further than the batch can tell."""

HELD_OUT_WINDOW, HELD_OUT_SPAN = 5, 200
"""Updates in the stretches of the held-out reward that are compared, and how far back they go."""

HELD_OUT_ERRORS = 5.0
"""Standard errors below the best stretch. The best of many is partly luck, and it is looked at in
every update: on pure noise 3 cry wolf in 87 % of runs of 200 updates, 4 in 17 %, 5 in 1 %."""

FALL_ERRORS, FALL_TIMES = 3.5, 2
"""Standard errors of the difference by which a figure on held-out prompts lies below its best, in
this many evaluations in a row. On pure noise, of which equal prompts and seeds leave less, that
fires in 0.4 % of runs with 40 evaluations and 2.3 % of those with 100; one in 11 % and 39 %."""

LENGTH_WINDOW = 5
"""Updates whose correlations are averaged: that of one with 64 answers is known to about 0.1."""

LENGTH_CORRELATION, LENGTH_MOVED = 0.5, 0.25
"""Correlation at which length alone accounts for a quarter of the reward's variance, where the
length has moved by that share too. Without it 0.5 is met late in a good run, when the few answers
that still fail are the short ones."""

LENGTH_DOMINATES = 0.7
"""Correlation at which length accounts for half of the variance: bad whatever the length does."""

CRITIC_UPDATES, CRITIC_WINDOW = 20, 10
"""A critic starts with a head that knows nothing (explained variance -4 in the first update) and
is above 0 after about five; one that is worse than a constant after 20 has not learned."""

EQUAL_GROUPS = 0.5
"""Share of the prompts whose answers all have one reward. Only the penalty tells them apart; above
a half, most of the time and memory goes into answers that cannot raise the reward."""

History = Sequence[UpdateMetrics]
Monitor = Callable[[History], str | None]


@dataclass(frozen=True)
class Alarm:
    """A warning by its name, the update in which it first held, the figure and what to try."""

    name: str
    update: int
    text: str

    def __str__(self) -> str:
        return f"{self.name}: {self.text}"


def stopping_gain(kl: float, reference_end: float, kl_coef: float, spread: float) -> str | None:
    """The warning that the KL penalty alone pays for ending at once, from the start's figures.

    Args:
        kl: nats of an answer of the start to the reference.
        reference_end: log-probability of ending at once, under the reference.
        kl_coef: beta.
        spread: standard deviation of the rewards.

    Answering like the start costs beta * kl, ending at once costs -beta * reference_end; so
    beta * (kl + reference_end) is what stopping gains. It holds for a penalty by a KL.
    """
    gain = kl_coef * (kl + reference_end)
    if not (gain > 0 and gain >= STOPPING_GAIN * spread):
        return None
    return (
        f"an empty answer saves {gain:.2f} in KL penalty, and the standard deviation of the "
        f"rewards is {spread:.2f} (KL {kl:.1f} nats at the start, {-reference_end:.1f} for ending "
        "at once): answers will probably get shorter. Lower --kl-coef, or start at the reference "
        "(--policy)"
    )


def cheap_stopping(history: History) -> str | None:
    """`stopping_gain` of the start: of the first update's answers, sampled before any step."""
    start = history[0]
    if start.reference_end is None:
        return None
    return stopping_gain(start.kl, start.reference_end, start.kl_coef, start.reward_std)


def length_collapse(history: History) -> str | None:
    """The answers have become short."""
    start, now = history[0].length, fmean(m.length for m in history[-RECENT:])
    if len(history) < 2 or not now < SHORTENED * start:
        return None
    return (
        f"{now:.1f} tokens per answer, {start:.1f} at the start. Lower --kl-coef (with a soup as "
        "reference, a high value drives the length to zero) or --learning-rate, and check "
        "samples.jsonl"
    )


def objective_below_start(history: History) -> str | None:
    """J = reward - beta * penalty has stayed below what the start had without any training."""
    start, last = history[0], history[-OBJECTIVE_WINDOW:]
    if len(history) <= OBJECTIVE_WINDOW:
        return None
    # With the current coefficient, since an adaptive one would move J on its own.
    before = start.reward - last[-1].kl_coef * start.penalty
    now = [m.reward - last[-1].kl_coef * m.penalty for m in last]
    answers = max(1.0, start.tokens / max(start.length, 1.0))
    error = start.reward_std * sqrt((1 + 1 / OBJECTIVE_WINDOW) / answers)
    if not (max(now) < before and fmean(now) < before - OBJECTIVE_ERRORS * error):
        return None
    return (
        f"reward - beta * penalty is {fmean(now):.3f} over {OBJECTIVE_WINDOW} updates, and was "
        f"{before:.3f} before any: training makes the policy worse by its own objective. Lower "
        "--learning-rate or --kl-coef, or warm up the critic with --critic-warmup"
    )


def missing_end(history: History) -> str | None:
    """Many answers are cut at the length limit."""
    start, now = history[0].finished, fmean(m.finished for m in history[-RECENT:])
    if not now < max(UNFINISHED, start - UNFINISHED_DROP):
        return None
    return (
        f"{now:.0%} of the answers reach an end token, {start:.0%} at the start; the others are "
        "scored although they are cut off. Raise --response-length, or penalise them with --no-eos"
    )


def entropy_collapse(history: History) -> str | None:
    """The policy always says the same."""
    start, now = history[0].entropy, fmean(m.entropy for m in history[-RECENT:])
    if len(history) < 2 or not now < ENTROPY_LEFT * start:
        return None
    return (
        f"{now:.3f} nats per token, {start:.3f} at the start: answers are becoming alike. Raise "
        "--kl-coef, or lower --learning-rate or --epochs"
    )


def kl_acceleration(history: History) -> str | None:
    """After steady updates the policy runs away from its reference."""
    if len(history) < 3 * KL_WINDOW:
        return None
    means = [
        fmean(m.kl for m in history[len(history) - back : len(history) - back + KL_WINDOW])
        for back in (3 * KL_WINDOW, 2 * KL_WINDOW, KL_WINDOW)
    ]
    before, rise = means[1] - means[0], means[2] - means[1]
    if not rise >= max(KL_RATIO * abs(before), KL_SHARE * means[1], KL_NATS):
        return None
    return (
        f"the KL to the reference rose by {rise:.1f} nats in {KL_WINDOW} updates, by {before:.1f} "
        f"in the {KL_WINDOW} before: the policy may be exploiting the reward. Check samples.jsonl; "
        "raise --kl-coef or lower --learning-rate"
    )


def kl_jump(history: History) -> str | None:
    """The KL has risen within a few updates by more than a policy that learns moves in a run."""
    if len(history) < 2:
        return None
    recent = history[-JUMP_WINDOW - 1 :]
    before, now = min(m.kl for m in recent[:-1]), recent[-1].kl
    length = fmean(m.length for m in recent)
    if not now - before >= max(JUMP_NATS, JUMP_PER_TOKEN * length):
        return None
    return (
        f"the KL to the reference rose from {before:.1f} to {now:.1f} nats per answer within "
        f"{counted(len(recent) - 1, 'update')}: the policy changes too fast. Lower --learning-rate "
        f"({recent[-1].learning_rate:g} now) or --epochs, and check samples.jsonl"
    )


def ratio_error(history: History) -> str | None:
    """The policy computes other probabilities in training than in the rollout."""
    now = history[-1].ratio_error
    if not now > RATIO_ERROR:
        return None
    return (
        f"the first probability ratio is off by {now:.2g} before any weight moved: rollout and "
        "training compute different probabilities. Try without --gradient-checkpointing and "
        "--compile"
    )


def clipping(history: History) -> str | None:
    """The steps are larger than the clip range allows."""
    now = fmean(m.clip_share for m in history[-RECENT:])
    if not now > CLIPPED:
        return None
    return (
        f"{now:.0%} of the tokens are clipped and have no gradient. Lower --learning-rate or "
        "--epochs"
    )


def reward_hacking(history: History) -> str | None:
    """A reward that is only watched falls while the one that trains rises."""
    for name in history[-1].watched:
        points = [
            (m.watched[name], m.reward) for m in history[-HELD_OUT_SPAN:] if name in m.watched
        ]
        found = _fallen(points)
        if found is not None:
            best, now, proxy = found
            return (
                f"{name} fell from {best:.3f} to {now:.3f} while the trained reward rose by "
                f"{proxy:.3f}: the policy is exploiting the reward. Stop at the best checkpoint; "
                "raise "
                "--kl-coef, or train with an ensemble (--ensemble min)"
            )
    return None


def heldout_fall(history: History) -> str | None:
    """A reward on held-out prompts, trained or watched, has fallen from its best."""
    if history[-1].heldout is None:
        return None
    start = history[0].heldout_start
    points: list[tuple[int, HeldOutMetrics]] = [(0, start)] if start is not None else []
    points += [(m.update, m.heldout) for m in history if m.heldout is not None]
    for name in ("", *history[-1].heldout.watch):
        figures = [
            (update, one.watch[name] if name else one.reward)
            for update, one in points
            if not name or name in one.watch
        ]
        recent = figures[-FALL_TIMES:]
        place, best = max(figures, key=lambda point: point[1].mean)
        if place >= recent[0][0] or not all(_is_below(one, best) for _, one in recent):
            continue
        return (
            f"{name or 'the trained reward'} on the held-out prompts fell from {best.mean:.3f} "
            f"after update {place} to {recent[-1][1].mean:.3f} ({FALL_TIMES} evaluations in a row "
            f"more than {FALL_ERRORS:g} standard errors below). Stop there (--keep-best, "
            "--stop-on heldout-fall); raise --kl-coef or lower --learning-rate"
        )
    return None


def _is_below(now: HeldOutFigure, best: HeldOutFigure) -> bool:
    """Whether a figure is surely below another; False where a standard error is unknown."""
    error = sqrt(now.standard_error**2 + best.standard_error**2)
    return best.mean - now.mean > FALL_ERRORS * error


def length_bias(history: History) -> str | None:
    """The reward is a matter of length."""
    if len(history) < LENGTH_WINDOW:
        return None
    now = fmean(m.length_reward_correlation for m in history[-LENGTH_WINDOW:])
    moved = history[-1].length / max(history[0].length, 1.0) - 1
    follows = now * moved > 0 and abs(moved) >= LENGTH_MOVED
    if not abs(now) >= (LENGTH_CORRELATION if follows else LENGTH_DOMINATES):
        return None
    kind = "longer" if now > 0 else "shorter"
    return (
        f"reward and length correlate by {now:.2f}: {kind} answers alone earn reward "
        f"({history[-1].length:.1f} tokens now, {history[0].length:.1f} at the start). Check the "
        "reward model's length bias, and compare models at equal length"
    )


def weak_critic(history: History) -> str | None:
    """The critic explains less of the returns than a constant would."""
    found = [m.explained_variance for m in history[-CRITIC_WINDOW:]]
    explained = [one for one in found if one is not None]
    if len(history) < CRITIC_UPDATES or not explained or not (now := fmean(explained)) < 0:
        return None
    return (
        f"the critic's explained variance is {now:.2f}, worse than a constant: it adds noise to "
        "the advantages. Raise --critic-learning-rate, use --critic-warmup, or set --lambda 1"
    )


def equal_groups(history: History) -> str | None:
    """Most prompts have answers of one reward, which only the penalty tells apart."""
    recent = [m for m in history[-RECENT:] if m.equal_groups is not None and m.groups]
    if len(recent) < RECENT:
        return None
    equal, groups = (sum(m.equal_groups or 0 for m in recent), sum(m.groups or 0 for m in recent))
    if not equal > EQUAL_GROUPS * groups:
        return None
    return (
        f"in {equal} of the last {groups} prompts all answers have the same reward, so that only "
        "the penalty changes the policy there. Raise --samples-per-prompt or --temperature, remove "
        "prompts that are too easy or too hard, or use a finer-grained reward"
    )


MONITORS: dict[str, Monitor] = {
    "cheap-stopping": cheap_stopping,
    "length-collapse": length_collapse,
    "objective-below-start": objective_below_start,
    "missing-end": missing_end,
    "entropy-collapse": entropy_collapse,
    "kl-acceleration": kl_acceleration,
    "clipping": clipping,
    "reward-hacking": reward_hacking,
    "length-bias": length_bias,
    "weak-critic": weak_critic,
    "equal-groups": equal_groups,
    "kl-jump": kl_jump,
    "ratio-error": ratio_error,
    "heldout-fall": heldout_fall,
}
"""Every monitor by the name of its warning, which `--stop-on` takes."""


FOREWARNING = "cheap-stopping"
"""The one that can be given before the first step, by `stopping_gain`."""


class AlarmTracker:
    """The history of a run as it grows, and which warnings have been named.

    `named` are those that were named elsewhere. The history of a resumed run is taken in by `add`.
    """

    def __init__(self, named: Iterable[str] = ()) -> None:
        self._history: list[UpdateMetrics] = []
        self._named = set(named)

    def add(self, metrics: UpdateMetrics) -> list[Alarm]:
        """Take in an update; the warnings that hold now and have not been named before."""
        self._history.append(metrics)
        found = [
            Alarm(name, metrics.update, text)
            for name, monitor in MONITORS.items()
            if name not in self._named and (text := monitor(self._history)) is not None
        ]
        self._named |= {alarm.name for alarm in found}
        return found


def alarms(history: History) -> list[Alarm]:
    """Every warning of a run, in the order in which they were named."""
    watch = AlarmTracker()
    return [alarm for metrics in history for alarm in watch.add(metrics)]


def _fallen(points: Sequence[tuple[float, float]]) -> tuple[float, float, float] | None:
    """Best and newest stretch of (held-out, proxy) where the one fell and the other rose since."""
    size = HELD_OUT_WINDOW
    if len(points) < 2 * size:
        return None
    stretches = [points[first : first + size] for first in range(len(points) - size + 1)]
    held_out = [fmean(watched for watched, _ in stretch) for stretch in stretches]
    proxy = [fmean(reward for _, reward in stretch) for stretch in stretches]
    # The last stretch must not overlap the best one, or they share what differs.
    best = max(range(len(stretches) - size), key=held_out.__getitem__)
    # Updates differ from their neighbours by chance alone, all but: half the mean square of the
    # differences is the variance of one.
    steps = [(b - a) ** 2 for (a, _), (b, _) in pairwise(points)]
    error = sqrt(fmean(steps) / 2 * 2 / size)
    fell, rose = held_out[best] - held_out[-1], proxy[-1] - proxy[best]
    if not (fell > HELD_OUT_ERRORS * error and fell > 0 and rose > 0):
        return None
    return held_out[best], held_out[-1], rose
