"""Access to the columns of a stored row, with errors that name file and row."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salsa_cli.data import Source
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.verdicts.verdict import is_number, is_whole


@dataclass(frozen=True)
class StoredRow:
    """One row of a file of stored verdicts."""

    source: Source
    index: int

    def get(self, name: str) -> Any:
        """The value of a column; None where there is none."""
        return self.source.rows[self.index].get(name)

    def has(self, name: str) -> bool:
        """Whether the row has the column."""
        return name in self.source.rows[self.index]

    def columns_ending_with(self, ending: str) -> list[str]:
        """The columns whose names end so."""
        return [name for name in self.source.rows[self.index] if name.endswith(ending)]

    def error(self, text: str) -> SalsaError:
        """An error about this row."""
        return self.source.error(self.index, text)

    def identifier(self, name: str) -> str:
        """A question's id as text; numbers are converted."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
            raise self.error(
                f"column '{name}' is {value!r:.40}; expected an id, a string or a number"
            )
        return self._whole(name, str(value))

    def text(self, name: str) -> str:
        """A text that is not empty."""
        value = self.get(name)
        if not isinstance(value, str) or not value:
            raise self.error(f"column '{name}' is {value!r:.40}; expected a string")
        return self._whole(name, value)

    def optional_text(self, name: str) -> str | None:
        """A text, or None where there is none."""
        value = self.get(name)
        return value if isinstance(value, str) and value else None

    def numeric(self, name: str) -> Any:
        """The value of a column; in CSV, where all is text, a number if it reads as one."""
        value = self.get(name)
        if isinstance(value, str) and _is_csv(self.source):
            with suppress(ValueError):
                return int(value)
            with suppress(ValueError):
                return float(value)
        return value

    def number(self, name: str) -> float:
        """A finite number."""
        value = self.numeric(name)
        if not is_number(value):
            raise self.error(f"column '{name}' is {value!r:.40}; expected a number")
        return float(value)

    def choice(self, name: str, choices: Collection[Any]) -> Any:
        """One of `choices`, which hold no booleans."""
        value = self.get(name)
        if isinstance(value, dict | list | bool) or value not in choices:
            words = dict.fromkeys("nothing" if one is None else str(one) for one in choices)
            raise self.error(
                f"column '{name}' is {value!r:.40}; expected one of {', '.join(words)}"
            )
        return value

    def judge(self) -> str:
        """The judge; FastChat writes [name, prompt], or `judge_model` in newer files."""
        column = "judge" if self.has("judge") else "judge_model"
        value = self.get(column)
        name = value[0] if isinstance(value, list | tuple) and value else value
        if not isinstance(name, str) or not name:
            raise self.error(f"column '{column}' is {value!r:.40}; expected the name of a judge")
        return self._whole(column, name)

    def turn(self, column: str = "turn") -> int:
        """The turn of the conversation, from 1; 1 if the row has none."""
        value = self.numeric(column) if self.has(column) else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(f"column '{column}' is {value!r:.40}; expected 1 or more")
        return value

    def _whole(self, name: str, text: str) -> str:
        """A text without lone surrogates, which JSON can escape but UTF-8 cannot encode."""
        if not is_whole(text):
            raise self.error(
                f"column '{name}' is {text!a:.40}; it contains half of a surrogate pair"
            )
        return text


def _is_csv(source: Source) -> bool:
    return source.name.removesuffix(".gz").endswith(".csv")


def stem(source: Source) -> str:
    """The name of a file without its suffixes: GPT-4__CoT for GPT-4__CoT.jsonl.gz."""
    name = Path(source.name).name.removesuffix(".gz")
    return name.rsplit(".", 1)[0] if "." in name else name
