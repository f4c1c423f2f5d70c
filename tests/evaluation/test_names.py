"""Free names, and the files of names with slashes or in other case."""

from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.evaluation import names


def test_files_of_names() -> None:
    found = names.file_names(["org/A", "org--A", "a", "A", "x-2", "x", "X", "/"])
    assert list(found.values()) == ["org--A", "org--A-2", "a", "A-2", "x-2", "x", "X-3", "--"]


@given(st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=8))
def test_every_name_has_a_file_of_its_own(given_names: list[str]) -> None:
    found = names.file_names(given_names)
    assert list(found) == given_names
    assert len({file.casefold() for file in found.values()}) == len(given_names)
    assert not any("/" in file for file in found.values())


def test_a_free_name() -> None:
    assert names.free_name("x", ["x"]) == "x-2"
    assert names.free_name("x", ["x", "x-2", "x-3"]) == "x-4"
