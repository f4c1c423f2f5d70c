"""Verdicts grouped by pair of models, judge and question, and counted into points."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from salsa_cli.evaluation.verdicts.formats import Convention
from salsa_cli.evaluation.verdicts.verdict import Verdict

Array = NDArray[np.float64]
Rule = Literal["half", "both-agree"]
Failed = Literal["drop", "tie"]


@dataclass(frozen=True)
class Rules:
    """Rules for counting verdicts.

    Attributes:
        rule: `half`: ties are half a win, and a question's score is the mean over its games.
            `both-agree`: a win in both orders is a win, all else is a tie (FastChat).
        failed: whether a comparison with a failed game is dropped or counts as a tie.
        baseline: the model that is second in every pair it is part of.
    """

    rule: Rule = "half"
    failed: Failed = "drop"
    baseline: str | None = None


@dataclass(frozen=True, slots=True)
class Game:
    """One verdict: its outcome for `a` (None if it is invalid) and its weight.

    `invalid` is the reason for an invalid verdict.
    """

    outcome: float | None
    weight: float = 1.0
    invalid: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """Two answers to one turn of a question, judged in one or both orders."""

    question: str
    turn: int
    category: str | None
    forward: Game | None
    backward: Game | None
    unordered: Game | None

    @property
    def games(self) -> tuple[Game, ...]:
        """Its games, in the order forward, backward, unordered."""
        if self.unordered is not None and self.forward is None and self.backward is None:
            return (self.unordered,)
        three = (self.forward, self.backward, self.unordered)
        return tuple([game for game in three if game is not None])

    @property
    def failed(self) -> bool:
        """Whether any game is invalid."""
        return (
            (self.forward is not None and self.forward.outcome is None)
            or (self.backward is not None and self.backward.outcome is None)
            or (self.unordered is not None and self.unordered.outcome is None)
        )


@dataclass(frozen=True)
class Comparison:
    """One model against another by one judge."""

    a: str
    b: str
    judge: str
    convention: Convention
    matches: Sequence[Match]

    @property
    def of_itself(self) -> bool:
        """Whether a model is compared with itself."""
        return self.a == self.b

    @property
    def games(self) -> list[Game]:
        """All games, invalid ones included."""
        return [game for match in self.matches for game in match.games]

    def filled(self, outcome: float) -> "Comparison":
        """A copy in which every invalid game has `outcome`, with the weight of a strong label."""
        decided = Game(outcome, float(self.convention.strong_weight))
        return self._each(lambda game: decided if game.outcome is None else game)

    def even(self) -> "Comparison":
        """A copy in which every valid game is a tie."""
        return self._each(lambda game: game if game.outcome is None else replace(game, outcome=0.5))

    def _each(self, change: Callable[[Game], Game]) -> "Comparison":
        def changed(game: Game | None) -> Game | None:
            return None if game is None else change(game)

        return replace(
            self,
            matches=[
                replace(
                    match,
                    forward=changed(match.forward),
                    backward=changed(match.backward),
                    unordered=changed(match.unordered),
                )
                for match in self.matches
            ],
        )


@dataclass(frozen=True)
class Tally:
    """A comparison counted per question.

    The rate is sum(points) / sum(weights), and that of b over a is 1 minus it, exactly. Under the
    rule `half`, wins, losses and ties count questions; under `both-agree` they count comparisons
    of two answers, as FastChat does. `invalid` counts comparisons with a failed game.
    """

    rate: float
    questions: tuple[str, ...]
    points: Array
    weights: Array
    wins: int
    losses: int
    ties: int
    invalid: int

    @property
    def n(self) -> int:
        """Sum of wins, losses and ties."""
        return self.wins + self.losses + self.ties


def group_by_pair(
    verdicts: Iterable[tuple[Verdict, Convention]], baseline: str | None
) -> list[Comparison]:
    """Comparisons in the order of their first verdict.

    Each pair has one direction: that of its first verdict, but the baseline is always second.
    """
    found: dict[tuple[str, str, str], tuple[Convention, dict[tuple[str, int], _Turn]]] = {}
    for given, convention in verdicts:
        if given.b is None:
            continue
        turned = given.a == baseline or (given.b, given.a, given.judge) in found
        verdict = given.swapped if turned and given.a != given.b else given
        key = (verdict.a, str(verdict.b), verdict.judge)
        kept, turns = found.setdefault(key, (convention, {}))
        turn = turns.setdefault((verdict.question, verdict.turn), _Turn({}, verdict.category))
        weight = kept.strong_weight if verdict.strong else 1
        turn.games.setdefault(verdict.order, []).append(
            Game(verdict.outcome, weight, verdict.invalid)
        )
    return [
        Comparison(*key, convention, tuple(_matches(turns)))
        for key, (convention, turns) in found.items()
    ]


def tally(comparison: Comparison, rules: Rules) -> Tally:
    """Points and weights of every question.

    A model compared with itself scores one half in every game: its two sides are the same.
    """
    if comparison.of_itself:
        comparison = comparison.even()
    counted = [
        (match.question, scored)
        for match in comparison.matches
        if (scored := _score(match, comparison.convention, rules))
    ]
    by_question: dict[str, list[Game]] = {}
    for question, games in counted:
        by_question.setdefault(question, []).extend(games)
    points = np.array([sum(_points(game) for game in games) for games in by_question.values()])
    weights = np.array([sum(game.weight for game in games) for games in by_question.values()])
    if rules.rule == "both-agree":
        outcomes = np.array([game.outcome for _, games in counted for game in games])
    else:
        outcomes = points / weights if len(points) else points
    per_question = comparison.convention.rate == "questions" and rules.rule == "half"
    rate = _exact_rate(points, weights, per_question)
    if per_question:
        points, weights = outcomes, np.ones_like(weights)
    return Tally(
        rate,
        tuple(by_question),
        points,
        weights,
        wins=int((outcomes > 0.5).sum()),
        losses=int((outcomes < 0.5).sum()),
        ties=int((outcomes == 0.5).sum()),
        invalid=sum(match.failed for match in comparison.matches),
    )


@dataclass(frozen=True)
class _Turn:
    games: dict[str | None, list[Game]]
    category: str | None


def _matches(turns: Mapping[tuple[str, int], _Turn]) -> Iterator[Match]:
    """Pair the games of both orders in order of appearance; a question may repeat."""
    for (question, number), turn in turns.items():
        orders = [turn.games.get(order, []) for order in ("ab", "ba", None)]
        for forward, backward in _pairs(orders[0], orders[1]):
            yield Match(question, number, turn.category, forward, backward, None)
        for game in orders[2]:
            yield Match(question, number, turn.category, None, None, game)


def _pairs(first: list[Game], second: list[Game]) -> Iterator[tuple[Game | None, Game | None]]:
    for index in range(max(len(first), len(second))):
        yield (
            first[index] if index < len(first) else None,
            second[index] if index < len(second) else None,
        )


def _score(match: Match, convention: Convention, rules: Rules) -> list[Game]:
    """The games of a match that count under the rules, with their outcomes."""
    games = match.games
    if rules.rule == "both-agree":
        if match.failed:
            return [Game(0.5)] if rules.failed == "tie" else []
        winners = {_winner(game) for game in games}
        lone = len(games) == 1 and match.unordered is None
        return [Game(winners.pop() if len(winners) == 1 and not lone else 0.5)]
    if rules.failed == "tie":
        return [Game(0.5) if game.outcome is None else game for game in games]
    if match.failed and convention.dropped == "both":
        return []
    return [game for game in games if game.outcome is not None]


def _exact_rate(points: Array, weights: Array, per_question: bool) -> float:
    """The mean over questions, or over verdicts, rounded so that both sides' rates sum to 1.

    Most points are halves of whole numbers, so that their sum is an exact fraction. The smaller
    rate is 1 minus the larger, a difference that floating point holds exactly (Sterbenz 1974),
    while 1/3 and 2/3, each rounded, need not sum to 1. NaN where nothing counts.
    """
    if not len(points):
        return float("nan")
    if (np.rint(2 * points) != 2 * points).any():
        ours, theirs = (
            _mean_rate(side, weights, per_question) for side in (points, weights - points)
        )
        return ours if ours >= theirs else 1.0 - theirs
    halves, whole = (2 * points).astype(np.int64), weights.astype(np.int64)
    if per_question:
        sums = (
            Fraction(int(halves[whole == weight].sum()), 2 * int(weight))
            for weight in np.unique(whole)
        )
        rate = sum(sums, Fraction(0)) / len(points)
    else:
        rate = Fraction(int(halves.sum()), 2 * int(whole.sum()))
    return float(rate) if 2 * rate >= 1 else 1.0 - float(1 - rate)


def _mean_rate(points: Array, weights: Array, per_question: bool) -> float:
    return float(np.mean(points / weights) if per_question else points.sum() / weights.sum())


def _winner(game: Game) -> float:
    """1, 0.5 or 0: who won, where a judge gives the probability of it."""
    assert game.outcome is not None
    return 0.5 if game.outcome == 0.5 else float(game.outcome > 0.5)


def _points(game: Game) -> float:
    assert game.outcome is not None
    return game.outcome * game.weight
