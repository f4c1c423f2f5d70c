"""A trained model back into an ordinary Hugging Face folder."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from salsa_cli.errors import StorageError, one_line, os_errors
from salsa_cli.models import lora
from salsa_cli.models.forward import Module
from salsa_cli.models.loading import _habits, load_language_model
from salsa_cli.models.shapes import stored_dtype, text_config
from salsa_cli.weights import folders

SHARD = "2GB"
"""Largest file of weights that are handed over; each is held once more while it is written."""


def save_model(model: Module, folder: Path, *, like: Path) -> None:
    """Configuration and weights as transformers writes them, in the weight type of `like`.

    A causal model also gets the generation config of `like`, byte for byte.
    """
    raised = model.to(getattr(text_config(like), "dtype", None) or torch.float32)
    with _written(folder):
        raised.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):  # made for their owner alone, whatever the umask
        path.chmod((folder / "config.json").stat().st_mode)
    habits = _habits(like) / "generation_config.json"
    if habits.exists() and model.can_generate():
        shutil.copyfile(habits, folder / habits.name)


def save_to_sample(model: Module, folder: Path, *, like: Path) -> None:
    """A policy under training as a whole model for another program to sample from, unchanged here.

    In the weight type of `like`, with whatever adapters it has merged: the weights that it would
    have if it were saved now. Holds a copy of them in the CPU's memory, where the type is another.
    """
    dtype = stored_dtype(like)
    copies: dict[tuple[int, torch.Size], torch.Tensor] = {}
    state = {}
    for name, value in lora.merged_state(model).items():
        # Tied weights stay one tensor, which is then stored once.
        place = (value.data_ptr(), value.shape)
        narrow = dtype if value.is_floating_point() else value.dtype
        state[name] = copies.setdefault(place, value.detach().to("cpu", narrow))
    with _written(folder):
        model.save_pretrained(folder, state_dict=state, max_shard_size=SHARD)
    for path in folder.glob("*.safetensors"):  # made for their owner alone, whatever the umask
        path.chmod((folder / "config.json").stat().st_mode)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """The block in which transformers writes a model.

    Raises:
        StorageError: the file system does not take it. The library that writes the weights has an
            error of its own for that, which is no OSError.
    """
    with os_errors(folder, "write"):
        try:
            yield
        except Exception as error:
            if type(error).__name__ != "SafetensorError":
                raise
            raise StorageError(f"{folder}: cannot write it: {one_line(str(error))}") from error


def save_policy(model: Module, folder: Path, *, like: Path) -> None:
    """A policy that began as the model of `like`: an adapter as an adapter, all else as a model.

    A new adapter is merged in float32 into the weights of `like` as they are stored.
    """
    if folders.is_adapter(like):
        lora.save_as(model, folder, like)
        return
    if lora.has_adapters(model):
        plain = load_language_model(like, torch.float32, torch.device("cpu")).model
        model = lora.merged(plain, model)
    save_model(model, folder, like=like)
