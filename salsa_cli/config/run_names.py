"""How runs are named on the command line of `salsa eval`: `NAME=RUN@POINT,RUN,...`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from salsa_cli.config.values import split_list
from salsa_cli.errors import UsageError

# Recipes such as soup(a/,b/,alpha=0.5) have brackets, and are no names.
_NAMED = re.compile(r"([^=(]+)=(.+)", re.DOTALL)
_POINT = re.compile(r"(?P<run>.+)@(?P<point>[0-9]+|best|all)", re.DOTALL)
_PATTERN = re.compile(r"[*?\[]")

ALL, BEST = "all", "best"


@dataclass(frozen=True)
class RunName:
    """A run, and which of its policies is meant.

    Attributes:
        source: folder or hub id.
        point: `all`, `best`, or the number of an update; None is the policy at its end.
    """

    source: str
    point: str | None = None


@dataclass(frozen=True)
class ArmName:
    """The runs of one arm, and its name if it was given one."""

    name: str | None
    runs: tuple[RunName, ...]


def parse(given: str) -> ArmName:
    """An argument of `salsa eval`.

    A path that exists is a path, whatever is in it. A name may have slashes, as hub ids do.
    `*`, `?` and `[...]` stand for the folders that they match, in the order of their numbers.

    Raises:
        UsageError: an item is empty, or a pattern matches no folder.
    """
    name, rest = split(given)
    runs = tuple(run for item in split_list(rest) for run in _runs(item, given))
    return ArmName(name, runs)


def split(given: str) -> tuple[str | None, str]:
    """The name and the rest of `NAME=REST`; no name in `REST`."""
    match = _NAMED.fullmatch(given)
    if match is None or Path(given).exists():
        return None, given
    return match[1], match[2]


def _runs(item: str, given: str) -> Iterator[RunName]:
    if not item:
        raise UsageError(f"{given}: an item of this list is empty; expected NAME=RUN,RUN,...")
    if Path(item).exists():
        yield RunName(item)
        return
    match = _POINT.fullmatch(item)
    source, point = (match["run"], match["point"]) if match else (item, None)
    if Path(source).exists() or not _PATTERN.search(source):
        yield RunName(source, point)
        return
    place = Path(source)
    root = Path(place.anchor) if place.is_absolute() else Path()
    pattern = str(place.relative_to(place.anchor)) if place.is_absolute() else source
    matches = sorted((path for path in root.glob(pattern) if path.is_dir()), key=_natural)
    if not matches:
        raise UsageError(f"{given}: {source} matches no folder")
    for path in matches:
        yield RunName(str(path), point)


def _natural(path: Path) -> list[tuple[int, str]]:
    """Orders s2 before s10."""
    return [
        (int(part), "") if part.isdigit() else (0, part)
        for part in re.split(r"([0-9]+)", str(path))
    ]
