"""Drops, splits and batches of preference pairs."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.errors import SalsaError
from salsa_cli.models.tokenization import Answer
from salsa_cli.reward_models import pairs
from salsa_cli.reward_models.pairs import EncodedPair
from salsa_cli.reward_models.preferences import AnswerSet, Preference
from tests.support import tiny

TOKENIZER = tiny.tokenizer()
EOS = TOKENIZER.eos_token_id


def preference(chosen: str, rejected: str, prompt: str = "the cat", **more: object) -> Preference:
    return Preference(prompt, Answer(chosen), Answer(rejected), **more)  # type: ignore[arg-type]


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text))


def pair(prompt: str, row: int = 1, length: int = 2) -> EncodedPair:
    return EncodedPair(prompt, (5,) * length, (6,), row=row)


def test_a_pair_is_encoded_with_its_end_token_margin_and_row() -> None:
    given = preference(" sat happy", " sad", margin=0.5, category="easy", row=7)
    kept = pairs.encode(TOKENIZER, [given], 16, "drop").kept
    expected = (*ids("the cat sat happy"), EOS), (*ids("the cat sad"), EOS)
    assert kept == (EncodedPair("the cat", *expected, 0.5, "easy", 7),)


def test_an_answer_that_was_cut_has_no_end_token() -> None:
    given = Preference("the cat", Answer(" sat", finished=False), Answer(" ran"))
    (kept,) = pairs.encode(TOKENIZER, [given], 16, "drop").kept
    assert kept.chosen == ids("the cat sat")
    assert kept.rejected == (*ids("the cat ran"), EOS)


def test_what_teaches_nothing_is_dropped_counted_and_named() -> None:
    given = [
        preference(" sat", " ran", scores=(7.0, 7.0), row=1),
        preference(" sat", "  sat", row=2),  # the same tokens
        preference(" sat and ran happy", " sad", row=3),
        preference(" sat", " ran", prompt="the cat and the dog sat", row=4),
        preference(" sat", " ran", row=5),
        preference(" sad", " sad", row=6),
    ]
    found = pairs.encode(TOKENIZER, given, 6, "drop")
    assert [kept.row for kept in found.kept] == [5]
    assert {one.reason: one.rows for one in found.dropped} == {
        "equal scores": (1,),
        "identical answers": (2, 6),
        "longer than 6 tokens": (3,),
        "no room for an answer in 6 tokens": (4,),
    }
    assert found.dropped[1].text() == "identical answers: 2 (rows 2, 6)"


def test_a_hole_for_an_answer_is_dropped() -> None:
    given = [
        preference(" sat", "", row=1),
        preference(" sat", "", scores=(2.0, 1.0), row=2),
        preference("", " sat", row=3),
    ]
    found = pairs.encode(TOKENIZER, given, 6, "drop")
    assert [(kept.row, kept.rejected) for kept in found.kept] == [(2, (*ids("the cat"), EOS))]
    assert [(one.reason, one.rows) for one in found.dropped] == [("an empty answer", (1, 3))]


def test_long_answers_may_be_cut_where_something_of_them_is_left() -> None:
    given = [
        preference(" sat and ran happy", " sad", row=1),
        preference(" sat and ran happy", " sat and ran sad", row=2),  # alike up to the cut
        preference(" sat", " ran", prompt="the cat and the dog", row=3),
    ]
    found = pairs.encode(TOKENIZER, given, 5, "truncate")
    assert [(kept.chosen, kept.rejected) for kept in found.kept] == [
        (ids("the cat sat and ran"), (*ids("the cat sad"), EOS))
    ]
    assert {one.reason: one.rows for one in found.dropped} == {
        "identical answers after truncation to 5 tokens": (2,),
        "no room for an answer in 5 tokens": (3,),
    }
    assert found.cut == (1,)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=12),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 3),
)
def test_no_prompt_is_on_both_sides(sizes: list[int], share: float, seed: int) -> None:
    all_pairs = [pair(f"p{n}", row) for n, size in enumerate(sizes) for row in range(size)]
    training, held_out = pairs.split_by_prompt(all_pairs, share, seed)
    assert not {p.prompt for p in training} & {p.prompt for p in held_out}
    assert Counter(training + held_out) == Counter(all_pairs)
    assert training and held_out
    # As near to the share as whole prompts allow: no farther off than half the largest group.
    assert abs(len(held_out) - share * len(all_pairs)) <= max(sizes)


def test_a_split_of_single_pairs_takes_the_share_exactly_and_depends_on_the_seed() -> None:
    all_pairs = [pair(f"p{n}") for n in range(40)]
    splits = [pairs.split_by_prompt(all_pairs, 0.1, seed)[1] for seed in (0, 0, 1)]
    assert [len(held_out) for held_out in splits] == [4, 4, 4]
    assert splits[0] == splits[1] != splits[2]


def test_one_prompt_cannot_be_split() -> None:
    with pytest.raises(SalsaError, match=r"the data has only one prompt \(3 pairs\)"):
        pairs.split_by_prompt([pair("p")] * 3, 0.1, 0)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=200),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 3),
)
def test_an_epoch_visits_every_pair_once_in_batches_of_one_size(
    lengths: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    batches = pairs.epoch_batches(lengths, batch_size, seed, epoch)
    assert sorted(place for batch in batches for place in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size
    assert batches == pairs.epoch_batches(lengths, batch_size, seed, epoch)
    assert len(batches) == len(pairs.epoch_batches(lengths, batch_size, 0, 0))


def test_who_shares_a_batch_is_drawn_anew_in_every_epoch() -> None:
    together = [set(map(frozenset, pairs.epoch_batches([7] * 64, 8, 0, epoch))) for epoch in (0, 1)]
    assert not together[0] & together[1]
    assert frozenset(range(8)) not in together[0] | together[1]


def test_batches_by_length_waste_little_and_differ_between_epochs() -> None:
    lengths = [1 + (7 * n) % 100 for n in range(400)]

    def padding(batches: list[list[int]]) -> float:
        read = sum(len(b) * max(lengths[place] for place in b) for b in batches)
        return 1 - sum(lengths) / read

    first, second = (pairs.epoch_batches(lengths, 8, 0, epoch) for epoch in (0, 1))
    in_order = [list(range(start, start + 8)) for start in range(0, 400, 8)]
    assert padding(first) < 0.08 < 0.3 < padding(in_order)
    assert first != second
    longest = [max(lengths[place] for place in batch) for batch in first]
    assert longest != sorted(longest) and longest != sorted(longest, reverse=True)


def test_sorted_batches_put_the_longest_first_and_say_where_each_pair_stood() -> None:
    given = [pair("p", row, length) for row, length in enumerate((2, 5, 3))]
    batches = list(pairs.sorted_batches(given, 2))
    assert [places for places, _ in batches] == [[1, 2], [0]]
    assert [[p.row for p in part] for _, part in batches] == [[1, 2], [0]]


def test_a_contest_becomes_pairs_that_hold_each_of_its_answers_or_none() -> None:
    whole = AnswerSet("the cat", (" sat",), (" ran", " sang", " sad"), "Math", "7", 1)
    broken = AnswerSet("the cat", (" sat", " ran and ran and ran"), (" sad",), "Math", "8", 2)
    found = pairs.encode_contests(TOKENIZER, [whole, broken], 6, "drop")
    assert [(p.chosen, p.rejected, p.contest, p.category, p.row) for p in found.kept] == [
        ((*ids("the cat sat"), EOS), (*ids(f"the cat{wrong}"), EOS), "7", "Math", 1)
        for wrong in (" ran", " sang", " sad")
    ]
    assert [(one.reason, one.rows) for one in found.dropped] == [("longer than 6 tokens", (2,))]


def test_a_contest_keeps_a_wrong_answer_that_is_the_right_one_and_loses_none_for_a_hole() -> None:
    alike = AnswerSet("the cat", (" sat",), (" sat", " ran"), "Math", "7", 1)
    broken = AnswerSet("the cat", (" sat",), (" ran", " "), "Math", "8", 2)
    found = pairs.encode_contests(TOKENIZER, [alike, broken], 6, "drop")
    assert [(p.chosen == p.rejected, p.row) for p in found.kept] == [(True, 1), (False, 1)]
    assert [(one.reason, one.rows) for one in found.dropped] == [("an empty answer", (2,))]
