"""The weight files of a model folder: where each tensor is stored, and its values in pieces."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import xxhash

from salsa_cli.errors import SalsaError, one_line, os_errors
from salsa_cli.records import parse_object, read_bytes
from salsa_cli.weights.layout import BROKEN, Array, TensorSpec, read_header, storage_dtype

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
INDEXES = (INDEX, PICKLED_INDEX)
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")

PIECE = 1 << 20  # elements digested at a time
_SHOWN = 8  # differences and file names named in one message


@dataclass(frozen=True)
class Fingerprint:
    """State of a weight file when it was opened: size, modification time, and header digest."""

    size: int
    changed_ns: int
    header_bytes: int
    header_xxh3: str


@dataclass(frozen=True)
class WeightFiles:
    """The weights of a model folder: its tensors by name, in the order of files and offsets.

    `metadata` is the `__metadata__` of the files' headers, `files` the weight files in order.
    """

    folder: Path
    tensors: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]
    files: Mapping[Path, Fingerprint]

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(spec.elements for spec in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(spec.nbytes for spec in self.tensors.values())


def open_weight_files(folder: Path) -> WeightFiles:
    """Read and check the headers of a folder's weight files; reads no weights.

    The layouts are those of transformers: `model.safetensors`, or `model.safetensors.index.json`
    and the shards it names, or the same with PyTorch's `.bin` files, which need torch.

    Raises:
        SalsaError: there are no such files, one breaks a rule of the format, or index and shards
            disagree.
    """
    files, index = _layout(folder)
    weights = _open(folder, files)
    if index is not None:
        _check_index(index, _weight_map(index), weights.tensors)
    return weights


def has_model_weights(folder: Path) -> bool:
    """Whether a folder has the weights of a whole model under one of transformers' names."""
    return any((folder / name).is_file() for name in (WEIGHTS, PICKLED, *INDEXES))


def open_adapter_weights(folder: Path) -> WeightFiles:
    """Like `open_weight_files`, for the one weight file of a LoRA adapter."""
    for name in ADAPTERS:
        if (folder / name).is_file():
            return _open(folder, (folder / name,))
    raise SalsaError(f"{folder}: no {ADAPTERS[0]} found; expected a LoRA adapter {listing(folder)}")


def check_unchanged(weights: WeightFiles) -> None:
    """Raise `SalsaError` if a weight file has changed since it was opened."""
    for file, before in weights.files.items():
        now = _fingerprint(file, before.header_bytes)
        if now != before:
            what = f"{before.size} bytes before, {now.size} now"
            if now.size == before.size:
                what = "its header" if now.header_xxh3 != before.header_xxh3 else "its date"
                what += " is another one"
            raise SalsaError(
                f"{file} changed while it was being read ({what}); make sure that nothing writes "
                "to it, and start again"
            )


class TensorReader:
    """Reads pieces of tensors. Files are opened on first use and closed at the end.

    Not thread-safe: all pieces share one buffer.
    """

    def __init__(self) -> None:
        self._handles: dict[Path, FileIO] = {}
        self._buffer = np.empty(0, np.uint8)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        for handle in self._handles.values():
            handle.close()
        self._handles.clear()

    def read(self, spec: TensorSpec, begin: int, count: int) -> Array:
        """Elements [begin, begin + count) of a tensor in row-major order, as storage elements.

        The array, of shape (count,), is a view of the reader's buffer; the next read overwrites it.

        Raises:
            SalsaError: the file ends too early or cannot be read, or the dtype packs
                several elements into a byte.
            ValueError: the tensor has no such elements.
        """
        if not 0 <= begin <= begin + count <= spec.elements:
            raise ValueError(f"{spec.name} has {spec.elements} elements, not {begin} + {count}")
        dtype = storage_dtype(spec.dtype)
        if dtype is None:
            raise SalsaError(
                f"{spec.file}: tensor {one_line(spec.name)} has dtype {spec.dtype}, whose elements "
                "are not whole bytes; expected an unquantised model"
            )
        nbytes = count * dtype.itemsize
        if nbytes > self._buffer.size:
            self._buffer = np.empty(nbytes, np.uint8)
        piece = self._buffer[:nbytes]
        with os_errors(spec.file, "read"):
            handle = self._handles.get(spec.file)
            if handle is None:
                handle = self._handles[spec.file] = FileIO(spec.file)
            handle.seek(spec.start + begin * dtype.itemsize)
            got = _read_into(handle, piece.data)
        if got < nbytes:
            raise SalsaError(
                f"{spec.file}: {nbytes - got} bytes are missing within tensor "
                f"{one_line(spec.name)}; the file changed after it was opened, or the disk is "
                "failing"
            )
        return piece.view(dtype)


def differences(models: Sequence[WeightFiles]) -> tuple[str, ...]:
    """All differences in tensor names and shapes, one line each.

    Shapes are compared with the first model that has the tensor; dtypes are not compared. More
    than eight lines of a kind are cut, with the number of lines left out.
    """
    names = dict.fromkeys(name for weights in models for name in weights.tensors)
    missing: list[str] = []
    reshaped: list[str] = []
    for name in names:
        holders = [weights for weights in models if name in weights.tensors]
        shape = holders[0].tensors[name].shape
        others = [holder for holder in holders if holder.tensors[name].shape != shape]
        if len(holders) < len(models):
            missing.append(f"{one_line(name)}: only in {', '.join(map(_folder, holders))}")
        if others:
            shapes = [
                f"{list(holder.tensors[name].shape)} in {_folder(holder)}"
                for holder in [holders[0], *others]
            ]
            reshaped.append(f"{one_line(name)}: {', '.join(shapes)}")
    return (
        *_cut(missing, "more tensors missing from some models"),
        *_cut(reshaped, "more tensors with different shapes"),
    )


def digest(path: Path) -> str:
    """The SHA-256 of a file in hex, read in pieces.

    Raises:
        SalsaError: the file cannot be read.
    """
    with os_errors(path, "read"), path.open("rb", buffering=0) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_hash(path: Path) -> str:
    """The hash of a file's bytes as soups record it, in hex, read in pieces.

    Raises:
        SalsaError: the file cannot be read.
    """
    found = tensor_hash()
    with os_errors(path, "read"), path.open("rb", buffering=0) as handle:
        while piece := handle.read(1 << 23):
            found.update(piece)
    return found.hexdigest()


def weights_digest(weights: WeightFiles) -> str:
    """The digest of a model's weights; it does not depend on how they are sharded.

    Raises:
        SalsaError: a file cannot be read.
    """
    digests = {}
    with TensorReader() as reader:
        for spec in weights.tensors.values():
            found = tensor_hash()
            for begin in range(0, spec.elements, PIECE):
                count = min(PIECE, spec.elements - begin)
                found.update(reader.read(spec, begin, count).data)
            digests[spec.name] = found.hexdigest()
    return combined_digest(weights, digests)


def tensor_hash() -> xxhash.xxh3_128:
    """A hash for the bytes of one tensor.

    XXH3 detects accidental changes much faster than any disk reads; it does not protect against
    deliberate collisions.
    """
    return xxhash.xxh3_128()


def combined_digest(weights: WeightFiles, digests: Mapping[str, str]) -> str:
    """One digest over lines of name, dtype, shape and digest of every tensor."""
    lines = [
        f"{name} {spec.dtype} {list(spec.shape)} {digests[name]}\n"
        for name, spec in sorted(weights.tensors.items())
    ]
    return str(xxhash.xxh3_128("".join(lines).encode()).hexdigest())


def _folder(weights: WeightFiles) -> str:
    return f"{weights.folder}{os.sep}"


def _cut(lines: list[str], rest: str) -> list[str]:
    if len(lines) <= _SHOWN:
        return lines
    return [*lines[:_SHOWN], f"... and {len(lines) - _SHOWN} {rest}"]


def _open(folder: Path, files: Sequence[Path]) -> WeightFiles:
    tensors: dict[str, TensorSpec] = {}
    metadata: dict[str, str] = {}
    fingerprints: dict[Path, Fingerprint] = {}
    for file in files:
        specs, about = _read_specs(file)
        metadata.update(about)
        fingerprints[file] = _fingerprint(file, min((spec.start for spec in specs), default=8))
        for spec in specs:
            if spec.name in tensors:
                both = f"{tensors[spec.name].file.name} and {file.name}"
                raise SalsaError(f"{folder}: tensor {one_line(spec.name)} is in {both}{BROKEN}")
            tensors[spec.name] = spec
    return WeightFiles(folder, tensors, metadata, fingerprints)


def _read_specs(file: Path) -> tuple[list[TensorSpec], dict[str, str]]:
    if file.suffix != ".bin":
        return read_header(file)
    from salsa_cli.weights import pickled

    return pickled.read_index(file), {}


def _fingerprint(file: Path, header_bytes: int) -> Fingerprint:
    """Size, time and header digest; the header is everything before the first tensor."""
    with os_errors(file, "read"), file.open("rb") as handle:
        status = os.fstat(handle.fileno())
        header = xxhash.xxh3_128_hexdigest(handle.read(header_bytes))
    return Fingerprint(status.st_size, status.st_mtime_ns, header_bytes, header)


def _layout(folder: Path) -> tuple[tuple[Path, ...], Path | None]:
    """The weight files of a folder in order, and the index that lists them, if there is one."""
    with os_errors(folder, "read"):
        for single, index in ((WEIGHTS, INDEX), (PICKLED, PICKLED_INDEX)):
            if (folder / single).is_file():
                return (folder / single,), None
            if (folder / index).is_file():
                names = sorted(set(_weight_map(folder / index).values()))
                return tuple(folder / name for name in names), folder / index
        raise SalsaError(_no_weights(folder))


def _no_weights(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}: no such folder; expected a Hugging Face model folder"
    if any((folder / name).is_file() for name in ADAPTERS):
        return adapter_message(folder)
    for name in (WEIGHTS, INDEX):
        if (folder / name).is_symlink() or (folder / name).exists():
            return f"{folder / name} is a broken link or not a file; download the model again"
    return (
        f"{folder}: neither {WEIGHTS} nor {INDEX} found; expected a model saved as safetensors "
        f"{listing(folder)}"
    )


def _weight_map(index: Path) -> dict[str, str]:
    """The index's map from tensor to file name; every file exists in the folder."""
    weight_map = parse_object(read_bytes(index), str(index), strict=True).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SalsaError(f"{index}: expected an object `weight_map` of tensor and file names")
    checked: set[str] = set()
    for tensor, name in weight_map.items():
        if not isinstance(name, str):
            raise SalsaError(f"{index}: tensor {one_line(tensor)} has no file name")
        if name not in checked:
            _check_shard_name(index, tensor, name)
            checked.add(name)
    return weight_map


def _check_shard_name(index: Path, tensor: str, name: str) -> None:
    where = f"{index}: tensor {one_line(tensor)} is listed in {one_line(name)}"
    if not name or name in (".", "..") or set(name) & set("/\\:\0"):
        raise SalsaError(f"{where}; expected a file name in the same folder, without a path")
    if not (index.parent / name).is_file():
        raise SalsaError(f"{where}, which is missing or not a file; download the model again")


def _check_index(
    index: Path, weight_map: Mapping[str, str], tensors: Mapping[str, TensorSpec]
) -> None:
    for name, file in weight_map.items():
        if name not in tensors or tensors[name].file.name != file:
            real = (
                f"it is in {tensors[name].file.name}" if name in tensors else "no shard contains it"
            )
            raise SalsaError(
                f"{index}: tensor {one_line(name)} is listed in {file}, but {real}{BROKEN}"
            )


def _read_into(handle: FileIO, view: memoryview) -> int:
    """Fill `view`; returns the number of bytes read, fewer only at the end of the file."""
    got = 0
    while got < len(view):  # one system call transfers at most 2 GiB
        more = handle.readinto(view[got:])
        if not more:
            break
        got += more
    return got


def adapter_message(folder: Path) -> str:
    """The message for a folder that holds an adapter where a model is expected."""
    return (
        f"{folder} contains a LoRA adapter; expected a whole model: merge the adapter into its "
        "base "
        "first (`salsa soup --merge-into BASE` does it with two or more of them)"
    )


def listing(folder: Path) -> str:
    """The names in a folder, in brackets, for a message."""
    names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    shown = ", ".join(map(one_line, names[:_SHOWN])) or "nothing"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"(found: {shown}{more})"
