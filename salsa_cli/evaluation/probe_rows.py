"""Which rows a probe can measure: whole texts, or prompts with answers. Does without torch."""

from collections.abc import Sequence

from salsa_cli import data
from salsa_cli.data import STDIN, Row, Source

ANSWERS = ("completion", "chosen", "answer", "response", "output")


def check(name: str) -> None:
    """Refuse data that cannot be measured, before anything slow is imported.

    Data on the hub is looked at when it is fetched.

    Raises:
        SalsaError: it names the file, the row and what is expected.
    """
    if name != STDIN and data.local_files(name):
        source = data.read(name)
        for index, row in enumerate(source.rows):
            if not has_text(row):
                answer_text(source, index)


def has_text(row: Row) -> bool:
    """Whether a row is a whole text."""
    return isinstance(row.get("text"), str) and "prompt" not in row


def answer_text(source: Source, index: int) -> str:
    """The answer in a row of a prompt and an answer.

    Raises:
        SalsaError: there is none.
    """
    row = source.rows[index]
    for name in (*ANSWERS, "messages"):
        value = row.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, Sequence) and value and not isinstance(value, str):
            last = data.conversation(source, index, name, value)[-1]
            if last.role == "assistant":
                return last.content
    columns = ", ".join(repr(name) for name in row)
    raise source.error(
        index,
        "no text and no answer; expected a column 'text', or 'prompt' with one of "
        f"{', '.join(ANSWERS)}; its columns are {columns or 'none'}",
    )
