"""Folders of weights: opened, read in pieces, compared, digested."""

import dataclasses
import json
import os
import subprocess
import sys
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import xxhash

from salsa_cli.weights import layout, weight_files
from salsa_cli.weights.layout import TensorSpec, storage_dtype
from salsa_cli.weights.weight_files import (
    TensorReader,
    WeightFiles,
    differences,
    digest,
    open_weight_files,
    weights_digest,
)
from tests.support.files import (
    FIRST,
    GOLDEN,
    SECOND,
    bytes_of,
    failure,
    model,
    read_all,
    write,
)


def shards(folder: Path) -> Path:
    """Two shards of one F32 tensor each, by the library, and their index."""
    folder.mkdir()
    for number, name in enumerate("vw"):
        array = np.array([number], np.float32)
        file = folder / f"model-0000{number + 1}-of-00002.safetensors"
        safetensors.numpy.save_file({name: array}, file, {"format": "pt"})
    reindex(
        folder, {"v": "model-00001-of-00002.safetensors", "w": "model-00002-of-00002.safetensors"}
    )
    return folder


def reindex(folder: Path, weight_map: object) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


class TestOpenCheckpoint:
    def test_shards(self, tmp_path: Path) -> None:
        folder = shards(tmp_path / "m")
        checkpoint = open_weight_files(folder)
        assert [file.name for file in checkpoint.files] == [FIRST, SECOND]
        assert list(checkpoint.tensors) == ["v", "w"]
        assert checkpoint.metadata == {"format": "pt"}
        assert {name: array.tolist() for name, array in read_all(checkpoint).items()} == {
            "v": [0.0],
            "w": [1.0],
        }

    def test_one_file_goes_before_an_index(self, tmp_path: Path) -> None:
        """As in transformers."""
        folder = model(shards(tmp_path / "m"), GOLDEN)
        assert list(open_weight_files(folder).tensors) == ["b", "a"]

    @pytest.mark.parametrize(
        ("weight_map", "says"),
        [
            ({"v": FIRST}, "no such tensor"),
            (
                {"v": FIRST, "w": FIRST},
                "w is listed in " + FIRST + (", but no shard contains it"),
            ),
            ({"v": SECOND, "w": FIRST}, f"v is listed in {SECOND}, but it is in {FIRST}"),
            ({"v": FIRST, "w": SECOND, "x": SECOND}, "tensor x is listed in"),
            ({"v": FIRST, "w": "gone.safetensors"}, "gone.safetensors, which is missing"),
            ({"v": FIRST, "w": "sub"}, "sub, which is missing or not a file"),
            (
                {"v": FIRST, "w": "../outside.safetensors"},
                "expected a file name in the same folder",
            ),
            ({"v": FIRST, "w": "/etc/passwd"}, "expected a file name in the same folder"),
            ({"v": FIRST, "w": "sub/" + SECOND}, "expected a file name in the same folder"),
            ({"v": FIRST, "w": "..\\" + SECOND}, "expected a file name in the same folder"),
            ({"v": FIRST, "w": "C:" + SECOND}, "expected a file name in the same folder"),
            ({"v": FIRST, "w": ".."}, "expected a file name in the same folder"),
            ({"v": FIRST, "w": "."}, "expected a file name in the same folder"),
            ({"v": FIRST, "w": ""}, "expected a file name in the same folder"),
            ({"v": FIRST, "w": "x\0y"}, "expected a file name in the same folder"),
            ({"v": FIRST, "w": "\ud800"}, "surrogates not allowed"),
            ({"v": FIRST, "w": "x" * 5000}, "cannot read it"),
            ({"v": FIRST, "w": 7}, "tensor w has no file name"),
            ({"v": FIRST, "w": None}, "tensor w has no file name"),
            ({}, "expected an object `weight_map`"),
            ([], "expected an object `weight_map`"),
            (None, "expected an object `weight_map`"),
        ],
    )
    def test_index_and_shards_disagree(self, tmp_path: Path, weight_map: object, says: str) -> None:
        folder = shards(tmp_path / "m")
        (folder / "sub").mkdir()
        (folder / "sub" / SECOND).write_bytes((folder / SECOND).read_bytes())
        (tmp_path / "outside.safetensors").write_bytes((folder / SECOND).read_bytes())
        reindex(folder, weight_map)
        if says == "no such tensor":  # the second shard is simply not part of the model
            assert list(open_weight_files(folder).tensors) == ["v"]
            return
        message = failure(lambda: open_weight_files(folder))
        assert says in message and len(message) < 700
        assert message.startswith(str(folder))

    def test_tensor_that_the_index_does_not_name(self, tmp_path: Path) -> None:
        folder = shards(tmp_path / "m")
        both = {"v": np.zeros(1, np.float32), "u": np.zeros(1, np.float32)}
        safetensors.numpy.save_file(both, folder / FIRST)
        assert "u" in open_weight_files(folder).tensors  # transformers loads it too

    def test_tensor_in_two_shards(self, tmp_path: Path) -> None:
        folder = shards(tmp_path / "m")
        both = {"v": np.zeros(1, np.float32), "w": np.zeros(1, np.float32)}
        safetensors.numpy.save_file(both, folder / SECOND)
        message = failure(lambda: open_weight_files(folder))
        assert f"tensor v is in {FIRST} and {SECOND}" in message

    def test_broken_index(self, tmp_path: Path) -> None:
        folder = shards(tmp_path / "m")
        index = folder / "model.safetensors.index.json"
        index.write_text('{"weight_map": {"v": "a", "v": "b"}}')
        assert f"{index}: malformed JSON: v occurs twice" in failure(
            lambda: open_weight_files(folder)
        )
        index.write_text('{\n"weight_map"')
        assert "line 2, column 13" in failure(lambda: open_weight_files(folder))

    def test_broken_shard(self, tmp_path: Path) -> None:
        folder = shards(tmp_path / "m")
        (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-1])
        message = failure(lambda: open_weight_files(folder))
        assert message.startswith(f"{folder / SECOND}: truncated within tensor w")

    @pytest.mark.parametrize(
        ("files", "says"),
        [
            ([], "(found: nothing)"),
            (["config.json", ".hidden"], "neither model.safetensors nor model.safetensors.index"),
            (["config.json", ".hidden"], "(found: config.json)"),
            (
                [f"file{n}" for n in range(11)],
                "file0, file1, file10, file2, file3, file4, file5, file6 and 3 more)",
            ),
            (["pytorch_model.bin"], "not a ZIP archive"),
            (["adapter_config.json", "adapter_model.safetensors"], "contains a LoRA adapter"),
            (["adapter_model.bin"], "`salsa soup --merge-into BASE`"),
        ],
    )
    def test_no_weights(self, tmp_path: Path, files: list[str], says: str) -> None:
        for name in files:
            (tmp_path / name).touch()
        message = failure(lambda: open_weight_files(tmp_path))
        assert message.startswith(str(tmp_path)) and says in message

    def test_no_folder(self, tmp_path: Path) -> None:
        assert "no such folder" in failure(lambda: open_weight_files(tmp_path / "gone"))

    def test_broken_link_and_link(self, tmp_path: Path, golden: Path) -> None:
        """The hub's cache is made of links."""
        folder = tmp_path / "m"
        folder.mkdir()
        (folder / "model.safetensors").symlink_to(tmp_path / "blob")
        assert "is a broken link or not a file" in failure(lambda: open_weight_files(folder))
        (tmp_path / "blob").write_bytes(GOLDEN)
        assert open_weight_files(folder).parameters == 5

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_unreadable_file(self, golden: Path) -> None:
        (golden / "model.safetensors").chmod(0)
        assert "cannot read it: Permission denied" in failure(lambda: open_weight_files(golden))


class TestReader:
    def test_file_that_shrank(self, golden: Path) -> None:
        spec = open_weight_files(golden).tensors["a"]
        os.truncate(golden / "model.safetensors", len(GOLDEN) - 3)
        with TensorReader() as reader:
            assert reader.read(spec, 0, 1).tolist() == [0x3F80]
            message = failure(lambda: reader.read(spec, 0, 3))
        assert message.startswith(
            f"{golden / 'model.safetensors'}: 3 bytes are missing within tensor"
        )
        assert "tensor a" in message

    def test_file_that_vanished(self, golden: Path) -> None:
        spec = open_weight_files(golden).tensors["a"]
        (golden / "model.safetensors").unlink()
        with TensorReader() as reader:
            message = failure(lambda: reader.read(spec, 0, 1))
        assert message.endswith("cannot read it: No such file or directory")

    def test_each_file_is_opened_once_and_closed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[Any] = []

        class Spy(FileIO):
            def __init__(self, path: Path) -> None:
                super().__init__(path)
                opened.append(self)

        monkeypatch.setattr(weight_files, "FileIO", Spy)
        specs = open_weight_files(shards(tmp_path / "m")).tensors
        with TensorReader() as reader:
            for name in "vwvw":
                reader.read(specs[name], 0, 1)
        assert [Path(handle.name).name for handle in opened] == [FIRST, SECOND]
        assert all(handle.closed for handle in opened)

    def test_short_system_reads_are_continued(
        self, golden: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Slow(FileIO):
            def readinto(self, buffer: Any, /) -> int:
                return super().readinto(buffer[:1]) or 0

        tensors = open_weight_files(golden).tensors
        spec = tensors["a"]
        monkeypatch.setattr(weight_files, "FileIO", Slow)
        with TensorReader() as reader:
            assert reader.read(tensors["b"], 0, 2).tolist() == [1.0, -2.0]
            assert reader.read(spec, 0, 3).tolist() == [0x3F80, 0xC000, 0x8001]

    def test_buffer_is_reused(self, golden: Path) -> None:
        spec = open_weight_files(golden).tensors["b"]
        with TensorReader() as reader:
            first = reader.read(spec, 0, 2)
            second = reader.read(spec, 1, 1)
            assert np.shares_memory(first, second) and first[0] == -2.0

    @pytest.mark.parametrize("dtype", sorted(layout.BITS))
    def test_all_dtypes(self, tmp_path: Path, dtype: str) -> None:
        data = bytes(range(48))
        count = 8 * len(data) // layout.BITS[dtype]
        header = {"w": {"dtype": dtype, "shape": [count], "data_offsets": [0, len(data)]}}
        checkpoint = open_weight_files(model(tmp_path / "m", bytes_of(header, data)))
        assert (checkpoint.parameters, checkpoint.nbytes) == (count, len(data))
        if storage_dtype(dtype) is None:
            assert f"has dtype {dtype}" in failure(lambda: read_all(checkpoint))
        else:
            assert read_all(checkpoint)["w"].tobytes() == data


def checkpoint_of(folder: str, **shapes: tuple[int, ...]) -> WeightFiles:
    tensors = {
        name: TensorSpec(name, "F32", shape, Path(folder, "f"), 0, 0)
        for name, shape in shapes.items()
    }
    return WeightFiles(Path(folder), tensors, {}, {})


class TestDifferences:
    def test_none(self) -> None:
        a = checkpoint_of("a", x=(1, 2), y=())
        b = checkpoint_of("b", y=(), x=(1, 2))
        assert differences([a, b]) == differences([a]) == differences([a, a]) == ()
        brain = dataclasses.replace(a.tensors["x"], dtype="BF16")
        assert differences([a, dataclasses.replace(b, tensors={**b.tensors, "x": brain})]) == ()

    def test_all_at_once(self) -> None:
        a = checkpoint_of("a", embed=(512, 64), head=(3,), same=(1,))
        b = checkpoint_of("b", embed=(105, 128), same=(1,), extra=(2,))
        assert differences([a, b]) == (
            "head: only in a/",
            "extra: only in b/",
            "embed: [512, 64] in a/, [105, 128] in b/",
        )

    def test_three(self) -> None:
        a = checkpoint_of("a", x=(1,), y=(1,), z=(4,))
        b = checkpoint_of("b", x=(1,), y=(2,), w=(1,))
        c = checkpoint_of("c", x=(3,), y=(1,), w=(2,), z=(4,))
        assert differences([a, b, c]) == (
            "z: only in a/, c/",
            "w: only in b/, c/",
            "x: [1] in a/, [3] in c/",
            "y: [1] in a/, [2] in b/",
            "w: [1] in b/, [2] in c/",
        )

    def test_many(self) -> None:
        a = checkpoint_of(
            "a", **{f"x{i}": (1,) for i in range(9)}, **{f"y{i}": () for i in range(8)}
        )
        b = checkpoint_of("b", **{f"x{i}": (2,) for i in range(9)})
        lines = differences([a, b])
        assert lines[:8] == tuple(f"y{i}: only in a/" for i in range(8))
        assert lines[8:16] == tuple(f"x{i}: [1] in a/, [2] in b/" for i in range(8))
        assert lines[16:] == ("... and 1 more tensors with different shapes",)
        more = differences([a, checkpoint_of("b")])
        assert len(more) == 9 and more[8] == "... and 9 more tensors missing from some models"


class TestDigests:
    def test_weights_digest_by_hand(self, tmp_path: Path) -> None:
        folder = shards(tmp_path / "m")
        with TensorReader() as reader:
            lines = [
                f"{name} F32 {list(spec.shape)} "
                f"{xxhash.xxh3_128(reader.read(spec, 0, spec.elements).tobytes()).hexdigest()}\n"
                for name, spec in sorted(open_weight_files(folder).tensors.items())
            ]
        assert len(lines) == 2
        expected = xxhash.xxh3_128("".join(lines).encode()).hexdigest()
        assert weights_digest(open_weight_files(folder)) == expected

    def test_it_does_not_depend_on_the_layout_of_files(self, tmp_path: Path) -> None:
        arrays = {n: ("F32", np.full(3, ord(n), np.float32)) for n in "ab"}
        for name, size, order in (("one", 100, "ab"), ("two", 1, "ab"), ("turned", 100, "ba")):
            write(tmp_path / name, {n: arrays[n] for n in order}, size)
        assert (
            len(
                {
                    weights_digest(open_weight_files(tmp_path / name))
                    for name in ("one", "two", "turned")
                }
            )
            == 1
        )

    def test_it_depends_on_names_shapes_and_values(self, tmp_path: Path) -> None:
        values = np.arange(6, dtype=np.float32)
        for name, arrays in (
            ("first", {"a": ("F32", values)}),
            ("renamed", {"b": ("F32", values)}),
            ("reshaped", {"a": ("F32", values.reshape(2, 3))}),
            ("changed", {"a": ("F32", values + 1)}),
        ):
            write(tmp_path / name, arrays, 100)
        names = ("first", "renamed", "reshaped", "changed")
        assert len({weights_digest(open_weight_files(tmp_path / name)) for name in names}) == 4

    def test_no_file(self, tmp_path: Path) -> None:
        assert "cannot read it" in failure(lambda: digest(tmp_path / "gone"))
        assert "neither model.safetensors nor" in failure(
            lambda: weights_digest(open_weight_files(tmp_path))
        )


def test_neither_torch_nor_transformers_is_imported() -> None:
    script = (
        "import sys, salsa_cli.weights.weight_files\n"
        "sys.exit(bool({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
