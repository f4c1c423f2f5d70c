"""A setting's value from text (a flag, the environment) or from a configuration file."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from salsa_cli.config.base import Field
from salsa_cli.errors import UsageError, one_line

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}

_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")

_HOME = re.compile(r"(^|[=:,(])~(?=/|$)")


def convert(field: Field, raw: object, where: str, *, split: bool = True) -> Any:
    """The value of a field from text, or from a value of a JSON, YAML or TOML file.

    A list may be a list, or one text with its items separated by commas. Every item of a list that
    comes from repeated flags may be such a text, too.

    Args:
        where: what the value belongs to, for the error: `--alpha`, `SALSA_SOUP_ALPHA`.
        split: whether the texts of a list may hold several items. Those of a list in a file do not.

    Raises:
        UsageError: it is not of the field's type.
    """
    if raw is None or (raw == "" and field.optional and not field.is_list):
        if not field.optional:
            raise UsageError(f"{where}: a value is missing; expected {field.expected}")
        return None
    if field.is_list:
        return _items(field, raw, where, split=split)
    if isinstance(raw, list | tuple | dict):
        raise UsageError(f"{where} is {_shown(raw)}; expected {field.expected}, not a list")
    return _one(field, raw, where)


def split_list(text: str) -> list[str]:
    """The items of `a,b,c`; commas in brackets, and in the name of an existing file, do not split.

    So `soup(a/,b/,alpha=0.5)` is one item.
    """
    if "," not in text or _exists(text):
        return [text]
    items, depth, begin = [], 0, 0
    for position, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth <= 0:
            items.append(text[begin:position])
            begin = position + 1
    return [item.strip() for item in (*items, text[begin:])]


def parse_size(value: object) -> int:
    """Bytes from `256MB`, `1.5GiB` or a plain number.

    Raises:
        UsageError: it is not a size.
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", str(value))
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or match[1].count(".") > 1 or match[1] == ".":
        raise UsageError(f"{value!r} is not a size; expected one like 256MB, 5GB or 64MiB")
    return int(float(match[1]) * unit)


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except OSError:  # too long for a name
        return False


def _items(field: Field, raw: object, where: str, *, split: bool) -> tuple[Any, ...]:
    given: Sequence[Any] = raw if isinstance(raw, list | tuple) else [raw]
    whole = field.setting.positional or field.length is not None
    separate = not isinstance(raw, list | tuple) or (split and not whole)
    items = [
        item
        for one in given
        for item in (split_list(one) if isinstance(one, str) and separate else [one])
    ]
    if field.length is not None and len(items) != field.length:
        raise UsageError(f"{where} has {len(items)} values; expected {field.length}")
    return tuple(_one(field, item, where) for item in items)


def _one(field: Field, raw: object, where: str) -> Any:
    """One value, which is the field's or an item of it."""
    if raw in field.words:
        return raw
    if field.choices:
        if raw not in field.choices:
            raise UsageError(f"{where} is {_shown(raw)}; expected {field.expected}")
        return raw
    if field.setting.size:
        try:
            return parse_size(raw)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
    read = _READERS[field.item]
    try:
        return read(raw)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where} is {_shown(raw)}; expected {field.expected}") from error


def _bool(raw: object) -> bool:
    text = str(raw).lower()
    if text not in (*_YES, *_NO):
        raise ValueError
    return text in _YES


def _int(raw: object) -> int:
    if isinstance(raw, bool) or (isinstance(raw, float) and not raw.is_integer()):
        raise ValueError
    return int(raw)  # type: ignore[call-overload, no-any-return]


def _float(raw: object) -> float:
    if isinstance(raw, bool):
        raise ValueError
    return float(raw)  # type: ignore[arg-type]


def _text(raw: object) -> str:
    if isinstance(raw, bool | list | tuple | dict):
        raise ValueError
    return _HOME.sub(lambda match: match[1] + str(Path.home()), str(raw))


def _path(raw: object) -> Path:
    return Path(_text(raw))


_READERS: dict[type, Callable[[object], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    str: _text,
    Path: _path,
}


def _shown(raw: object) -> str:
    return one_line(raw) if isinstance(raw, str) and raw else repr(raw)
