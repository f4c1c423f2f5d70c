"""Questions: prompts from any data source, and known benchmarks in their own formats.

The format of each row is detected from its columns: FastChat (`turns` of texts), Arena-Hard
v0.1 (`turns` of objects) and v2.0 (`uid` and `prompt`), mt_bench_prompts (`prompt` as a list of
texts), ultrafeedback_binarized (`prompt` and `chosen` messages), and the plain `prompt` column.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

from salsa_cli import data
from salsa_cli.data import Message, Prompt, Source
from salsa_cli.evaluation.verdicts.verdict import is_whole

HUB: Mapping[str, Callable[[], Source]] = MappingProxyType(
    {
        "mt-bench": lambda: data.read("HuggingFaceH4/mt_bench_prompts@train"),
        "arena-hard": lambda: _arena_hard("v0.1"),
        "arena-hard-v0.1": lambda: _arena_hard("v0.1"),
        "arena-hard-v2.0": lambda: _arena_hard("v2.0"),
        "ultrafeedback": lambda: data.read("HuggingFaceH4/ultrafeedback_binarized@test_prefs"),
    }
)
"""Benchmarks by name, and where to read them on the hub."""

MT_BENCH_TEMPERATURES: Mapping[str, float] = MappingProxyType(
    {
        "writing": 0.7,
        "roleplay": 0.7,
        "extraction": 0.0,
        "math": 0.0,
        "coding": 0.0,
        "reasoning": 0.0,
        "stem": 0.1,
        "humanities": 0.1,
    }
)
"""FastChat's sampling temperature for each category; 0.7 for any other (FastChat, llm_judge)."""

REFERENCED = frozenset({"math", "reasoning", "coding"})
"""The MT-Bench categories whose judge is shown a reference answer (FastChat, llm_judge)."""

_IDS = ("question_id", "uid", "prompt_id", "id")
_PLAIN_LENGTH, _FASTCHAT_LENGTH, _ARENA_LENGTH = 128, 1024, 4096


@dataclass(frozen=True)
class Question:
    """A question of one or more turns.

    Attributes:
        copy: number of earlier questions with the same text.
        references: one reference answer per turn, or none.
        temperature: the benchmark's sampling temperature, or None.
        length: maximum answer length per turn, in tokens.
    """

    id: str
    opening: Prompt
    followups: tuple[str, ...] = ()
    category: str | None = None
    references: tuple[str, ...] = ()
    temperature: float | None = None
    length: int = _PLAIN_LENGTH
    copy: int = 0

    @property
    def turns(self) -> int:
        """Number of answers it takes."""
        return 1 + len(self.followups)

    @property
    def judged_references(self) -> tuple[str, ...]:
        """References shown to the judge; MT-Bench shows those of three categories only."""
        hidden = self.category in MT_BENCH_TEMPERATURES and self.category not in REFERENCED
        return () if hidden else self.references

    def conversation(self, answers: Sequence[str]) -> Prompt:
        """The prompt of the turn that follows `answers`, with all earlier turns."""
        if not answers:
            return self.opening
        assert not isinstance(self.opening, str)  # only conversations have a second turn
        turns = list(self.opening)
        for answer, followup in zip(answers, self.followups, strict=False):
            turns += [Message("assistant", answer), Message("user", followup)]
        return tuple(turns)

    def seed(self, seed: int, turn: int) -> int:
        """The seed of its answer; depends on its text, not on its position in a file or batch."""
        return data.answer_seed(seed, self.words, self.copy, turn)

    @property
    def words(self) -> str:
        """All user turns as one text."""
        return data.asked_text(self.opening, self.followups)


def load(name: str, count: int | None = None) -> list[Question]:
    """The first `count` questions of a data source, or of a benchmark that `HUB` names."""
    source = HUB[name]() if name in HUB and not Path(name).exists() else data.read(name)
    found = [_question(source, index) for index in range(len(source.rows))][:count]
    for index, question in enumerate(found):
        if not is_whole("".join((question.id, question.category or "", question.words))):
            raise source.error(
                index,
                "its text contains half of a surrogate pair, which is not a valid character",
            )
    return _told_apart(found)


def _arena_hard(version: str) -> Source:
    return data.read_hub_file(
        "lmarena-ai/arena-hard-auto", f"data/arena-hard-{version}/question.jsonl"
    )


def _question(source: Source, index: int) -> Question:
    row = source.rows[index]
    known = next((row[key] for key in _IDS if row.get(key) not in (None, "")), index + 1)
    if isinstance(known, bool) or not isinstance(known, str | int | float):
        raise source.error(index, f"its id is {known!r:.40}; expected a string or a number")
    common: dict[str, Any] = {
        "id": str(known),
        "category": str(row["category"]) if row.get("category") else None,
        "references": _references(source, index),
    }
    prompt = row.get("prompt")
    if "turns" in row or _texts(prompt):
        return _benchmark_question(source, index, row.get("turns", prompt), common)
    if isinstance(prompt, str) and prompt and "uid" in row:
        return Question(opening=_user(prompt), temperature=0.0, length=_ARENA_LENGTH, **common)
    return Question(opening=data.prompt(source, index), **common)


def _benchmark_question(
    source: Source, index: int, turns: object, common: Mapping[str, Any]
) -> Question:
    """A row of FastChat (texts) or of Arena-Hard v0.1 (objects with `content`)."""
    given = list(turns) if isinstance(turns, Sequence) and not isinstance(turns, str) else []
    of_arena = bool(given) and all(isinstance(turn, Mapping) for turn in given)
    said = [turn.get("content") for turn in given] if of_arena else given
    if not _texts(said):
        raise source.error(
            index, "column 'turns' is not a list of strings; expected the user's turns"
        )
    temperature = 0.0 if of_arena else MT_BENCH_TEMPERATURES.get(common["category"], 0.7)
    return Question(
        opening=_user(said[0]),
        followups=tuple(said[1:]),
        temperature=temperature,
        length=_ARENA_LENGTH if of_arena else _FASTCHAT_LENGTH,
        **common,
    )


def _references(source: Source, index: int) -> tuple[str, ...]:
    value = source.rows[index].get("reference")
    if not value:
        return ()
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, Sequence) or not all(isinstance(g, str | None) for g in given):
        raise source.error(index, "column 'reference' is neither a string nor a list of strings")
    return tuple(one or "" for one in given) if any(given) else ()


def _user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def _texts(value: object) -> TypeGuard[Sequence[str]]:
    """Whether a value is a non-empty list of non-empty texts."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return False
    return bool(value) and all(isinstance(item, str) and item for item in value)


def _told_apart(questions: Sequence[Question]) -> list[Question]:
    """Number questions with the same text, and make every id unique."""
    copies = data.earlier_copies([question.words for question in questions])
    ids: Counter[str] = Counter()
    found = []
    for question, copy in zip(questions, copies, strict=True):
        ids[question.id] += 1
        name = question.id if ids[question.id] == 1 else f"{question.id}#{ids[question.id]}"
        found.append(replace(question, id=name, copy=copy))
    return found
