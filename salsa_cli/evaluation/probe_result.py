"""What a probe found: two models, the line between them, and one word for it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from salsa_cli.formatting import counted, figure, plain
from salsa_cli.runs.events import Table

Word = Literal["too-close", "good", "not-connected"]

TOO_CLOSE = 1e-3
"""KL in nats per token below which a soup cannot be told from an ingredient by its answers.

An answer of 100 tokens then tells the two apart by at most 0.1 nats, where a policy of PPO moves by
several.
"""
BARRIER = 0.05
"""Barrier in nats per token from which models are not connected.

Fine-tuned models of the same base have none or a negative one (Frankle et al. 2020, Wortsman et
al. 2022); it must be twice its standard error as well.
"""
BETTER = 0.05
"""Nats per token by which a soup's loss is lower than both models' before it counts as better.

Pairs in examples/salsa_vs_ppo: .16 to .19 where the soup had the higher reward before RL, .005
where it had not.
"""
FEWEST_TEXTS = 5
"""Texts from which a standard error over texts is worth a verdict."""
FEW_UNITS = 4
"""Units in the last place up to which few stored numbers lie between two models."""


@dataclass(frozen=True)
class LinePoint:
    """The soup at one alpha: its likelihood, and the KL from each ingredient to it, in nats."""

    alpha: float
    nll: float
    kl_a: float
    kl_b: float
    kl_a_per_answer: float
    kl_b_per_answer: float


@dataclass(frozen=True)
class LayerGroup:
    """Weights of a group of layers: cosine of A and B, and |B - A| / |A|.

    `cosine_of_changes` is that of A - base and B - base, if the base is known.
    """

    group: str
    parameters: int
    cosine: float
    relative_distance: float
    cosine_of_changes: float | None = None


@dataclass(frozen=True)
class StoredDistance:
    """How far apart the stored numbers are, in units in the last place of their dtype."""

    dtype: str
    equal: float
    one_unit: float
    median_units: float

    @property
    def is_staircase(self) -> bool:
        """Whether so few stored numbers lie between the models that the line has steps."""
        return self.dtype in ("BF16", "F16") and 0 < self.median_units <= FEW_UNITS


@dataclass(frozen=True)
class ProbeResult:
    """The result of `salsa soup --probe`."""

    models: tuple[str, str]
    texts: int
    tokens: int
    line: tuple[LinePoint, ...]
    barrier: float
    barrier_alpha: float
    barrier_error: float | None
    gain: float
    gain_error: float | None
    groups: tuple[LayerGroup, ...]
    stored: StoredDistance
    seconds: float
    output: str | None = None
    texts_cut: int = 0
    texts_left_out: int = 0
    longest: int | None = None

    @property
    def verdict(self) -> Word | None:
        """`not-connected`: a barrier. `too-close`: the soup is the model. Otherwise `good`.

        None if there is too little data to tell a barrier from none.
        """
        if self.barrier_error is None or self.texts < FEWEST_TEXTS:
            return None
        double = 2 * self.barrier_error
        if self.barrier > BARRIER and self.barrier > double:
            return "not-connected"
        if double > BARRIER and self.barrier + double > BARRIER:
            return None
        middle = self.middle
        return "too-close" if max(middle.kl_a, middle.kl_b) < TOO_CLOSE else "good"

    @property
    def middle(self) -> LinePoint:
        """The soup at alpha 0.5."""
        return next(point for point in self.line if point.alpha == 0.5)

    def sentence(self) -> str:
        """The verdict in words."""
        middle, kl = (
            self.middle,
            f"{figure(max(self.middle.kl_a, self.middle.kl_b))} nats per token",
        )
        match self.verdict:
            case "not-connected":
                return (
                    f"not connected: at alpha {self.barrier_alpha:g} the soup loses "
                    f"{figure(self.barrier)} nats per token compared with the straight line "
                    "between the models. Average models of the same base"
                )
            case None:
                return f"too little data: {self._too_little()}"
            case "too-close":
                return (
                    f"too close: the soup is the model (KL at most {kl}); averaging has no visible "
                    "effect on answers. Use models that differ more"
                )
            case _:
                return (
                    f"good: no barrier ({figure(self.barrier)} nats per token), and a soup at "
                    "alpha "
                    f"0.5 that differs from both (KL {figure(middle.kl_a)} from A, "
                    f"{figure(middle.kl_b)} from B per token). {self._use()}"
                )

    @property
    def is_better(self) -> bool:
        """Whether the soup predicts the texts better than both models, beyond chance."""
        return self.gain > BETTER and self.gain > 2 * (self.gain_error or 0.0)

    def _use(self) -> str:
        """What a gain in held-out loss, or none, means for training (examples/salsa_vs_ppo)."""
        if self.is_better:
            return (
                f"Its loss is {figure(self.gain)} nats per token lower than that of the better "
                "model. To keep this, start PPO at the soup (salsa ppo --ref SOUP --policy SOUP)"
            )
        side = "lower" if self.gain >= 0 else "higher"
        return (
            f"Its loss is {figure(abs(self.gain))} nats per token {side} than that of the better "
            "model: expect no more from it than from plain PPO"
        )

    def _too_little(self) -> str:
        if self.texts < FEWEST_TEXTS:
            return (
                f"{counted(self.texts, 'text')}, too few for a standard error; use at least "
                f"{FEWEST_TEXTS}, "
                "better 100 or more"
            )
        return (
            f"the standard error of the barrier is {figure(self.barrier_error or 0)} nats per "
            "token, "
            f"and a verdict needs at most {figure(BARRIER / 2)}; use more or longer texts"
        )

    @property
    def error_text(self) -> str:
        """The standard error of the barrier, for people."""
        return _error_text(self.barrier_error)

    def cutoff(self) -> str:
        """What the verdict is decided by."""
        return (
            f"not connected: a barrier above {BARRIER:g} nats per token and above two standard "
            f"errors; too close: KL below {TOO_CLOSE:g} nats per token at alpha 0.5; no verdict on "
            f"fewer than {FEWEST_TEXTS} texts, or where twice the standard error exceeds "
            f"{BARRIER:g} and could hide a barrier"
        )

    def shortened(self) -> str | None:
        """How many texts were cut; None if all were measured whole."""
        if not (self.texts_cut or self.texts_left_out):
            return None
        counts = (
            (self.texts_cut, "truncated to {} tokens"),
            (self.texts_left_out, "dropped: no token to measure within {} tokens"),
        )
        return "; ".join(
            f"{counted(count, 'text')} {what.format(self.longest)}"
            for count, what in counts
            if count
        )

    def staircase(self) -> str | None:
        """What few units in the last place mean for the line; None if there are many."""
        stored = self.stored
        if not stored.is_staircase:
            return None
        return (
            f"the weights are stored as {stored.dtype}, and {stored.equal:.0%} of them are equal, "
            f"{stored.one_unit:.0%} one unit in the last place apart (median of those that differ: "
            f"{stored.median_units:g}), so the soup changes in steps: for weights one unit apart, "
            "every alpha below 0.5 gives A and every alpha above 0.5 gives B"
        )

    def record(self) -> Mapping[str, object]:
        """The object that `--json` prints."""
        found = {
            **asdict(self),
            "verdict": self.verdict,
            "sentence": self.sentence(),
            "cutoff": self.cutoff(),
        }
        found["stored"] = {**asdict(self.stored), "staircase": self.stored.is_staircase}
        return found

    def summary(self) -> tuple[str, Table | None]:
        """The line as a table; the distances and the verdict below it."""
        groups = [
            f"  {one.group}: cosine {one.cosine:.4f}, relative distance "
            f"{figure(one.relative_distance)}"
            + ("" if one.cosine_of_changes is None else f", of changes {one.cosine_of_changes:.3f}")
            for one in self.groups
        ]
        names = [
            f"{letter} = {plain(name, 80)}" for letter, name in zip("AB", self.models, strict=True)
        ]
        lines = [
            ", ".join(names),
            f"{counted(self.texts, 'text')}, {self.tokens:,} tokens; barrier "
            f"{figure(self.barrier)} nats "
            f"per token at alpha {self.barrier_alpha:g} (standard error {self.error_text})",
            f"loss of the better model - loss of the soup at alpha 0.5: {figure(self.gain)} nats "
            f"per token (standard error {_error_text(self.gain_error)})",
            *([cut] if (cut := self.shortened()) else []),
            "weights by group of layers:",
            *groups,
            *([note] if (note := self.staircase()) else []),
            self.sentence(),
            f"({self.cutoff()})",
        ]
        return "\n".join(lines), Table(COLUMNS, line_rows(self.line))


def _error_text(error: float | None) -> str:
    return "unknown" if error is None else figure(error)


COLUMNS = ("alpha", "NLL", "KL(A||soup)", "KL(B||soup)", "A, per answer", "B, per answer")


def line_rows(line: Sequence[LinePoint]) -> list[tuple[str, ...]]:
    """The points of a line as cells; `COLUMNS` are their names."""
    return [
        (
            f"{one.alpha:g}",
            f"{one.nll:.4f}",
            *(
                figure(value)
                for value in (one.kl_a, one.kl_b, one.kl_a_per_answer, one.kl_b_per_answer)
            ),
        )
        for one in line
    ]


def barrier(
    alphas: Sequence[float], nll: Sequence[Sequence[float]], lengths: Sequence[int]
) -> tuple[float, float, float | None]:
    """The highest point of the line above the straight one between its ends.

    barrier = max over alpha of NLL(alpha) - (1 - alpha) NLL(0) - alpha NLL(1), of means per token
    (Frankle et al. 2020). Negative if the line sags everywhere.

    Args:
        alphas: from 0 to 1.
        nll: for each alpha the summed negative log-likelihood of each text, in nats.
        lengths: tokens of each text.

    Returns:
        The barrier, its alpha, and its standard error over texts (None for one text).
    """
    best: tuple[float, float, float | None] = (float("-inf"), 0.5, None)
    for alpha, sums in zip(alphas, nll, strict=True):
        if alpha in (0, 1):
            continue
        rises = [
            here - (1 - alpha) * first - alpha * last
            for here, first, last in zip(sums, nll[0], nll[-1], strict=True)
        ]
        mean, error = _per_token(rises, lengths)
        if mean > best[0]:
            best = (mean, alpha, error)
    return best


def gain_over_best(
    ends: Sequence[Sequence[float]], soup: Sequence[float], lengths: Sequence[int]
) -> tuple[float, float | None]:
    """How much lower a soup's loss per token is than that of the better of two models.

    Args:
        ends: of each model the summed negative log-likelihood of each text, in nats.
        soup: the same of the soup.
        lengths: tokens of each text.

    Returns:
        The difference in nats per token, and its standard error over texts (None for one text).
    """
    better = min(ends, key=sum)
    return _per_token([a - b for a, b in zip(better, soup, strict=True)], lengths)


def _per_token(sums: Sequence[float], lengths: Sequence[int]) -> tuple[float, float | None]:
    """The mean per token of sums over texts, and its standard error (a ratio's; None for one)."""
    tokens, count = sum(lengths), len(sums)
    mean = sum(sums) / tokens
    off = [one - mean * length for one, length in zip(sums, lengths, strict=True)]
    error = (sum(x * x for x in off) * count / max(1, count - 1)) ** 0.5 / tokens
    return mean, error if count > 1 else None
