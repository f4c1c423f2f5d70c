"""Errors for users: their kinds, their exit codes, and the words around them."""

from pathlib import Path

import pytest

from salsa_cli import errors
from salsa_cli.errors import SalsaError, StorageError, UsageError


def test_exit_codes_tell_a_wrong_command_line_from_a_failed_command() -> None:
    assert (SalsaError.exit_code, StorageError.exit_code, UsageError.exit_code) == (1, 1, 2)


def test_an_error_of_the_system_names_the_file_and_what_was_done(tmp_path: Path) -> None:
    path = tmp_path / "none" / "file"
    with pytest.raises(StorageError) as found, errors.os_errors(path, "write"):
        path.write_text("x")
    assert str(found.value) == f"{path}: cannot write it: No such file or directory"
    assert isinstance(found.value.__cause__, FileNotFoundError)


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError), errors.os_errors(tmp_path, "read"):
        raise KeyError("a defect of ours")
    with pytest.raises(ValueError), errors.during("member 2"):
        raise ValueError("a defect of ours")


@pytest.mark.parametrize("kind", [SalsaError, UsageError, StorageError])
def test_what_was_done_comes_first_and_the_kind_stays(kind: type[SalsaError]) -> None:
    with pytest.raises(SalsaError) as found, errors.during("member 2 of 3"):
        raise kind("the disk is full")
    assert type(found.value) is kind
    assert str(found.value) == "member 2 of 3: the disk is full"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", "''"),
        ("two\nlines", r"'two\nlines'"),
        ("\x1b[2J", r"'\x1b[2J'"),
        ("a" * 200, "a" * 200),
        ("a" * 201, "a" * 200 + "..."),
    ],
)
def test_untrusted_text_in_a_message_is_one_printable_line(text: str, shown: str) -> None:
    assert errors.one_line(text) == shown
