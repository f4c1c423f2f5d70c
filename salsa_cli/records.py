"""JSON as salsa writes and reads it: only finite numbers are written, errors name the place."""

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salsa_cli.errors import SalsaError, one_line, os_errors

JSON = None | bool | int | float | str | list["JSON"] | dict[str, "JSON"]


def to_json(value: object, indent: int | None = None) -> str:
    """JSON text of `value`; NaN and infinities, which JSON lacks, become null."""
    return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)


def write_json(path: Path, value: object) -> None:
    """Write `value` to `path`, atomically: a reader sees the old file or the new one."""
    write_text(path, to_json(value, indent=2) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file that salsa wrote."""
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a UTF-8 file.

    Raises:
        SalsaError: the file cannot be read, is not JSON, or is not an object.
    """
    return parse_object(read_bytes(path), str(path))


def parse_object(raw: bytes, where: str, *, strict: bool = False) -> dict[str, Any]:
    """The JSON object in `raw`.

    `strict` refuses what Python's parser accepts: repeated names, NaN, and unpaired surrogates,
    which JSON can escape but UTF-8 cannot encode.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_without_repetition if strict else None,
            parse_constant=_no_constant if strict else None,
        )
        if strict and b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise SalsaError(
            f"{where}: malformed JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except UnicodeDecodeError as error:
        raise SalsaError(f"{where}: not UTF-8 text (byte {error.start})") from error
    except (ValueError, RecursionError) as error:  # endless digits, endless nesting
        raise SalsaError(f"{where}: malformed JSON: {one_line(str(error))}") from error
    if not isinstance(value, dict):
        raise SalsaError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def read_bytes(path: Path) -> bytes:
    """The content of a file."""
    with os_errors(path, "read"):
        return path.read_bytes()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _finite(value: object) -> object:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        name = next(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
        raise ValueError(f"{one_line(name)} occurs twice")
    return members


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
