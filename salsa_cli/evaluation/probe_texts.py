"""Held-out texts for a probe: whole texts, or answers to prompts, as token ids."""

from dataclasses import dataclass

from salsa_cli import data
from salsa_cli.data import Source
from salsa_cli.errors import SalsaError, during
from salsa_cli.evaluation.probe_rows import answer_text, has_text
from salsa_cli.models.tokenization import Answer, Tokenizer, prompt_ids, scored_ids

LONGEST = 2048
"""Tokens of a text that are read at most."""


@dataclass(frozen=True)
class ProbeText:
    """Token ids of which those from `start` on are measured, given all before."""

    ids: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        """Tokens that are measured."""
        return len(self.ids) - self.start


@dataclass(frozen=True)
class ProbeTexts:
    """The texts that are measured; of `cut` ones only the first `longest` tokens.

    In the `left_out` ones no token is left to measure.
    """

    texts: tuple[ProbeText, ...]
    cut: int
    left_out: int
    longest: int


def read(source: Source, tokenizer: Tokenizer, longest: int) -> ProbeTexts:
    """The texts of a data source, cut to `longest` tokens.

    A row has a `text`, or `messages` that end with the assistant's turn, or a `prompt` with an
    answer: `completion`, `chosen`, `answer`, `response` or `output`.

    Raises:
        SalsaError: a row has none of these, or no text has two tokens.
    """
    found = [_text(source, row, tokenizer) for row in range(len(source.rows))]
    cut = [ProbeText(one.ids[:longest], one.start) for one in found]
    kept = tuple(one for one in cut if one.count > 0)
    if not kept:
        raise SalsaError(f"{source.name}: none of its texts has a token to predict")
    shortened = sum(len(one.ids) > longest > one.start for one in found)
    return ProbeTexts(kept, shortened, len(found) - len(kept), longest)


def _text(source: Source, index: int, tokenizer: Tokenizer) -> ProbeText:
    row = source.rows[index]
    if has_text(row):
        text = str(row["text"])
        ids = tokenizer.encode(text)
        return ProbeText(tuple(ids), 1)
    prompt = data.prompt(source, index)
    answer = Answer(answer_text(source, index))
    with during(f"{source.name}, row {index + 1}"):
        before = prompt_ids(tokenizer, prompt)
        whole = scored_ids(tokenizer, prompt, answer)
    start = next(
        (place for place, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b),
        min(len(before), len(whole)),
    )
    return ProbeText(tuple(whole), max(1, start))
