"""The pairs that a reward model gets most wrong, with their texts."""

import numpy as np
import pytest

from salsa_cli.data import Message
from salsa_cli.models.loading import load_tokenizer
from salsa_cli.models.tokenization import Answer, Tokenizer
from salsa_cli.reward_models import pairs, worst_pairs
from salsa_cli.reward_models.assessment import PairScores
from salsa_cli.reward_models.pairs import EncodedPair
from salsa_cli.reward_models.preferences import Preference
from salsa_cli.reward_models.rewards import RewardScale
from tests.support import tiny

ONE = (RewardScale(5.0, 2.0),)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(tiny.save_reward_model(tmp_path_factory.mktemp("worst") / "rm"))


def encoded(tokenizer: Tokenizer, limit: int = 100) -> tuple[EncodedPair, ...]:
    chat = (Message("user", "dog"), Message("user", "sun"))
    given = [
        Preference("cat dog", Answer(" sun"), Answer(" rain tree"), row=1),
        Preference(chat, Answer(" tree"), Answer(" cat"), row=2),
        Preference("sun", Answer(" cat cat"), Answer(" dog"), row=7),
    ]
    return pairs.encode(tokenizer, given, limit, "truncate").kept


def test_the_largest_lead_of_a_rejected_answer_is_first(tokenizer: Tokenizer) -> None:
    scores = PairScores(np.array([1.0, 3.0, -1.0]), np.array([1.5, 2.0, 4.0]))
    found = worst_pairs.look(encoded(tokenizer), [scores], ONE, tokenizer)
    assert found.chosen == (1.0, 3.0, -1.0) and found.rejected == (1.5, 2.0, 4.0)  # raw
    assert [(one.row, one.margin) for one in found.worst] == [(7, -5.0), (1, -0.5)]
    assert (found.worst[0].prompt, found.worst[1].prompt) == ("sun", "cat dog")
    texts = [(one.chosen.strip(), one.rejected.strip()) for one in found.worst]
    assert texts == [("cat cat", "dog"), ("sun", "rain tree")]


def test_a_tie_is_not_wrong_and_a_conversation_is_a_text(tokenizer: Tokenizer) -> None:
    scores = PairScores(np.array([1.0, 0.0, 2.0]), np.array([1.0, 1.0, 1.0]))
    (one,) = worst_pairs.look(encoded(tokenizer), [scores], ONE, tokenizer).worst
    assert (one.row, one.prompt) == (2, "user: dog\nuser: sun")
    assert (one.chosen.strip(), one.rejected.strip()) == ("tree", "cat")


def test_an_ensemble_is_judged_by_its_normalised_mean(tokenizer: Tokenizer) -> None:
    scores = [PairScores(np.array([0.0, 0, 0]), np.array([x, 0, 0])) for x in (8.0, -1.0)]
    scales = (RewardScale(0.0, 8.0), RewardScale(1.0, 2.0))
    found = worst_pairs.look(encoded(tokenizer), scores, scales, tokenizer)
    # (8 / 8 + (-1 - 1) / 2) / 2 = 0 against (0 + (0 - 1) / 2) / 2 = -1/4.
    assert [one.margin for one in found.worst] == [-0.25]


def test_what_was_truncated_is_not_shown(tokenizer: Tokenizer) -> None:
    scores = PairScores(np.array([0.0, 0, 0]), np.array([1.0, 0, 0]))
    (one,) = worst_pairs.look(encoded(tokenizer, 3), [scores], ONE, tokenizer).worst
    assert one.rejected.strip() == "rain"


def test_the_worst_of_many_are_kept(tokenizer: Tokenizer) -> None:
    many = encoded(tokenizer)[:1] * 50
    scores = PairScores(np.zeros(50), np.arange(50.0))
    found = worst_pairs.look(many, [scores], ONE, tokenizer).worst
    assert [one.margin for one in found] == [-float(n) for n in range(49, 29, -1)]
