"""Answer files in the formats of salsa, FastChat and Arena-Hard.

A row of salsa is `{"question_id", "prompt", "turns": [{"content", "finished", "tokens",
"token_ids"}]}`; of these a row written by hand needs the prompt or the id, and `"answer": "..."`
in place of the turns will do.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from salsa_cli import data
from salsa_cli.data import Source
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.evaluation.verdicts.verdict import is_whole
from salsa_cli.formatting import counted
from salsa_cli.records import parse_object, read_bytes, to_json, write_text

_NAMED = 5


@dataclass(frozen=True)
class Reply:
    """A model's answer in one turn.

    Attributes:
        tokens: its length; None where the file does not give it.
        token_ids: in the tokenizer of its model; empty for answers from other files.
    """

    text: str
    finished: bool = True
    tokens: int | None = None
    token_ids: tuple[int, ...] = ()


Replies = Mapping[str, tuple[Reply, ...]]
"""A model's answers by question id, one a turn."""


def row(question: Question, replies: Sequence[Reply]) -> dict[str, object]:
    """The row that stores the answers to one question."""
    return {
        "question_id": question.id,
        "prompt": data.prompt_json(question.opening),
        "turns": [
            {
                "content": reply.text,
                "finished": reply.finished,
                "tokens": reply.tokens,
                "token_ids": list(reply.token_ids),
            }
            for reply in replies
        ],
    }


def append(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Append rows to a JSON Lines file and sync it to disk."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write("".join(to_json(one) + "\n" for one in rows))
        file.flush()
        os.fsync(file.fileno())


def cut_off(path: Path) -> None:
    """Remove a partial last row, left by a killed process."""
    if not path.exists():
        return
    content = read_bytes(path)
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with path.open("r+b") as file:
            file.truncate(end)


def finished_rows(path: Path) -> list[dict[str, Any]]:
    """The complete rows of a file; the file is not changed."""
    if not path.exists():
        return []
    *whole, _ = read_bytes(path).split(b"\n")
    return [parse_object(line, f"{path}, line {n}") for n, line in enumerate(whole, start=1)]


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """The complete rows of a file, after removing a partial last row."""
    cut_off(path)
    return finished_rows(path)


def stored(path: Path) -> dict[str, tuple[Reply, ...]]:
    """The stored answers of a model, by question id."""
    return {
        one["question_id"]: tuple(
            Reply(turn["content"], turn["finished"], turn["tokens"], tuple(turn["token_ids"]))
            for turn in one["turns"]
        )
        for one in whole_rows(path)
    }


def write(path: Path, questions: Sequence[Question], replies: Replies) -> None:
    """Write the answers in the order of the questions."""
    write_text(path, "".join(to_json(row(q, replies[q.id])) + "\n" for q in questions))


def read(name: str, questions: Sequence[Question], option: str) -> dict[str, tuple[Reply, ...]]:
    """The answers of a file to these questions; answers to other questions are ignored.

    Rows are matched to questions by id, or by prompt where the id matches none.

    Raises:
        SalsaError: the file lacks answers to some questions, has two to one, or its rows are of no
            known format. `option` is what the message calls it: the option that named it.
    """
    source = data.read(name)
    ids = {question.id for question in questions}
    by_prompt = {to_json(data.prompt_json(q.opening)): q.id for q in reversed(questions)}
    by_prompt |= {text: by_prompt[to_json(message)] for text, message in _texts(questions)}
    found: dict[str, tuple[Reply, ...]] = {}
    for index in range(len(source.rows)):
        key = _key(source, index, ids, by_prompt)
        if key is None:
            continue
        if key in found:
            raise source.error(index, f"a second answer to {key}; expected one per question")
        found[key] = _replies(source, index)
    _check_complete(option, questions, found)
    return found


def with_references(questions: Sequence[Question], name: str) -> list[Question]:
    """The questions with the reference answers of a file, where it has some."""
    source = data.read(name)
    ids = {question.id for question in questions}
    found = {
        key: tuple(reply.text for reply in _replies(source, index))
        for index in range(len(source.rows))
        if (key := _key(source, index, ids, {})) is not None
    }
    if not found:
        raise SalsaError(
            f"--references {name} has no answer to any of these questions; "
            f"expected rows with their 'question_id', such as {questions[0].id}"
        )
    return [
        replace(question, references=found.get(question.id, question.references))
        for question in questions
    ]


def _key(source: Source, index: int, ids: set[str], by_prompt: Mapping[str, str]) -> str | None:
    one = source.rows[index]
    for column in ("question_id", "uid", "id"):
        if one.get(column) is not None and str(one[column]) in ids:
            return str(one[column])
    prompt = one.get("prompt")
    if prompt is None or any(one.get(column) is not None for column in ("question_id", "uid")):
        return None  # an answer to another question
    return by_prompt.get(to_json(prompt))


def _texts(questions: Sequence[Question]) -> list[tuple[str, object]]:
    """Conversations of one message can also be matched by the text of that message."""
    return [
        (to_json(question.opening[0].content), data.prompt_json(question.opening))
        for question in questions
        if not isinstance(question.opening, str) and len(question.opening) == 1
    ]


def _replies(source: Source, index: int) -> tuple[Reply, ...]:
    one = source.rows[index]
    turns = _turns(one)
    replies = [_reply(turn) for turn in turns] if isinstance(turns, Sequence) else []
    known = [reply for reply in replies if reply is not None]
    if not known or len(known) < len(replies):
        raise source.error(
            index,
            f"no answer found; its columns are {', '.join(one)}; expected 'answer', 'turns', "
            "FastChat's 'choices' or Arena-Hard's 'messages'",
        )
    for reply in known:
        if not is_whole(reply.text):
            raise source.error(
                index,
                "its answer contains half of a surrogate pair, which is not a valid character",
            )
        if reply.tokens is not None and (type(reply.tokens) is not int or reply.tokens < 0):
            raise source.error(
                index, f"'tokens' is {reply.tokens!r:.20}; expected a whole number, 0 or more"
            )
    return tuple(known)


def _turns(one: Mapping[str, Any]) -> object:
    if isinstance(choices := one.get("choices"), Sequence) and choices:
        # FastChat and Arena-Hard v0.1; the first sample counts
        return choices[0].get("turns") if isinstance(choices[0], Mapping) else None
    if isinstance(messages := one.get("messages"), Sequence):
        said = [m for m in messages if isinstance(m, Mapping) and m.get("role") == "assistant"]
        return [message.get("content") for message in said]
    if "turns" in one:
        return one["turns"]
    answer = one.get("answer")
    return [answer] if isinstance(answer, str) else answer


def _reply(turn: object) -> Reply | None:
    """A text, or an object with `content` or (Arena-Hard v2.0) `answer`."""
    if isinstance(turn, str):
        return Reply(turn)
    if not isinstance(turn, Mapping):
        return None
    text = turn.get("content", turn.get("answer"))
    if not isinstance(text, str):
        return None
    return Reply(text, bool(turn.get("finished", True)), turn.get("tokens", turn.get("token_len")))


def _check_complete(where: str, questions: Sequence[Question], found: Replies) -> None:
    missing = [question.id for question in questions if question.id not in found]
    if missing:
        raise SalsaError(
            f"{where} has no answers to {len(missing)} of {counted(len(questions), 'prompt')}: "
            f"{_listed(missing)}; add them, or remove these prompts"
        )
    short = [q.id for q in questions if len(found[q.id]) < q.turns]
    if short:
        raise SalsaError(
            f"{where} has too few turns for {_listed(short)}; expected an answer to each turn"
        )


def _listed(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")
