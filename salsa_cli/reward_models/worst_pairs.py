"""Scores of held-out pairs to look at, and the pairs that are ranked most wrongly."""

from collections.abc import Sequence
from dataclasses import dataclass

from salsa_cli import data
from salsa_cli.models.tokenization import Tokenizer, answer_text, prompt_ids
from salsa_cli.reward_models import assessment
from salsa_cli.reward_models.assessment import PairScores
from salsa_cli.reward_models.pairs import EncodedPair
from salsa_cli.reward_models.rewards import RewardScale

MOST = 20
"""Pairs that are kept as the worst."""


@dataclass(frozen=True)
class WorstPair:
    """A pair whose rejected answer scores higher: its 1-based row, its texts and both scores."""

    row: int
    category: str | None
    prompt: str
    chosen: str
    rejected: str
    chosen_score: float
    rejected_score: float

    @property
    def margin(self) -> float:
        """The score of the chosen answer minus that of the rejected one: negative."""
        return self.chosen_score - self.rejected_score


@dataclass(frozen=True)
class ScoreReport:
    """The scores of all chosen and rejected answers, and the worst pairs, the worst first.

    Raw scores of a single model; of an ensemble, the mean of the members' normalised ones.
    """

    chosen: tuple[float, ...]
    rejected: tuple[float, ...]
    worst: tuple[WorstPair, ...]


def look(
    pairs: Sequence[EncodedPair],
    members: Sequence[PairScores],
    scales: Sequence[RewardScale],
    tokenizer: Tokenizer,
) -> ScoreReport:
    """The scores of the pairs by one model or by the members of an ensemble."""
    scores = members[0] if len(members) == 1 else assessment.mean_scores(members, scales)
    chosen, rejected = scores.chosen.tolist(), scores.rejected.tolist()
    order = sorted(range(len(pairs)), key=lambda n: chosen[n] - rejected[n])
    wrong = [n for n in order[:MOST] if chosen[n] < rejected[n]]
    worst = tuple(_worst(pairs[n], chosen[n], rejected[n], tokenizer) for n in wrong)
    return ScoreReport(tuple(chosen), tuple(rejected), worst)


def _worst(pair: EncodedPair, chosen: float, rejected: float, tokenizer: Tokenizer) -> WorstPair:
    prompt = prompt_ids(tokenizer, pair.prompt)
    text = data.prompt_text(pair.prompt)
    answers = [_answer(prompt, ids, tokenizer) for ids in (pair.chosen, pair.rejected)]
    return WorstPair(pair.row, pair.category, text, answers[0], answers[1], chosen, rejected)


def _answer(prompt: Sequence[int], ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """An answer as the model reads it: without what was truncated.

    Its first token may be merged with the last one of its prompt.
    """
    pairs = enumerate(zip(prompt, ids, strict=False))
    start = next((n for n, (a, b) in pairs if a != b), min(len(prompt), len(ids)))
    return answer_text(tokenizer, ids[:start], ids[start:])
