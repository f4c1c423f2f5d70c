"""One difference between two models, and what it means for combining them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ABSENT = object()
"""The value of a key that is not there."""


@dataclass(frozen=True)
class ClassDefault:
    """The value that a class fills in for a key that is not there."""

    value: object


_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Difference:
    """One difference. `key` is what `--allow-different` calls it.

    A `fatal` one changes the function that a model computes, so that the models must not be
    combined; any other may change it, and deserves a warning.
    """

    key: str
    text: str
    fatal: bool


@dataclass(frozen=True)
class Mismatches:
    """How models differ: `fatal` rules out combining them, `minor` only deserves a warning."""

    fatal: tuple[str, ...]
    minor: tuple[str, ...]


def sort_out(differences: Iterable[Difference], allowed: Sequence[str] = ()) -> Mismatches:
    """Fatal and minor differences; those that the user allows are minor ones."""
    found = list(differences)
    fatal = [one.text for one in found if one.fatal and not is_allowed(one.key, allowed)]
    minor = [one.text for one in found if not one.fatal or is_allowed(one.key, allowed)]
    return Mismatches(tuple(dict.fromkeys(fatal)), tuple(dict.fromkeys(minor)))


def is_allowed(key: str, allowed: Sequence[str]) -> bool:
    """Whether a key, or what it is a part of, is in the list."""
    return any(key == one or key.startswith(f"{one}.") for one in allowed)


def describe_values(ours: object, theirs: object, first: Path, other: Path) -> str:
    """Two values that differ; of long ones the part in which they do."""
    a, b = _text(ours), _text(theirs)
    if max(len(a), len(b)) <= _SHOWN:
        return f"{a} in {first}, {b} in {other}"
    at = next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
    begin = max(0, at - _SHOWN // 3)
    cuts = [_window(text, begin) for text in (a, b)]
    return f"from character {at} on, {cuts[0]} in {first}, {cuts[1]} in {other}"


def _text(value: object) -> str:
    if isinstance(value, ClassDefault):
        return f"absent (default {_text(value.value)})"
    return "absent" if value is ABSENT else json.dumps(value, ensure_ascii=False, default=str)


def _window(text: str, begin: int) -> str:
    end = begin + _SHOWN
    return f"{'...' if begin else ''}{text[begin:end]}{'...' if end < len(text) else ''}"
