"""Encodes preference pairs, splits them by prompt and batches them by length."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from salsa_cli import data
from salsa_cli.data import Prompt
from salsa_cli.errors import SalsaError, during
from salsa_cli.formatting import counted
from salsa_cli.models.tokenization import Answer, Tokenizer, prompt_ids, scored_ids
from salsa_cli.reward_models.preferences import AnswerSet, Preference

OnLong = Literal["drop", "truncate"]

EMPTY = "an empty answer"
EQUAL_SCORES = "equal scores"
IDENTICAL = "identical answers"
ALIKE_ONCE_CUT = "identical answers after truncation to {limit} tokens"
NO_ROOM = "no room for an answer in {limit} tokens"
TOO_LONG = "longer than {limit} tokens"

_WINDOW = 16
"""Batches within which pairs are sorted by length: enough to save padding, few enough that the
batches of an epoch are still mixed at random."""


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a prompt with its chosen and with its rejected answer.

    `margin` and `category` are those of the pair, `row` is its 1-based row in its file; `cut` is
    true if an answer was truncated. Pairs of one `contest` hold the right and the wrong answers to
    one prompt (see `encode_contests`).
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
        """Tokens of the longer sequence."""
        return max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class Dropped:
    """Rows that are dropped for one reason."""

    reason: str
    rows: tuple[int, ...]

    def text(self) -> str:
        """The reason, the number of rows and the first of them."""
        shown = ", ".join(map(str, self.rows[:5])) + (", ..." if len(self.rows) > 5 else "")
        noun = "row" if len(self.rows) == 1 else "rows"
        return f"{self.reason}: {len(self.rows)} ({noun} {shown})"


@dataclass(frozen=True)
class EncodedPairs:
    """The pairs that are kept, the rows that are dropped, and rows with a truncated answer."""

    kept: tuple[EncodedPair, ...]
    dropped: tuple[Dropped, ...]
    cut: tuple[int, ...] = ()


def encode(
    tokenizer: Tokenizer, pairs: Sequence[Preference], max_length: int, on_long: OnLong
) -> EncodedPairs:
    """Encode pairs; those that nothing can be learnt from are dropped, with the reason.

    Args:
        tokenizer: of the reward model.
        pairs: to encode.
        max_length: maximum tokens of prompt, answer and end token.
        on_long: whether a longer pair is dropped, or its answers are truncated (and then have no
            end token).
    """
    outcomes = [(pair.row, [_encode_pair(tokenizer, pair, max_length, on_long)]) for pair in pairs]
    return _collect(outcomes)


def encode_contests(
    tokenizer: Tokenizer, given: Sequence[AnswerSet], max_length: int, on_long: OnLong
) -> EncodedPairs:
    """Encode answer sets as pairs: the first right answer with the first wrong one, and so on.

    The last answer of the shorter list is repeated. An answer set is dropped as a whole. Identical
    answers are kept: they are a tie, by the rules of RewardBench 2.
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
        found = [
            EMPTY if one.missing_answer else _encode_within_limit(tokenizer, p, max_length, on_long)
            for p in pairs
        ]
        named = [f if isinstance(f, str) else replace(f, contest=one.name) for f in found]
        outcomes.append((one.row, named))
    return _collect(outcomes)


def _collect(outcomes: Sequence[tuple[int, Sequence[EncodedPair | str]]]) -> EncodedPairs:
    """Separate rows that are kept from rows that are dropped; one reason drops the row."""
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


def _encode_pair(
    tokenizer: Tokenizer, pair: Preference, max_length: int, on_long: OnLong
) -> EncodedPair | str:
    """The encoded pair, or the reason to drop it."""
    if pair.scores is not None and pair.scores[0] == pair.scores[1]:
        return EQUAL_SCORES
    if pair.missing_answer:
        return EMPTY
    found = _encode_within_limit(tokenizer, pair, max_length, on_long)
    if isinstance(found, EncodedPair) and found.chosen == found.rejected:
        return ALIKE_ONCE_CUT.format(limit=max_length) if found.cut else IDENTICAL
    return found


def _encode_within_limit(
    tokenizer: Tokenizer, pair: Preference, max_length: int, on_long: OnLong
) -> EncodedPair | str:
    """The encoded pair, truncated if allowed, or the reason to drop it."""
    with during(f"row {pair.row}"):
        chosen, rejected = (
            tuple(scored_ids(tokenizer, pair.prompt, answer))
            for answer in (pair.chosen, pair.rejected)
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
    """Hold out about `share` of the pairs, with no prompt on both sides: (training, held out).

    Prompts are visited in an order that depends on `seed`; one is held out if that brings the
    number of held-out pairs closer to the share.

    Raises:
        SalsaError: all pairs have one prompt.
    """
    counts = Counter(pair.prompt for pair in pairs)
    prompts = list(counts)
    if len(prompts) < 2:
        raise SalsaError(
            f"the data has only one prompt ({counted(len(pairs), 'pair')}); expected two or more, "
            "so that some can be held out, or --eval-data"
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
    """The batches of one epoch: every pair once, grouped by similar length.

    The pairs are shuffled and divided into windows; each window is sorted by length and divided
    into batches whose sizes differ by at most one; then the batches are shuffled. A pure function
    of its arguments; the number of batches does not depend on seed or epoch.
    """
    order = data.epoch_order(len(lengths), seed, epoch)
    sizes = np.asarray(lengths)
    batches: list[list[int]] = []
    for window in np.array_split(order, -(-len(lengths) // (batch_size * _WINDOW))):
        ranked = window[np.argsort(sizes[window], kind="stable")]
        count = -(-len(ranked) // batch_size)
        batches += [part.tolist() for part in np.array_split(ranked, count)]
    # A random stream independent of the one that shuffled the pairs.
    return [batches[place] for place in data.epoch_order(len(batches), ~seed & 2**63 - 1, epoch)]


def sorted_batches(
    pairs: Sequence[EncodedPair], batch_size: int
) -> Iterator[tuple[list[int], list[EncodedPair]]]:
    """All pairs in batches of similar length, each with the indices of its pairs.

    Longest first, so that a batch that does not fit into memory fails at once.
    """
    order = sorted(range(len(pairs)), key=lambda place: -pairs[place].length)
    for first in range(0, len(order), batch_size):
        places = order[first : first + batch_size]
        yield places, [pairs[place] for place in places]
