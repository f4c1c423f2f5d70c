"""Sizes of a model from its configuration, by the names that architectures have for them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from salsa_cli.errors import SalsaError
from salsa_cli.models import shapes
from salsa_cli.models.shapes import Shape
from tests.support import architectures


@pytest.mark.parametrize(
    ("kind", "keys", "inner"),
    [("llama", 8, 32), ("gpt2", 16, 64), ("gemma2", 8, 32), ("mixtral", 8, 32)],
)
def test_widths(kind: str, keys: int, inner: int, tmp_path: Path) -> None:
    folder = architectures.save(tmp_path / kind, kind, 1)
    assert shapes.shape(folder) == Shape(2, 16, 16, keys, inner, 24)
    assert shapes.vocabulary_size(folder) == 24
    assert shapes.context_length(folder) == 64


def test_a_head_wider_than_its_share_of_the_hidden_width(tmp_path: Path) -> None:
    folder = architectures.save(tmp_path / "m", "llama", 1, head_dim=12)
    found = shapes.shape(folder)
    assert (found.hidden, found.heads, found.keys) == (16, 24, 12)


def test_the_type_is_that_of_most_weights_or_of_the_configuration(tmp_path: Path) -> None:
    folder = architectures.save(tmp_path / "m", "llama", 1)
    path, weights = folder / "config.json", folder / "model.safetensors"
    config, tensors = json.loads(path.read_text()), load_file(weights)
    for stored in ("bfloat16", None):
        path.write_text(json.dumps({**config, "dtype": stored}))
        assert shapes.stored_dtype(folder) == torch.float32
    norms = {name: one.bfloat16() if "norm" in name else one for name, one in tensors.items()}
    save_file(norms, weights)
    assert shapes.stored_dtype(folder) == torch.float32
    quantised = {name: one if "norm" in name else one.char() for name, one in tensors.items()}
    save_file(quantised, weights)
    for stored, dtype in (("bfloat16", torch.bfloat16), (None, torch.float32)):
        path.write_text(json.dumps({**config, "dtype": stored}))
        assert shapes.stored_dtype(folder) == dtype


def test_a_configuration_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "no-such-kind"}')
    with pytest.raises(SalsaError, match=r"config.json cannot be used \("):
        shapes.shape(tmp_path)
