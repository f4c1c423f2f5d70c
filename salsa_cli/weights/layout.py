"""The safetensors format: read and check headers, and write them.

A safetensors file is a little-endian 64-bit length N, N bytes of JSON with the dtype, shape and
offsets of each tensor, and then the data of the tensors without gaps. This parser is stricter than
the library's (no duplicate names, no leading spaces), because tensors are read in pieces at the
offsets in the header and written out again.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from salsa_cli.errors import SalsaError, one_line, os_errors
from salsa_cli.maths.averaging import STORAGE
from salsa_cli.records import parse_object

Array = npt.NDArray[Any]

METADATA = "__metadata__"
_LARGEST_HEADER = 100_000_000
_LARGEST_SIZE = 2**63 - 1
BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    **dict.fromkeys(["BOOL", "U8", "I8"], 8),
    **dict.fromkeys(["F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"], 8),
    **dict.fromkeys(["I16", "U16", "F16", "BF16"], 16),
    **dict.fromkeys(["I32", "U32", "F32"], 32),
    **dict.fromkeys(["C64", "F64", "I64", "U64"], 64),
}
BROKEN = "; the file is corrupt: download or save the model again"


@dataclass(frozen=True)
class TensorSpec:
    """A stored tensor: `nbytes` bytes from offset `start` of `file`.

    `dtype` is its safetensors name, `shape` in elements.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    nbytes: int

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class NewTensor:
    """A tensor to be written: `dtype` by its safetensors name, `shape` in elements."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        nbytes = byte_count(self.dtype, self.shape)
        if nbytes is None:
            raise ValueError(f"{self.name}: no tensor of {self.dtype} has shape {self.shape}")
        return nbytes


def storage_dtype(dtype: str) -> np.dtype[Any] | None:
    """The NumPy dtype in which elements of a safetensors dtype are handled.

    Floats that can be averaged have their own (`averaging.STORAGE`); all others are handled as
    unsigned integers of the same width. None if an element is smaller than a byte.
    """
    if dtype in STORAGE:
        return STORAGE[dtype]
    return None if BITS[dtype] < 8 else np.dtype(f"u{BITS[dtype] // 8}")


def read_header(file: Path) -> tuple[list[TensorSpec], dict[str, str]]:
    """The tensors of a file by offset, and the file's metadata."""
    raw, size = _header_bytes(file)
    entries = parse_object(raw, f"{file}: header", strict=True)
    metadata = entries.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(
        isinstance(text, str) for text in metadata.values()
    ):
        raise SalsaError(f"{file}: {METADATA} is not a map of strings{BROKEN}")
    data = 8 + len(raw)
    specs = [_spec(file, name, entry, data) for name, entry in entries.items()]
    specs.sort(key=lambda spec: (spec.start, spec.nbytes))
    _check_cover(file, specs, data, size)
    return specs, metadata


def encode_header(shard: Sequence[NewTensor], alignment: int = 8) -> bytes:
    """Length and JSON, padded with spaces so that the data starts at a multiple of `alignment`."""
    entries: dict[str, Any] = {METADATA: {"format": "pt"}}
    offset = 0
    for spec in shard:
        end = offset + spec.nbytes
        entries[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % alignment)
    return len(text).to_bytes(8, "little") + text


def byte_count(dtype: str, shape: Iterable[int]) -> int | None:
    """Bytes of a tensor; None if no tensor can have this dtype and shape."""
    bits = BITS[dtype]
    for size in shape:  # not math.prod: a malicious shape would make a huge integer
        bits *= size
        if bits > 8 * _LARGEST_SIZE:
            return None
    return None if bits % 8 else bits // 8


def _header_bytes(file: Path) -> tuple[bytes, int]:
    """The header, and the size of the whole file in bytes."""
    with os_errors(file, "read"), file.open("rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        prefix = handle.read(8)
        if prefix == b"version ":
            raise SalsaError(f"{file} is a Git LFS pointer, not the weights; run `git lfs pull`")
        length = int.from_bytes(prefix, "little")
        if length > size - 8 or length > _LARGEST_HEADER:
            raise SalsaError(
                f"{file}: not a safetensors file: it has {size} bytes, and its header would have "
                f"{length} (at most {_LARGEST_HEADER} are allowed){BROKEN}"
            )
        raw = handle.read(length)
    if len(raw) < length or not raw.startswith(b"{"):
        raise SalsaError(f"{file}: header: not a JSON object{BROKEN}")
    return raw, size


def _spec(file: Path, name: str, entry: object, data: int) -> TensorSpec:
    """One checked entry of the header; `data` is the offset of the data section."""
    where = f"{file}: tensor {one_line(name)}"
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or "\0" in name:
        raise SalsaError(f"{where}: its name is a path{BROKEN}")
    if not isinstance(entry, dict):
        raise SalsaError(f"{where}: expected an object, found {type(entry).__name__}{BROKEN}")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise SalsaError(f"{where}: unknown dtype {one_line(repr(dtype))}{BROKEN}")
    if not _are_sizes(shape):
        raise SalsaError(
            f"{where}: its shape is not a list of sizes: {one_line(repr(shape))}{BROKEN}"
        )
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise SalsaError(f"{where}: wrong data_offsets {one_line(repr(offsets))}{BROKEN}")
    nbytes = byte_count(dtype, shape)
    if nbytes is None or nbytes != offsets[1] - offsets[0]:
        raise SalsaError(
            f"{where}: {dtype} of shape {one_line(str(shape))} does not match the "
            f"{offsets[1] - offsets[0]} bytes of its data_offsets{BROKEN}"
        )
    return TensorSpec(name, dtype, tuple(shape), file, data + offsets[0], nbytes)


def _check_cover(file: Path, specs: Sequence[TensorSpec], data: int, size: int) -> None:
    """Check that the sorted tensors cover the data section without gaps or overlaps."""
    end = data
    for spec in specs:
        if spec.start != end:
            what = (
                "overlaps the previous one"
                if spec.start < end
                else "leaves a gap after the previous one"
            )
            raise SalsaError(f"{file}: tensor {one_line(spec.name)} {what}{BROKEN}")
        end += spec.nbytes
        if end > size:
            raise SalsaError(
                f"{file}: truncated within tensor {one_line(spec.name)}: the file has {size} bytes "
                "and its header describes more; download or save the model again"
            )
    if end != size:
        raise SalsaError(f"{file}: {size - end} bytes after the last tensor{BROKEN}")


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    """Whether this is an array of integers from 0 to 2^63 - 1 (and not of bools)."""
    return isinstance(value, list) and all(
        type(size) is int and 0 <= size <= _LARGEST_SIZE for size in value
    )
