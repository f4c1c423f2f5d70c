"""Prompts and answers in one row: where each token is, and which tokens predict the answer."""

import torch

from salsa_cli.models import sequences
from salsa_cli.models.sequences import Sequences
from salsa_cli.models.tokenization import Tokens
from tests.support.families import ANSWERS, PROMPTS, read

ROWS = [prompt + answer for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]


def test_packed_rows_of_a_hand_worked_example() -> None:
    ids = torch.tensor([[1, 2, 3, 0], [4, 5, 6, 7], [8, 0, 0, 0]])
    given = Sequences(
        ids,
        torch.tensor([[3, 0], [6, 7], [8, 0]]),
        torch.tensor([2, 2, 0]),
        torch.tensor([1, 2, 1]),
    )
    packed = given.packed()
    assert packed.ids.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert packed.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 0]
    # The longest first; 3 tokens are three quarters of 4, one is less.
    assert packed.blocks == ((2, 4), (1, 1))
    assert packed.padded.tolist() == [3, 4, 5, 6, 0, 1, 2, 2, 7]
    assert packed.real.tolist() == [4, 5, 6, 0, 1, 2, 3, 8]
    assert packed.padded[packed.real].tolist() == list(range(8))


def test_the_tokens_before_the_answers_are_those_of_padded_rows() -> None:
    given = read()
    packed = given.packed()
    there = given.ids.flatten()[given.predicting()]
    assert packed.ids[packed.predicting].tolist() == there.tolist()
    assert [len(ids) for ids in packed.ids.split(given.lengths.tolist())] == list(map(len, ROWS))


def small() -> Sequences:
    """Prompts `5` and `6 7 8` with answers `9 2` and `3`; 0 is padding."""
    prompts = Tokens(torch.tensor([[0, 0, 5], [6, 7, 8]]), torch.tensor([[0, 0, 1], [1, 1, 1]]) > 0)
    answers = Tokens(torch.tensor([[9, 2, 0], [3, 0, 0]]), torch.tensor([[1, 1, 0], [1, 0, 0]]) > 0)
    return Sequences.of(prompts, answers)


def test_padding_goes_behind_and_the_batch_is_as_wide_as_its_longest_row() -> None:
    found = small()
    assert found.ids.tolist() == [[5, 9, 2, 0], [6, 7, 8, 3]]
    assert found.prompt_lengths.tolist() == [1, 3]
    assert found.answer_lengths.tolist() == [2, 1]
    assert found.lengths.tolist() == [3, 4]


def test_a_token_within_an_answer_that_equals_the_padding_is_kept() -> None:
    prompts = Tokens(torch.tensor([[0, 5]]), torch.tensor([[True, True]]))
    answers = Tokens(torch.tensor([[0, 0, 0]]), torch.tensor([[True, True, False]]))
    found = Sequences.of(prompts, answers)
    assert found.ids.tolist() == [[0, 5, 0, 0]] and found.lengths.tolist() == [4]


def test_the_token_before_each_answer_token_predicts_it() -> None:
    found = small()
    # 5 predicts 9, 9 predicts 2, 8 predicts 3.
    assert found.predicting().tolist() == [0, 1, 6]
    assert found.real().tolist() == [0, 1, 3]
    values = torch.tensor([0.5, -1.0, 2.0])
    assert found.spread(values, found.real()).tolist() == [[0.5, -1.0, 0.0], [2.0, 0.0, 0.0]]


def test_a_part_is_no_wider_than_its_longest_row() -> None:
    part = small().part(torch.tensor([0]))
    assert part.ids.tolist() == [[5, 9, 2]]
    assert part.answers.tolist() == [[9, 2, 0]]
    assert (part.prompt_lengths.tolist(), part.answer_lengths.tolist()) == ([1], [2])
    turned = small().part(torch.tensor([1, 0]))
    assert turned.ids.tolist() == [[6, 7, 8, 3], [5, 9, 2, 0]]


def test_groups_by_length_by_hand() -> None:
    lengths = torch.tensor([3, 9, 5, 9, 1])
    groups = sequences.group_by_length(lengths, torch.arange(5), most=2, tokens=12)
    # Two rows of 9 exceed 12 tokens; 5 and 3 are computed as 2 x 5; a third would be one too many.
    assert [group.tolist() for group in groups] == [[1], [3], [2, 0], [4]]
    wide = sequences.group_by_length(lengths, torch.tensor([4, 1]), most=2, tokens=4)
    assert [group.tolist() for group in wide] == [[1], [4]]  # a longer row is a pass of its own
    assert sequences.group_by_length(lengths, torch.tensor([], dtype=torch.long), 2, 12) == []
