"""Safetensors files and folders for tests, and what other libraries make of them."""

import json
import struct
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from salsa_cli.errors import SalsaError
from salsa_cli.weights.disk import ALIGNMENT, aligned
from salsa_cli.weights.layout import Array, NewTensor
from salsa_cli.weights.shards import ShardWriter, plan_shards
from salsa_cli.weights.weight_files import TensorReader, WeightFiles

FIRST, SECOND = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))

GOLDEN_HEADER = (
    b'{"__metadata__":{"format":"pt"},'
    b'"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"a":{"dtype":"BF16","shape":[1,3],"data_offsets":[8,14]}}  '
)
GOLDEN = (
    b"\x90\x00\x00\x00\x00\x00\x00\x00"
    + GOLDEN_HEADER
    + b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
    + b"\x80\x3f\x00\xc0\x01\x80"
)


def write(folder: Path, arrays: Mapping[str, tuple[str, Array]], size: int) -> ShardWriter:
    """Write (dtype, storage elements) by name; returns the finished writer."""
    folder.mkdir(exist_ok=True)
    specs = [NewTensor(name, dtype, array.shape) for name, (dtype, array) in arrays.items()]
    with ShardWriter(folder, plan_shards(specs, size), ALIGNMENT) as writer:
        for block in reversed(writer.blocks):
            memory = aligned(block.nbytes)
            for span in block.spans:
                part = arrays[span.tensor.name][1].reshape(-1)[span.begin : span.begin + span.count]
                memory[span.place : span.place + part.nbytes] = part.view(np.uint8)
            writer.write(block, memory)
    return writer


def read_all(checkpoint: WeightFiles) -> dict[str, Array]:
    with TensorReader() as reader:
        return {
            name: reader.read(spec, 0, spec.elements).copy().reshape(spec.shape)
            for name, spec in checkpoint.tensors.items()
        }


def bytes_of(header: object, data: bytes = b"") -> bytes:
    """A safetensors file; the header as JSON, or raw where it is bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def model(folder: Path, content: bytes, name: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


def library_tensors(content: bytes) -> dict[str, Any]:
    """What the safetensors library makes of a file."""
    return dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Bytes that Python and NumPy held at most; known when the block has ended."""
    peak: list[int] = []
    tracemalloc.start()
    try:
        yield peak
    finally:
        peak.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()


def failure(act: Callable[[], object]) -> str:
    """The one message of a SalsaError: a single line, no traceback, no class name."""
    with pytest.raises(SalsaError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message and "Traceback" not in message and "Errno" not in message
    return message
