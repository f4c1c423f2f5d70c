"""JSON in and out."""

from pathlib import Path

import pytest

from salsa_cli.records import read_json
from tests.support.files import failure


class TestReadJson:
    def test_an_object(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text('{"a": [1, 2.5, "é", null], "b": Infinity}', "utf-8")
        assert read_json(tmp_path / "x.json") == {"a": [1, 2.5, "é", None], "b": float("inf")}

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (
                b'{\n  "a": 1,\n  b\n}',
                "malformed JSON: Expecting property name enclosed in double "
                "quotes at line 3, column 3",
            ),
            (b"", "malformed JSON: Expecting value at line 1, column 1"),
            (b"[1]", "expected a JSON object, found list"),
            (b"null", "expected a JSON object, found NoneType"),
            (b'{"a": "\xff"}', "not UTF-8 text (byte 7)"),
            (b"\xef\xbb\xbf{}", "malformed JSON: Unexpected UTF-8 BOM"),
            (b"[" * 100_000, "malformed JSON"),
        ],
    )
    def test_anything_else(self, tmp_path: Path, content: bytes, says: str) -> None:
        (tmp_path / "x.json").write_bytes(content)
        message = failure(lambda: read_json(tmp_path / "x.json"))
        assert message.startswith(f"{tmp_path / 'x.json'}: {says}")

    def test_no_file(self, tmp_path: Path) -> None:
        message = failure(lambda: read_json(tmp_path / "x.json"))
        assert message == f"{tmp_path / 'x.json'}: cannot read it: No such file or directory"
        assert "Is a directory" in failure(lambda: read_json(tmp_path))
