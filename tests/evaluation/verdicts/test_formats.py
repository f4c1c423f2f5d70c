"""Files of stored verdicts: each format by its smallest row, and rows that are wrong."""

from pathlib import Path

from salsa_cli.evaluation.verdicts import formats
from salsa_cli.evaluation.verdicts.verdict import Verdict
from tests.support import tiny
from tests.support.files import failure
from tests.support.verdict_rows import OWN, PAIR, V01
from tests.support.verdict_rows import read_verdicts as read


def test_our_own(tmp_path: Path) -> None:
    first = {"prompt": 3, "a": "x", "b": "y", "judge": "rm:r", "outcome": 1.0, "score_a": 2.0}
    assert read(tmp_path, OWN).verdicts == [Verdict("7", "rm:r", "x", "y", outcome=0.5)]
    assert read(tmp_path, {**first, "score_b": 1.0}).verdicts[0].question == "3"


def test_a_folder_is_its_files(tmp_path: Path) -> None:
    for name in ("b", "a"):
        tiny.write_rows(tmp_path / f"{name}.jsonl", [{**V01, "model": name}])
    found = formats.read([str(tmp_path)])
    assert [Path(one.source).name for one in found] == ["a.jsonl", "b.jsonl"]


def test_a_file_that_is_named_twice(tmp_path: Path) -> None:
    file = tiny.write_rows(tmp_path / "j.jsonl", [PAIR])
    message = failure(lambda: formats.read([str(file), str(tmp_path)]))
    assert message == f"{file} is given 2 times; expected once"


def test_a_row_that_lacks_a_column(tmp_path: Path) -> None:
    short = {key: value for key, value in PAIR.items() if key != "g2_winner"}
    message = failure(lambda: read(tmp_path, PAIR, short))
    assert message.endswith("row 2: no column g2_winner, which FastChat pairwise has")


def test_a_file_of_something_else(tmp_path: Path) -> None:
    message = failure(lambda: read(tmp_path, {"question_id": 1, "turns": []}))
    assert "the first row has the columns question_id, turns; expected a file of" in message
