"""Events and where they go: files of metrics, several receivers, nobody; and dry runs."""

import json
from pathlib import Path

import pytest

from salsa_cli.errors import StorageError
from salsa_cli.runs.events import DryRun, Measured, Note, Table, both, metrics_file, silent


def test_metrics_are_appended_line_by_line(tmp_path: Path) -> None:
    listen = metrics_file(tmp_path / "m.jsonl")
    listen(Measured({"a": 1, "b": float("nan")}))
    listen(Note("not a metric"))
    listen(Measured({"a": 2, "time": {"x": 0.5}}))
    rows = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert rows == [{"a": 1, "b": None}, {"a": 2, "time": {"x": 0.5}}]


def test_both_listeners_hear_everything() -> None:
    heard: list[object] = []
    both(heard.append, heard.append)(Note("x"))
    assert heard == [Note("x"), Note("x")]


def test_a_dry_run_as_record_and_as_text() -> None:
    dry = DryRun({"training pairs": 3, "longest pair, tokens": 9})
    assert dry.record() == {"dry_run": True, "training_pairs": 3, "longest_pair_tokens": 9}
    assert dry.summary() == ("training pairs: 3\nlongest pair, tokens: 9", None)


def test_a_dry_run_adds_its_details_to_the_record_alone() -> None:
    table = Table(("model",), [("x",)])
    dry = DryRun({"micro-batch": 4}, table, {"roles": ["policy"]})
    assert dry.record() == {"dry_run": True, "micro_batch": 4, "roles": ["policy"]}
    assert dry.summary() == ("micro-batch: 4", table)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "metrics.jsonl"
    with pytest.raises(StorageError, match=r"metrics.jsonl: cannot write it: No such file"):
        metrics_file(path)(Measured({"a": 1}))


def test_nobody_needs_to_listen() -> None:
    silent(Note("x"))
