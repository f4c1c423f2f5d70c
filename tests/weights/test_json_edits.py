"""Edits of JSON texts change what they must, and no other byte."""

import json
import string
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salsa_cli.weights.json_edits import edit_object

TEXT = """{
  "a": Infinity,\r
  "b" :[1,  2.50],
    "c": {"x": 1e3, "y": {}},
  "é": null
}
"""


@pytest.mark.parametrize(
    ("changes", "removed", "expected"),
    [
        ({}, (), TEXT),
        ({"é": True}, (), TEXT.replace("null", "true")),
        ({"c": {"x": 1000.0, "y": {}, "z": 1}}, (), TEXT.replace('"y": {}', '"y": {}, "z": 1')),
        ({}, ("a",), TEXT.replace('"a": Infinity,\r\n  ', "")),
        ({}, ("é",), TEXT.replace(',\n  "é": null', "")),
        ({"n": [1]}, (), TEXT.replace("null", 'null,\n  "n": [\n    1\n  ]')),
    ],
)
def test_hand_made(changes: dict[str, Any], removed: tuple[str, ...], expected: str) -> None:
    wanted = {**json.loads(TEXT), **changes}
    assert edit_object(TEXT, {k: v for k, v in wanted.items() if k not in removed}) == expected


def test_an_empty_object_takes_members() -> None:
    assert edit_object("{ }\n", {"a": 1, "b": "x"}) == '{\n  "a": 1,\n  "b": "x"\n}\n'


def test_true_is_not_one() -> None:
    assert edit_object('{"a": 1}', {"a": True}) == '{"a": true}'


def test_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="not a JSON object"):
        edit_object("[1]", {})


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
objects = st.dictionaries(st.text(string.printable), values, max_size=5)


@settings(deadline=None)
@given(objects, objects, st.sampled_from([None, 1, 2, 4]), st.booleans())
def test_the_result_says_what_was_wanted(
    before: dict[str, Any], after: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(before, indent=indent, ensure_ascii=ascii_only)
    assert json.loads(edit_object(text, after)) == after
    assert edit_object(text, before) == text
