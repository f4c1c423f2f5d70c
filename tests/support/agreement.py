"""Whether runs of one process and of several agree."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from salsa_cli.records import read_rows
from salsa_cli.runs.tracking import flat


def same_metrics(one: Path, other: Path, besides: Sequence[str] | set[str] = ()) -> None:
    ours, theirs = without_time(one), without_time(other)
    assert len(ours) == len(theirs)
    for row, expected in zip(theirs, ours, strict=True):
        assert row.keys() == expected.keys()
        for name in row.keys() - set(besides):
            assert row[name] == close(expected[name]), name


def same_weights(one: Path, other: Path) -> None:
    ours, theirs = (load_file(path / "model.safetensors") for path in (one, other))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(theirs[name], weight, atol=1e-5, rtol=0, msg=name)


def close(value: float) -> object:
    return pytest.approx(value, abs=1e-5, rel=1e-5)


def without_time(folder: Path) -> list[dict[str, float]]:
    rows = read_rows(folder / "metrics.jsonl")
    return [flat({k: v for k, v in row.items() if k != "time"}) for row in rows]
