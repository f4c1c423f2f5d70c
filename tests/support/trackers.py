"""What trackers hold after a run."""

from pathlib import Path
from typing import Any

import pytest


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder."""
    read = _events(folder)
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def texts(folder: Path) -> dict[str, list[str]]:
    """The texts that TensorBoard shows of a folder."""
    read = _events(folder)
    return {
        tag: [event.tensor_proto.string_val[0].decode() for event in read.Tensors(tag)]
        for tag in read.Tags()["tensors"]
    }


def _events(folder: Path) -> Any:
    module = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    read = module.EventAccumulator(str(folder))
    read.Reload()
    return read
