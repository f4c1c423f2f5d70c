"""PyTorch's `.bin` files: the offsets of their tensors, without unpickling arbitrary objects.

Such a file is an uncompressed ZIP archive of a pickle and of the tensors' bytes. torch loads the
pickle with `weights_only` and gives the offset of each tensor; the data is then read like that of
any other file.
"""

from pathlib import Path
from typing import Any

from salsa_cli.errors import SalsaError, one_line, os_errors
from salsa_cli.weights.layout import TensorSpec

_ADVICE = (
    "convert it: load the model with transformers and save it again with save_pretrained, "
    "in a disposable environment if you do not trust the file"
)


def read_index(file: Path) -> list[TensorSpec]:
    """The tensors of a `.bin` file by offset; reads no weights.

    Tensors that share memory (tied embeddings) have the same offset.

    Raises:
        SalsaError: the file cannot be read, holds anything but named tensors, was written
            by a torch older than 1.6, or holds a tensor that is not contiguous.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.serialization import load

    with os_errors(file, "read"), file.open("rb") as handle:
        if handle.read(4) != b"PK\3\4":
            raise SalsaError(
                f"{file}: not a ZIP archive, the format of torch since version 1.6; {_ADVICE}"
            )
        size = file.stat().st_size
        try:
            # Fake tensors have no memory but know their offset in the file.
            with FakeTensorMode():
                found = load(file, weights_only=True)
        except SalsaError:
            raise
        except Exception as error:  # a damaged pickle or archive can raise anything
            reason = one_line(str(error).strip().partition("\n")[0])
            raise SalsaError(
                f"{file}: torch cannot read it safely ({reason}); {_ADVICE}"
            ) from error
    if not isinstance(found, dict) or not found:
        raise SalsaError(f"{file}: expected a dict of tensors, found {type(found).__name__}")
    specs = [_spec(file, name, tensor, size) for name, tensor in found.items()]
    return sorted(specs, key=lambda spec: (spec.start, spec.nbytes))


def _spec(file: Path, name: object, tensor: Any, size: int) -> TensorSpec:
    where = f"{file}: tensor {one_line(str(name))}"
    dtype = _names().get(getattr(tensor, "dtype", None))
    if not isinstance(name, str) or dtype is None:
        raise SalsaError(f"{where}: expected a tensor, found {type(tensor).__name__}; {_ADVICE}")
    plain = str(tensor.layout) == "torch.strided" and tensor.is_contiguous()
    offset = getattr(tensor.untyped_storage(), "_checkpoint_offset", None) if plain else None
    if not plain or (offset is None and tensor.numel()):
        raise SalsaError(f"{where} is not a contiguous array; {_ADVICE}")
    nbytes = tensor.numel() * tensor.element_size()
    start = (offset or 0) + tensor.storage_offset() * tensor.element_size()
    if start + nbytes > size:
        raise SalsaError(f"{where} extends beyond the end of the file; download the model again")
    return TensorSpec(name, dtype, tuple(tensor.shape), file, start, nbytes)


def _names() -> dict[object, str]:
    """The safetensors names of torch's dtypes."""
    import torch

    return {
        torch.bool: "BOOL",
        torch.uint8: "U8",
        torch.int8: "I8",
        torch.int16: "I16",
        torch.int32: "I32",
        torch.int64: "I64",
        torch.float8_e4m3fn: "F8_E4M3",
        torch.float8_e5m2: "F8_E5M2",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.float32: "F32",
        torch.float64: "F64",
    }
