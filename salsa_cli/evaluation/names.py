"""Names of models: how they are given, and how their files are called."""

import re
from collections.abc import Iterable
from pathlib import Path

# Recipes such as soup(a/,b/,alpha=0.5) have brackets, and are no names.
_NAMED = re.compile(r"([^=(]+)=(.+)", re.DOTALL)
_UNFIT = re.compile(r"[/\\:\0]+")


def split(given: str) -> tuple[str | None, str]:
    """The name and the path in `NAME=PATH`; no name in `PATH`.

    A name may have slashes, as hub ids do. A path that exists is a path, whatever is in it.
    """
    match = _NAMED.fullmatch(given)
    if match is None or Path(given).exists():
        return None, given
    return match[1], match[2]


def file_names(names: Iterable[str]) -> dict[str, str]:
    """A file name for each name: different ones, on file systems that ignore case as well."""
    found: dict[str, str] = {}
    used: set[str] = set()
    for name in names:
        plain = _UNFIT.sub("--", name).strip() or "model"
        free, number = plain, 2
        while free.casefold() in used:
            free, number = f"{plain}-{number}", number + 1
        used.add(free.casefold())
        found[name] = free
    return found


def free_name(name: str, taken: Iterable[str]) -> str:
    """The name with the first number that makes it another one: `x-2`."""
    known = set(taken)
    number = 2
    while f"{name}-{number}" in known:
        number += 1
    return f"{name}-{number}"
