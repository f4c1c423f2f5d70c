"""Reads preference pairs from rows in every common layout."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, isnan

from salsa_cli.data import (
    Message,
    Prompt,
    Source,
    column,
    conversation,
    is_empty,
    optional_prompt,
    prompt,
    prompt_column,
    require_whole_text,
    with_context,
)
from salsa_cli.models.tokenization import Answer

SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))
"""Columns of the row, or of its `metadata`, that hold the scores given by raters."""

CATEGORIES = ("subset", "category")
"""Columns that hold the category of a pair."""

MARGIN = "margin"
"""The usual name of the margin column."""

LARGEST_MARGIN = 100.0
"""A score difference of 10 is a probability of 99.995%; more than this is not a margin."""

_TURN = "\n\nAssistant:"

_Side = str | tuple[Message, ...]


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, of which the first is preferred.

    `margin` is the score difference that the chosen answer should have; `scores` are those given by
    raters, where the data has them. `row` is 1-based. `repeats_prompt` says that both answers
    began with the prompt, which was removed from them.
    """

    prompt: Prompt
    chosen: Answer
    rejected: Answer
    margin: float = 0.0
    category: str | None = None
    scores: tuple[float, float] | None = None
    row: int = 1
    repeats_prompt: bool = False

    @property
    def empty(self) -> str | None:
        """The first column with an answer without text; None if both have text."""
        return _first_empty((self.chosen.text,), (self.rejected.text,))

    @property
    def missing_answer(self) -> str | None:
        """The same, if the empty answer is missing data.

        An empty answer that raters scored, and not as the better one, is a real answer: a model
        said nothing, and the reward model should learn to rank that low.
        """
        if self.scores is not None and (
            self.scores[0] == self.scores[1] or self.empty == "rejected"
        ):
            return None
        return self.empty


def preferences(source: Source, margin: str | None = None) -> list[Preference]:
    """Preference pairs in any of TRL's layouts, or transcripts as in HH-RLHF.

    `prompt` + `chosen` + `rejected`, or only the last two with the prompt as their common
    beginning; each a string or a list of messages. Where `chosen` and `rejected` are
    conversations, they may repeat the prompt (as ultrafeedback_binarized does) or start after it.
    Answers may be empty; `Preference.missing_answer` judges that.

    Args:
        source: the rows.
        margin: the column that holds the margin; None for no margin.

    Raises:
        SalsaError: names the row and what is wrong with its column.
    """
    return [_preference(source, index, margin) for index in range(len(source.rows))]


@dataclass(frozen=True)
class AnswerSet:
    """A prompt with its right and its wrong answers, as in RewardBench 2."""

    prompt: Prompt
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    category: str
    name: str
    row: int = 1

    @property
    def missing_answer(self) -> str | None:
        """The first column that holds an answer without text, if any."""
        return _first_empty(self.right, self.wrong)


def has_answer_sets(source: Source) -> bool:
    """Whether rows hold lists of answers, as in RewardBench 2, instead of one pair."""
    answers = source.rows[0].get("rejected")
    return isinstance(answers, list) and bool(answers) and isinstance(answers[0], str)


def answer_sets(source: Source) -> list[AnswerSet]:
    """Rows of `prompt`, `chosen` and `rejected`, the last two lists of answers, with `subset`.

    Raises:
        SalsaError: names the row and what is wrong with its column.
    """
    return [
        AnswerSet(
            prompt(source, index),
            _answers(source, index, "chosen"),
            _answers(source, index, "rejected"),
            _category(source, index) or "all",
            str(source.rows[index].get("id", index + 1)),
            index + 1,
        )
        for index in range(len(source.rows))
    ]


def _answers(source: Source, index: int, name: str) -> tuple[str, ...]:
    value = column(source, index, name)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise source.error(
            index, f"column '{name}' holds {value!r:.40}; expected a list of strings"
        )
    return tuple(value)


def _preference(source: Source, index: int, margin: str | None) -> Preference:
    _require_pair(source, index)
    require_whole_text(source, index)
    chosen, rejected = _sides(source, index)
    explicit = _explicit_prompt(source, index, chosen)
    if isinstance(chosen, str) and isinstance(rejected, str):
        start, *texts = _from_texts(source, index, explicit, chosen, rejected)
        repeats = isinstance(explicit, str) and texts != [chosen, rejected]
    elif not isinstance(chosen, str) and not isinstance(rejected, str):
        start, *texts = _from_messages(source, index, explicit, chosen, rejected)
        repeats = False
    else:
        raise source.error(
            index, "one of 'chosen' and 'rejected' is a string, the other a list of messages"
        )
    return Preference(
        start,
        Answer(texts[0], _finished(source, index, "chosen")),
        Answer(texts[1], _finished(source, index, "rejected")),
        0.0 if margin is None else _margin(source, index, margin),
        _category(source, index),
        _scores(source, index),
        index + 1,
        repeats,
    )


def _explicit_prompt(source: Source, index: int, chosen: _Side) -> Prompt | None:
    """The prompt column, if there is one; it may be empty where the answers are conversations."""
    if not isinstance(chosen, str):
        return optional_prompt(source, index)
    return prompt_column(source, index) if "prompt" in source.rows[index] else None


def _require_pair(source: Source, index: int) -> None:
    row = source.rows[index]
    if "label" in row and ("chosen" not in row or "rejected" not in row):
        raise source.error(
            index,
            f"a 'label' column but no pair (columns: {', '.join(row)}); expected 'chosen' and "
            "'rejected', the better and the worse answer to the same prompt",
        )


def _sides(source: Source, index: int) -> tuple[_Side, _Side]:
    """Chosen and rejected; an empty one becomes a text, or the end of the other's conversation."""
    chosen, rejected = _side(source, index, "chosen"), _side(source, index, "rejected")
    if not rejected and not isinstance(chosen, str):
        return chosen, (*chosen[:-1], Message("assistant", ""))
    if not chosen and not isinstance(rejected, str):
        return (*rejected[:-1], Message("assistant", "")), rejected
    return chosen, rejected


def _side(source: Source, index: int, name: str) -> _Side:
    if source.rows[index].get(name, 0) in ("", None):
        return ""
    value = column(source, index, name)
    return value if isinstance(value, str) else conversation(source, index, name, value)


def _first_empty(better: Sequence[str], worse: Sequence[str]) -> str | None:
    """The first of the columns 'chosen' and 'rejected' with an answer without text."""
    sides = (("chosen", better), ("rejected", worse))
    return next((name for name, texts in sides if not all(map(str.strip, texts))), None)


def _from_texts(
    source: Source, index: int, explicit: Prompt | None, chosen: str, rejected: str
) -> tuple[Prompt, str, str]:
    if isinstance(explicit, str) and all(_repeats(explicit, text) for text in (chosen, rejected)):
        return explicit, chosen[len(explicit) :], rejected[len(explicit) :]
    if explicit is not None:
        return explicit, chosen, rejected
    if chosen == rejected or not chosen or not rejected:
        return "", chosen, rejected  # the start of the answer is unknown, and does not matter
    shared = _common_beginning(chosen, rejected)
    if not shared:
        raise source.error(
            index, "no 'prompt' column, and 'chosen' and 'rejected' do not start with the same text"
        )
    return shared, chosen[len(shared) :], rejected[len(shared) :]


def _repeats(prompt: str, answer: str) -> bool:
    """Whether an answer is the whole text, prompt included."""
    return answer.startswith(prompt) and _word_ends(answer, len(prompt))


def _from_messages(
    source: Source,
    index: int,
    explicit: Prompt | None,
    chosen: tuple[Message, ...],
    rejected: tuple[Message, ...],
) -> tuple[Prompt, str, str]:
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if turns[-1].role != "assistant":
            raise source.error(index, f"column '{name}' does not end with the assistant's turn")
    context = chosen[:-1]
    if context != rejected[:-1]:
        raise source.error(index, "'chosen' and 'rejected' differ before their last message")
    start = with_context(source, index, explicit, context)
    return start, chosen[-1].content, rejected[-1].content


def _common_beginning(first: str, second: str) -> str:
    """The prompt that two texts share.

    For two transcripts ("\\n\\nHuman: ... \\n\\nAssistant: ..."), everything up to the turn of the
    assistant in which they differ; for other texts the longest common prefix that ends at a word
    boundary in both.
    """
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    if first.startswith("\n\nHuman:") and (turn := first.rfind(_TURN, 0, length)) >= 0:
        return first[: turn + len(_TURN)]
    while not (_word_ends(first, length) and _word_ends(second, length)):
        length -= 1
    # The space belongs to the answer, as it does after a prompt that ends with a word.
    return first[:length].rstrip(" ")


def _word_ends(text: str, length: int) -> bool:
    """Whether this position is a word boundary."""
    return length in (0, len(text)) or text[length - 1].isspace() or text[length].isspace()


def _finished(source: Source, index: int, name: str) -> bool:
    """Whether an answer is complete; without the column, it is."""
    value = source.rows[index].get(f"{name}_finished")
    if _is_blank(value):
        return True
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):  # as CSV has it
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise source.error(
            index, f"column '{name}_finished' holds {value!r:.40}; expected true or false"
        )
    return value


def _category(source: Source, index: int) -> str | None:
    values = (source.rows[index].get(name) for name in CATEGORIES)
    return next((str(value) for value in values if not _is_blank(value)), None)


def _is_blank(value: object) -> bool:
    """Whether an optional cell says nothing; blanks in CSV count as empty."""
    if isinstance(value, float) and isnan(value):  # a missing number in a Parquet file
        return True
    return is_empty(value.strip() if isinstance(value, str) else value)


def _scores(source: Source, index: int) -> tuple[float, float] | None:
    row = source.rows[index]
    metadata = row.get("metadata")
    for values in (row, metadata if isinstance(metadata, Mapping) else {}):
        for better, worse in SCORES:
            if not _is_blank(values.get(better)) and not _is_blank(values.get(worse)):
                return (
                    _number(source, index, better, values[better]),
                    _number(source, index, worse, values[worse]),
                )
    return None


def _margin(source: Source, index: int, name: str) -> float:
    number = _number(source, index, name, column(source, index, name))
    if abs(number) > LARGEST_MARGIN:
        raise source.error(
            index,
            f"column '{name}' holds {number:g}; expected the score difference that the chosen "
            f"answer should have, at most {LARGEST_MARGIN:g} (a difference of 10 is a probability "
            "of 99.995%)",
        )
    return number


def _number(source: Source, index: int, name: str, value: object) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, bool) or not isfinite(number):
        raise source.error(index, f"column '{name}' holds {value!r:.40}; expected a number")
    return number
