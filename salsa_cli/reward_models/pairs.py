"""Preference pairs ready to train on: encoded, checked, split by prompt, batched by length."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from salsa_cli import data
from salsa_cli.data import Prompt
from salsa_cli.errors import SalsaError
from salsa_cli.models.tokens import Answer, Tokenizer, prompt_ids, scored_ids
from salsa_cli.reward_models.preferences import AnswerSet, Preference
from salsa_cli.text import counted

OnLong = Literal["drop", "truncate"]

EMPTY = "an empty answer"
EQUAL_SCORES = "equal scores"
IDENTICAL = "identical answers"
ALIKE_ONCE_CUT = "identical answers once cut to {limit} tokens"
NO_ROOM = "no room for an answer in {limit} tokens"
TOO_LONG = "longer than {limit} tokens"

_WINDOW = 16
"""Batches among which pairs are sorted by length: enough that little is padding, and few enough
that the batches of an epoch are still mixed at random."""


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a prompt with its better and with its worse answer.

    `margin` and `category` are those of the pair, `row` is its row in its file, counted from 1;
    `cut` says that an answer was too long and lost its end.
    Pairs of one `contest` hold the right and the wrong answers to one prompt (see
    `encode_contests`).
    """

    prompt: Prompt
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    margin: float = 0.0
    category: str | None = None
    row: int = 1
    contest: str | None = None
    cut: bool = False

    @property
    def length(self) -> int:
        """Tokens of the longer one."""
        return max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class Dropped:
    """Pairs that are left out, and why."""

    reason: str
    rows: tuple[int, ...]

    def text(self) -> str:
        """For a person: how many, why, and the first rows."""
        shown = ", ".join(map(str, self.rows[:5])) + (", ..." if len(self.rows) > 5 else "")
        noun = "row" if len(self.rows) == 1 else "rows"
        return f"{self.reason}: {len(self.rows)} ({noun} {shown})"


@dataclass(frozen=True)
class EncodedPairs:
    """The pairs that are kept, those that are not, and the rows of which an answer was cut."""

    kept: tuple[EncodedPair, ...]
    dropped: tuple[Dropped, ...]
    cut: tuple[int, ...] = ()


def encode(
    tokenizer: Tokenizer, pairs: Sequence[Preference], max_length: int, on_long: OnLong
) -> EncodedPairs:
    """Encode every pair that can teach something; one with a hole for an answer cannot.

    Args:
        tokenizer: of the reward model.
        pairs: to encode.
        max_length: tokens of prompt, answer and end token at most.
        on_long: what becomes of a longer pair: it is dropped, or its answers are cut there (and
            then have no end token).
    """
    outcomes = [(pair.row, [_useful(tokenizer, pair, max_length, on_long)]) for pair in pairs]
    return _sorted_out(outcomes)


def encode_contests(
    tokenizer: Tokenizer, given: Sequence[AnswerSet], max_length: int, on_long: OnLong
) -> EncodedPairs:
    """Encode contests as pairs that hold each of its answers: the first right one with the first
    wrong one, and so on; the shorter list goes on with its last answer.

    A contest is dropped as a whole. Answers that are identical stay: they tie, by the rules.
    """
    outcomes: list[tuple[int, list[EncodedPair | str]]] = []
    for one in given:
        pairs = [
            Preference(
                one.prompt,
                Answer(one.right[min(place, len(one.right) - 1)]),
                Answer(one.wrong[min(place, len(one.wrong) - 1)]),
                category=one.category,
                row=one.row,
            )
            for place in range(max(len(one.right), len(one.wrong)))
        ]
        found = [EMPTY if one.hole else _fitted(tokenizer, p, max_length, on_long) for p in pairs]
        named = [f if isinstance(f, str) else replace(f, contest=one.name) for f in found]
        outcomes.append((one.row, named))
    return _sorted_out(outcomes)


def _sorted_out(outcomes: Sequence[tuple[int, Sequence[EncodedPair | str]]]) -> EncodedPairs:
    """Rows with what became of their pairs; one reason drops the row."""
    kept: list[EncodedPair] = []
    dropped: dict[str, list[int]] = {}
    for row, found in outcomes:
        reasons = [one for one in found if isinstance(one, str)]
        if reasons:
            dropped.setdefault(reasons[0], []).append(row)
        else:
            kept += [one for one in found if isinstance(one, EncodedPair)]
    cut = dict.fromkeys(pair.row for pair in kept if pair.cut)
    left_out = (Dropped(reason, tuple(rows)) for reason, rows in dropped.items())
    return EncodedPairs(tuple(kept), tuple(left_out), tuple(cut))


def _useful(
    tokenizer: Tokenizer, pair: Preference, max_length: int, on_long: OnLong
) -> EncodedPair | str:
    """The encoded pair, or the reason why it teaches nothing."""
    if pair.scores is not None and pair.scores[0] == pair.scores[1]:
        return EQUAL_SCORES
    if pair.hole:
        return EMPTY
    found = _fitted(tokenizer, pair, max_length, on_long)
    if isinstance(found, EncodedPair) and found.chosen == found.rejected:
        return ALIKE_ONCE_CUT.format(limit=max_length) if found.cut else IDENTICAL
    return found


def _fitted(
    tokenizer: Tokenizer, pair: Preference, max_length: int, on_long: OnLong
) -> EncodedPair | str:
    """The encoded pair, cut where it may be, or the reason why there is no room for it."""
    chosen, rejected = (
        tuple(scored_ids(tokenizer, pair.prompt, answer)) for answer in (pair.chosen, pair.rejected)
    )
    long = max(len(chosen), len(rejected)) > max_length
    if long and len(prompt_ids(tokenizer, pair.prompt)) >= max_length:
        return NO_ROOM.format(limit=max_length)
    if long and on_long == "drop":
        return TOO_LONG.format(limit=max_length)
    return EncodedPair(
        pair.prompt,
        chosen[:max_length],
        rejected[:max_length],
        pair.margin,
        pair.category,
        pair.row,
        cut=long,
    )


def split_by_prompt(
    pairs: Sequence[EncodedPair], share: float, seed: int
) -> tuple[tuple[EncodedPair, ...], tuple[EncodedPair, ...]]:
    """About `share` of the pairs held out, no prompt on both sides: (training, held out).

    Prompts are visited in an order that `seed` gives, and one is held out where that brings the
    count of pairs nearer to the share.

    Raises:
        SalsaError: all pairs have one prompt.
    """
    counts = Counter(pair.prompt for pair in pairs)
    prompts = list(counts)
    if len(prompts) < 2:
        raise SalsaError(
            f"the data have one prompt ({counted(len(pairs), 'pair')}); expected two or more, to "
            "train on and to hold out, or --eval-data"
        )
    held_out: set[Prompt] = set()
    wanted, taken = share * len(pairs), 0
    for place in data.epoch_order(len(prompts), seed, 0):
        size = counts[prompts[place]]
        if abs(taken + size - wanted) < abs(taken - wanted) and len(held_out) < len(prompts) - 1:
            held_out.add(prompts[place])
            taken += size
    if not held_out:
        held_out.add(min(prompts, key=lambda prompt: counts[prompt]))
    return (
        tuple(pair for pair in pairs if pair.prompt not in held_out),
        tuple(pair for pair in pairs if pair.prompt in held_out),
    )


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """The batches of one epoch: every pair once, those of similar length together.

    The pairs are shuffled and cut into windows of some batches; each window is sorted by length
    and cut into batches, whose sizes differ by one at most; then the batches are shuffled. A pure
    function of its arguments, and the number of batches does not depend on seed or epoch.
    """
    order = data.epoch_order(len(lengths), seed, epoch)
    sizes = np.asarray(lengths)
    batches: list[list[int]] = []
    for window in np.array_split(order, -(-len(lengths) // (batch_size * _WINDOW))):
        ranked = window[np.argsort(sizes[window], kind="stable")]
        count = -(-len(ranked) // batch_size)
        batches += [part.tolist() for part in np.array_split(ranked, count)]
    # Another stream than the one that shuffled the pairs.
    return [batches[place] for place in data.epoch_order(len(batches), ~seed & 2**63 - 1, epoch)]


def sorted_batches(
    pairs: Sequence[EncodedPair], batch_size: int
) -> Iterator[tuple[list[int], list[EncodedPair]]]:
    """All pairs in batches of similar length, longest first, each with the pairs' places.

    Longest first: what does not fit into memory fails at once.
    """
    order = sorted(range(len(pairs)), key=lambda place: -pairs[place].length)
    for first in range(0, len(order), batch_size):
        places = order[first : first + batch_size]
        yield places, [pairs[place] for place in places]
