"""Rows that a probe refuses before torch is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from salsa_cli.errors import SalsaError
from salsa_cli.evaluation import probe_rows


@pytest.mark.parametrize("name", ["texts.jsonl", "texts.txt"])
def test_wrong_data_is_told_without_torch(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(json.dumps({"txt": "the cat"}) + "\n")
    code = (
        "import sys\nfrom salsa_cli.errors import SalsaError\n"
        "from salsa_cli.evaluation import probe_rows\n"
        "try: probe_rows.check(sys.argv[1])\n"
        "except SalsaError as error: print(error)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    expected = "not a supported data file" if name.endswith("txt") else "its columns are 'txt'"
    assert expected in done.stdout


def test_texts_and_answers_pass(tmp_path: Path) -> None:
    rows = [{"text": "x"}, {"prompt": "x", "answer": "y"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    probe_rows.check(str(path))
    path.write_text(json.dumps({"prompt": "x"}))
    with pytest.raises(SalsaError, match="row 1: no text and no answer; expected a column 'text'"):
        probe_rows.check(str(path))
    probe_rows.check("some/dataset")
