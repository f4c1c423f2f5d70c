"""PyTorch's `.bin` files, read without unpickling: the same values as torch.load gives."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from salsa_cli.weights.pickled import read_index
from salsa_cli.weights.weight_files import open_weight_files
from tests.support.files import failure, read_all


def test_every_tensor_is_where_it_is_said_to_be(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3).bfloat16(),
        "half": torch.arange(5.0).half(),
        "ids": torch.arange(7),
        "slice": whole[3:7],
        "tied": whole,
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(3)),
        "flags": torch.tensor([True, False]),
    }
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    checkpoint = open_weight_files(tmp_path)
    arrays = read_all(checkpoint)
    assert arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        words = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}
        want = tensor.detach().clone().view(words[tensor.element_size()])
        found = arrays[name].view(f"u{tensor.element_size()}")
        assert np.array_equal(found, want.numpy()), name
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)


def test_shards_and_their_index(tmp_path: Path) -> None:
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    for value, (name, tensor) in enumerate(zip(names, "ab", strict=True)):
        torch.save({tensor: torch.full((2,), float(value))}, tmp_path / name)
    index = {"weight_map": dict(zip("ab", names, strict=True))}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert {k: v.tolist() for k, v in read_all(open_weight_files(tmp_path)).items()} == {
        "a": [0.0, 0.0],
        "b": [1.0, 1.0],
    }


class Evil:
    """Runs a command when it is unpickled by a reader that lets it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, (f"touch {self.path}",)


def test_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"w": Evil(tmp_path / "pwned")}, tmp_path / "pytorch_model.bin")
    message = failure(lambda: open_weight_files(tmp_path))
    assert "torch cannot read it safely" in message and "save_pretrained" in message
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a ZIP archive"),
        (pickle.dumps({"w": 1}), "not a ZIP archive"),
        (b"PK\3\4 and nothing else", "torch cannot read it safely"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "x.bin").write_bytes(content)
    assert says in failure(lambda: read_index(tmp_path / "x.bin"))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([torch.ones(2)], "expected a dict of tensors, found list"),
        ({"w": 3}, "w: expected a tensor, found int"),
        ({"w": torch.ones(2, 3).t()}, "w is not a contiguous array"),
        ({"w": torch.ones(2).to_sparse()}, "w is not a contiguous array"),
    ],
)
def test_values_that_are_no_tensors(tmp_path: Path, value: object, says: str) -> None:
    torch.save(value, tmp_path / "x.bin")
    assert says in failure(lambda: read_index(tmp_path / "x.bin"))


def test_a_file_that_was_cut_short(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1000)}, tmp_path / "x.bin")
    content = (tmp_path / "x.bin").read_bytes()
    (tmp_path / "x.bin").write_bytes(content[: len(content) // 2])
    assert "torch cannot read it safely" in failure(lambda: read_index(tmp_path / "x.bin"))


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("hello.txt", "world")
    assert "torch cannot read it safely" in failure(lambda: read_index(tmp_path / "x.bin"))
