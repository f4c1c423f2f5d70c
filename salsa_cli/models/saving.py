"""Writes trained models as ordinary Hugging Face folders."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from salsa_cli.errors import StorageError, one_line, os_errors
from salsa_cli.models import config_overrides, lora
from salsa_cli.models.backbones import Placement
from salsa_cli.models.forward import Module
from salsa_cli.models.loading import generation_config_folder, load_language_model
from salsa_cli.models.shapes import stored_dtype
from salsa_cli.weights import folders

SHARD = "2GB"
"""Largest weight file for a sampling server; each is copied in memory while it is written."""


def save_model(model: Module, folder: Path, *, like: Path) -> None:
    """Write configuration and weights with transformers, in the data type of the model `like`.

    A causal model also gets the generation config of `like`, byte for byte.
    """
    raised = model.to(stored_dtype(like))
    with _storage_errors(folder):
        raised.save_pretrained(folder)
        config_overrides.restore(folder, like)
    for path in folder.glob("*.safetensors"):  # written with mode 0600, whatever the umask
        path.chmod((folder / "config.json").stat().st_mode)
    source = generation_config_folder(like) / "generation_config.json"
    if source.exists() and model.can_generate():
        shutil.copyfile(source, folder / source.name)


def save_to_sample(model: Module, folder: Path, *, like: Path) -> None:
    """Write a policy in training as a whole model, for another program to sample from.

    In the data type of `like`, with its adapters merged: the weights that it would be saved with
    now. The policy itself stays unchanged; a copy in CPU memory is made where the type differs.
    """
    dtype = stored_dtype(like)
    copies: dict[tuple[int, torch.Size], torch.Tensor] = {}
    state = {}
    for name, value in lora.merged_state(model).items():
        # Tied weights stay one tensor, which is then stored once.
        place = (value.data_ptr(), value.shape)
        narrow = dtype if value.is_floating_point() else value.dtype
        state[name] = copies.setdefault(place, value.detach().to("cpu", narrow))
    with _storage_errors(folder):
        model.save_pretrained(folder, state_dict=state, max_shard_size=SHARD)
        config_overrides.restore(folder, like)
    for path in folder.glob("*.safetensors"):  # written with mode 0600, whatever the umask
        path.chmod((folder / "config.json").stat().st_mode)


def save_adapters(model: Module, folder: Path, *, like: Path) -> None:
    """Write the adapters of a policy that was loaded from `like`, as PEFT does, for another program
    to sample from."""
    with _storage_errors(folder):
        folder.mkdir()
        if folders.is_adapter(like):
            lora.save_as(model, folder, like)
        else:
            lora.save(model, folder, str(like))


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    """Context manager around the code in which transformers writes a model.

    Raises:
        StorageError: the file system refuses the write. safetensors reports that by its own error
            class, which is not an OSError.
    """
    with os_errors(folder, "write"):
        try:
            yield
        except Exception as error:
            if type(error).__name__ != "SafetensorError":
                raise
            raise StorageError(f"{folder}: cannot write it: {one_line(str(error))}") from error


def save_policy(model: Module, folder: Path, *, like: Path) -> None:
    """Write a policy that was loaded from `like`: an adapter as an adapter, else a whole model.

    A new adapter is merged in float32 into the stored weights of `like`. The policy stays as it
    is, so that its training can go on.
    """
    if folders.is_adapter(like):
        lora.save_as(model, folder, like)
        return
    if lora.has_adapters(model):
        plain = load_language_model(like, Placement(torch.float32, torch.device("cpu"))).model
        save_model(lora.merged(plain, model), folder, like=like)
        return
    with _converted(model, stored_dtype(like)):
        save_model(model, folder, like=like)


@contextmanager
def as_saved(model: Module, dtype: torch.dtype, *, like: Path) -> Iterator[None]:
    """Within the block, a policy in training computes as it will when it is saved and loaded.

    Its weights are rounded to the type in which `like` is stored. An adapter stays as it is: it is
    stored in float32, and a new one is merged only when it is saved.

    Args:
        dtype: the type in which it would be loaded.
    """
    if folders.is_adapter(like) or lora.has_adapters(model):
        yield
        return
    stored = stored_dtype(like)
    parameters = [(one, one.data) for one in model.parameters()]
    try:
        for parameter, data in parameters:
            if data.is_floating_point():
                parameter.data = data.to(stored).to(dtype)
        yield
    finally:
        for parameter, data in parameters:
            parameter.data = data


@contextmanager
def _converted(model: Module, dtype: torch.dtype) -> Iterator[None]:
    """A model on the CPU in `dtype` within the block; afterwards it has its own tensors again.

    No parameter changes its identity, so an optimizer, a captured graph and a compiled layer keep
    what they refer to. Tensors that are as asked for already are not copied.
    """
    parameters = [(one, one.data) for one in model.parameters()]
    buffers = [(part, dict(part._buffers)) for part in model.modules()]
    declared = model.config.dtype
    try:
        model.to(device="cpu", dtype=dtype)
        yield
    finally:
        for parameter, data in parameters:
            parameter.data = data
        for part, held in buffers:
            part._buffers.update(held)
        model.config.dtype = declared
