"""Reads files, folders and hub datasets into rows, and fixes the order of training data."""

import csv
import gzip
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from salsa_cli.errors import SalsaError

Row = Mapping[str, Any]
T = TypeVar("T")

STDIN = "-"
"""Names the JSON lines that are piped into the process."""

_CONVERSATIONS = ("chosen", "rejected", "completion", "messages")
"""Columns that hold whole conversations, or the answers to one."""

_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
_LARGEST_CELL = 2**31 - 1
"""Characters of a CSV cell; by default Python's parser refuses more than 131,072."""

_HUB_ID = re.compile(
    r"^(?P<path>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<split>\w+))?$"
)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


Prompt = str | tuple[Message, ...]
"""The input of a model: plain text, used as it is, or a conversation for its chat template."""


@dataclass(frozen=True)
class Source:
    """Rows with the name of their source, so that errors can name file, row and column."""

    name: str
    rows: Sequence[Row]

    def error(self, row: int, text: str) -> SalsaError:
        """An error about row `row` (0-based here, shown to the user 1-based)."""
        return SalsaError(f"{self.name}, row {row + 1}: {text}")


def read(name: str) -> Source:
    """Rows of a `.jsonl`, `.json`, `.parquet` or `.csv` file (also `.gz`), a folder, or a hub id.

    The name `-` stands for JSON lines from stdin.

    Raises:
        SalsaError: nothing has that name, the format is unknown, the content is malformed, or
            there are no rows.
    """
    path = Path(name)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if _kind(p) is not None)
        if not files:
            raise SalsaError(f"{name} contains no data file; expected {', '.join(_SUFFIXES)}")
        rows = [row for file in files for row in _read_file(file)]
    elif path.exists():
        rows = _read_file(path)
    elif name == STDIN:
        rows = list(_read_jsonl(path))
    elif (match := _HUB_ID.match(name)) and _kind(path) is None:
        rows = _read_hub(name, match["path"], match["config"], match["split"] or "train")
    else:
        raise SalsaError(f"{name}: no such file or folder")
    if not rows:
        raise SalsaError(f"{name} is empty; expected at least one row")
    return Source(name, rows)


@cache
def piped() -> bytes:
    """What is piped into stdin, read once.

    Raises:
        SalsaError: stdin is a terminal.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise SalsaError(f"{STDIN} reads JSON lines from stdin, but nothing is piped into it")
    return sys.stdin.buffer.read()


def may_exist(name: str) -> bool:
    """Whether `name` is a file or folder, or may be a hub id or stdin; looks no further."""
    path = Path(name)
    is_hub_id = _HUB_ID.match(name) is not None and _kind(path) is None
    return name == STDIN or path.exists() or is_hub_id


def read_hub_file(repository: str, file: str) -> Source:
    """Rows of one file of a dataset repository on the hub."""
    name = f"{repository}/{file}"
    try:
        rows = list(_datasets().load_dataset(repository, data_files=file, split="train"))
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise SalsaError(
            f"{name}: it could not be loaded from the hub ({reason}); pass a local file instead"
        ) from error
    return Source(name, rows)


def local_files(name: str) -> tuple[Path, ...]:
    """The files of a data source; none for a hub id."""
    path = Path(name)
    if path.is_dir():
        return tuple(sorted(p for p in path.iterdir() if _kind(p) is not None))
    return (path,) if path.exists() else ()


def prompts(source: Source) -> list[Prompt]:
    """The prompt of every row; see `prompt`."""
    return [prompt(source, index) for index in range(len(source.rows))]


def prompt_text(prompt: Prompt) -> str:
    """A prompt for a reader: the text, or the messages of a conversation with their roles."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{message.role}: {message.content}" for message in prompt)


def prompt_json(prompt: Prompt) -> str | list[dict[str, str]]:
    """A prompt as a JSON value: text, or a list of messages."""
    if isinstance(prompt, str):
        return prompt
    return [asdict(message) for message in prompt]


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The permutation of `range(count)` for one epoch: a pure function of (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def batch_indices(count: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Which of `count` items step `step` (0-based) uses; every epoch is reshuffled.

    A pure function of its arguments, so a resumed run needs no stored position.
    """
    first = step * batch_size
    positions = range(first, first + batch_size)
    orders = {p // count: epoch_order(count, seed, p // count) for p in (first, positions[-1])}
    for epoch in range(min(orders), max(orders)):
        orders.setdefault(epoch, epoch_order(count, seed, epoch))
    return [int(orders[p // count][p % count]) for p in positions]


def stable_seed(*parts: int | str) -> int:
    """A 63-bit seed from (seed, purpose, step, ...), the same on every machine and version."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def asked_text(opening: Prompt, followups: Sequence[str] = ()) -> str:
    """All user turns of a question as one text, by which answers to it are seeded."""
    return json.dumps([prompt_json(opening), *followups], ensure_ascii=False)


def earlier_copies(texts: Sequence[str]) -> list[int]:
    """For each text, how many equal ones come before it."""
    seen: Counter[str] = Counter()
    found = []
    for text in texts:
        found.append(seen[text])
        seen[text] += 1
    return found


def answer_seed(seed: int, asked: str, copy: int, turn: int) -> int:
    """The seed of the answer to a question; independent of its position in a file or batch.

    Args:
        seed: of the run.
        asked: `asked_text` of the question.
        copy: number of earlier questions with the same text.
        turn: counted from 0.
    """
    return stable_seed(seed, "answer", asked, copy, turn)


def column(source: Source, index: int, name: str) -> object:
    """The value of a column that must exist and must not be empty."""
    row = source.rows[index]
    if name not in row:
        found = ", ".join(row) or "none"
        raise source.error(index, f"no column '{name}'; its columns are {found}")
    value = row[name]
    if is_empty(value):
        raise source.error(index, f"column '{name}' is empty")
    return value


def is_empty(value: object) -> bool:
    """Whether a cell holds nothing: null, an empty text (as in CSV), or an empty list."""
    return value is None or value == "" or value == []


def prompt(source: Source, index: int) -> Prompt:
    """What a model answers in one row; all commands read rows by this rule.

    A `prompt` of messages is a conversation. So is a `prompt` of plain text if the answers of the
    row (`chosen`, `rejected`, `completion`) or its `messages` are lists of messages; their turns
    before the answer belong to the prompt. Without `prompt`, these turns are the prompt. Any other
    `prompt` is plain text.

    Raises:
        SalsaError: names the row and what is wrong with its column.
    """
    require_whole_text(source, index)
    context = _answered_context(source, index)
    if context is None:
        return prompt_column(source, index)
    return with_context(source, index, optional_prompt(source, index), context)


def prompt_column(source: Source, index: int) -> Prompt:
    """The `prompt` column of one row: text, or messages that do not end with the assistant.

    Raises:
        SalsaError: names the row and what is wrong with its column.
    """
    value = column(source, index, "prompt")
    if isinstance(value, str):
        return value
    messages = conversation(source, index, "prompt", value)
    if messages[-1].role == "assistant":
        raise source.error(
            index, "the 'prompt' ends with the assistant's turn; expected the user's"
        )
    return messages


def optional_prompt(source: Source, index: int) -> Prompt | None:
    """The same; None if the row has no prompt column or its cell is empty."""
    return None if is_empty(source.rows[index].get("prompt")) else prompt_column(source, index)


def with_context(
    source: Source, index: int, explicit: Prompt | None, context: tuple[Message, ...]
) -> tuple[Message, ...]:
    """The conversation that is answered, from the `prompt` column and the answers' first turns.

    Args:
        source: the rows.
        index: of the row.
        explicit: the `prompt` column; None if there is none.
        context: the turns before the answer in `chosen`, `rejected`, `completion` or `messages`.
            They may repeat the prompt, all of it or its end, or continue it.

    Raises:
        SalsaError: the two contradict each other, or both are empty.
    """
    if explicit is None and not context:
        raise source.error(index, "no 'prompt' column, and the conversations have no user turn")
    if explicit is None:
        return context
    if isinstance(explicit, str):
        said = {turn.content.strip() for turn in context if turn.role == "user"}
        if context and explicit.strip() not in said:
            raise _contradiction(source, index, explicit)
        return context or (Message("user", explicit),)
    for length in range(min(len(explicit), len(context)), 0, -1):
        if _same_turns(explicit[-length:], context[:length]):
            return (*explicit, *context[length:])
    if not context or context[0].role == "assistant":
        return (*explicit, *context)
    if _same_turns(explicit, context[-len(explicit) :]):
        return context
    raise _contradiction(source, index, explicit[-1].content)


def require_whole_text(source: Source, index: int) -> None:
    """Refuse half of a surrogate pair, which JSON can escape and no tokenizer can encode.

    Raises:
        SalsaError: names the row.
    """
    try:
        json.dumps(source.rows[index], ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise source.error(
            index,
            f"its text contains half of a surrogate pair ({half}), which is not a valid character; "
            "fix or remove it",
        ) from error


def _same_turns(first: Sequence[Message], other: Sequence[Message]) -> bool:
    """Whether two conversations are the same, up to white space around the turns."""
    return [(one.role, one.content.strip()) for one in first] == [
        (one.role, one.content.strip()) for one in other
    ]


def _contradiction(source: Source, index: int, text: str) -> SalsaError:
    return source.error(
        index,
        f"the 'prompt' ({text.strip()!r:.60}) is not a turn of the conversation with the answer; "
        "expected the same conversation in both, or no 'prompt' column",
    )


def _answered_context(source: Source, index: int) -> tuple[Message, ...] | None:
    """The turns before the answer of a row that holds conversations; None if it holds none."""
    for name in _CONVERSATIONS:
        value = source.rows[index].get(name)
        if isinstance(value, Sequence) and value and isinstance(value[0], Mapping):
            turns = conversation(source, index, name, value)
            return turns[:-1] if turns[-1].role == "assistant" else turns
    return None


def conversation(source: Source, index: int, column: str, value: object) -> tuple[Message, ...]:
    """The messages that a column of one row holds.

    Raises:
        SalsaError: names the row and what is wrong with its column.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise source.error(
            index, f"column '{column}' holds {value!r:.40}; expected text or a list of messages"
        )
    turns = []
    for turn in value:
        role = turn.get("role") if isinstance(turn, Mapping) else None
        content = turn.get("content") if isinstance(turn, Mapping) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise source.error(
                index, f"column '{column}' has a message without 'role' and 'content' texts"
            )
        turns.append(Message(role, content))
    return tuple(turns)


def file_format(name: str) -> str:
    """How a file of this name is read: its suffixes; `-` holds JSON lines."""
    if name == STDIN:
        return _SUFFIXES[0]
    return (_kind(Path(name)) or "") + (".gz" if name.endswith(".gz") else "")


def _kind(path: Path) -> str | None:
    name = path.name.removesuffix(".gz")
    return next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)


def _read_file(path: Path) -> list[Row]:
    readers: dict[str, Callable[[Path], Iterator[Row]]] = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    kind = _kind(path)
    if kind is None:
        raise SalsaError(f"{path} is not a supported data file; expected {', '.join(_SUFFIXES)}")
    try:
        return list(readers[kind](path))
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as error:
        raise SalsaError(f"{path} cannot be read: {error}") from error


def _text(path: Path) -> str:
    data = piped() if str(path) == STDIN else path.read_bytes()
    return (gzip.decompress(data) if path.name.endswith(".gz") else data).decode("utf-8-sig")


def _read_jsonl(path: Path) -> Iterator[Row]:
    # Only "\n" ends a line: U+2028 and similar characters may occur inside a JSON string.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            yield _object(path, f"line {number}", line)


def _object(path: Path, place: str, text: str) -> Row:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SalsaError(
            f"{path}, {place}, column {error.colno}: not JSON ({error.msg})"
        ) from error
    if not isinstance(value, dict):
        raise SalsaError(f"{path}, {place}: a JSON {type(value).__name__}; expected an object")
    return value


def _read_json(path: Path) -> Iterator[Row]:
    text = _text(path)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SalsaError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg})"
        ) from error
    rows = value.get("data", _rows_of_columns(value)) if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SalsaError(
            f"{path}: expected a JSON list of objects (for one object per line, use .jsonl)"
        )
    yield from rows


def _rows_of_columns(columns: Mapping[str, Any]) -> list[Row] | None:
    """The rows of a JSON object of columns, equally long lists; what is no list is in every row."""
    lengths = {len(column) for column in columns.values() if isinstance(column, list)}
    if len(lengths) != 1:
        return None
    return [
        {name: one[index] if isinstance(one, list) else one for name, one in columns.items()}
        for index in range(lengths.pop())
    ]


def _read_csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(_LARGEST_CELL)
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    names = Counter(reader.fieldnames)
    if twice := [name for name, count in names.items() if count > 1]:
        raise SalsaError(f"{path}: the column {twice[0]!r} occurs twice in the first line")
    try:
        for row in reader:
            # DictReader keeps cells without a column under the key None.
            if None in row:
                count = len(names) + len(row[None])
                raise SalsaError(
                    f"{path}, line {reader.line_num}: {count} cells for {len(names)} columns; text "
                    "that contains commas must be quoted"
                )
            yield row
    except csv.Error as error:
        raise SalsaError(f"{path} cannot be read after line {reader.line_num}: {error}") from error


def _read_parquet(path: Path) -> Iterator[Row]:
    try:
        yield from _datasets().Dataset.from_parquet(str(path))
    except Exception as error:
        raise SalsaError(f"{path} cannot be read as Parquet: {error}") from error


def _datasets() -> Any:
    """The `datasets` library, imported on demand, without its own progress bars."""
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _read_hub(name: str, path: str, config: str | None, split: str) -> list[Row]:
    try:
        return list(_datasets().load_dataset(path, config, split=split))
    except Exception as error:
        reason = str(error).split("\n")[0]
        raise SalsaError(
            f"{name}: no such file or folder, and it could not be loaded from the hub as "
            f"org/name[:config][@split] ({reason})"
        ) from error
