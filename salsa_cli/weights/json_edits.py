"""Edit a JSON object in its text: only what changes is rewritten, every other byte stays.

Parsing and writing a configuration again is not neutral: `Infinity` is no JSON and becomes null,
numbers and the order of keys may change, and a diff with the original shows every line.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from salsa_cli.records import JSON

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Member:
    """A member of an object in its text: the key starts at `start`, the value is `[begin, end)`."""

    key: str
    value: JSON
    start: int
    begin: int
    end: int


def edit_object(text: str, wanted: Mapping[str, JSON]) -> str:
    """`text`, a JSON object, changed at as few places as possible so that it says `wanted`.

    Members that are equal keep their text, objects are edited member by member, new members are
    appended.

    Raises:
        ValueError: `text` is not a JSON object.
    """
    found = list(_members(text))
    kept = [place for place, member in enumerate(found) if member.key in wanted]
    edits: list[tuple[int, int, str]] = []
    for place, member in enumerate(found):
        if member.key not in wanted:
            if not kept or place < kept[-1]:
                following = found[place + 1].start if place + 1 < len(found) else member.end
                edits.append((member.start, following, ""))
        elif not _same(member.value, value := wanted[member.key]):
            edits.append((member.begin, member.end, _rewritten(text, member, value)))
    if kept and kept[-1] + 1 < len(found):
        edits.append((found[kept[-1]].end, found[-1].end, ""))
    for begin, end, new in reversed(edits):
        text = text[:begin] + new + text[end:]
    known = {member.key for member in found}
    added = {key: value for key, value in wanted.items() if key not in known}
    return _append(text, added) if added else text


def _members(text: str) -> Iterator[Member]:
    """The members of the object in order."""
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("not a JSON object")
    at = _skip(text, at + 1)
    while text[at] != "}":
        start = at
        key, at = _DECODER.raw_decode(text, at)
        begin = _skip(text, _skip(text, at) + 1)  # past the colon
        value, end = _DECODER.raw_decode(text, begin)
        yield Member(key, value, start, begin, end)
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _rewritten(text: str, member: Member, value: JSON) -> str:
    if isinstance(value, dict) and isinstance(member.value, dict):
        return edit_object(text[member.begin : member.end], value)
    return _encode(value, _indent(text, member.start))


def _append(text: str, added: Mapping[str, JSON]) -> str:
    members = list(_members(text))
    if not members:
        begin = text.index("{") + 1
        inside = ",".join(f"\n  {_encode(k, '')}: {_encode(v, '  ')}" for k, v in added.items())
        return f"{text[:begin]}{inside}\n{text[_skip(text, begin) :]}"
    last = members[-1]
    between = "," + (text[: last.start][len(text[: last.start].rstrip()) :] or " ")
    indent = _indent(text, last.start)
    new = "".join(f"{between}{_encode(k, '')}: {_encode(v, indent)}" for k, v in added.items())
    return text[: last.end] + new + text[last.end :]


def _encode(value: JSON, indent: str) -> str:
    """The JSON of a value; objects and arrays continue at the indentation of their key."""
    step = 2 if indent or isinstance(value, dict | list) else None
    return json.dumps(value, indent=step, ensure_ascii=False).replace("\n", "\n" + indent)


def _indent(text: str, start: int) -> str:
    """The white space between the start of the line and the key, if there is nothing else."""
    line = text[text.rfind("\n", 0, start) + 1 : start]
    return line if not line.strip() else ""


def _same(one: JSON, other: JSON) -> bool:
    """Whether two values are equal in type too: in Python 1, 1.0 and True are."""
    return one is other or json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None  # it may be empty
    return match.end()
