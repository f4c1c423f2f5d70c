"""Names of models: free ones, and how their files are called."""

import re
from collections.abc import Iterable

_UNFIT = re.compile(r"[/\\:\0]+")


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
