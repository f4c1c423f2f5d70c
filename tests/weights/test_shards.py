"""Weights written in shards: what is on the disk, and what is there when it fails."""

import errno
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from salsa_cli.records import read_json
from salsa_cli.weights.disk import ALIGNMENT, aligned
from salsa_cli.weights.folders import resolve
from salsa_cli.weights.layout import Array, NewTensor
from salsa_cli.weights.shards import ShardWriter, cut_blocks, plan_shards
from salsa_cli.weights.weight_files import open_weight_files
from tests.support.files import FIRST, SECOND, failure, read_all, write


def arrays_of_all_kinds() -> dict[str, tuple[str, Array]]:
    rng = np.random.default_rng(0)
    return {
        "odd": ("F16", rng.standard_normal(3).astype(np.float16)),
        "scalar": ("F64", np.array(2.5)),
        "empty": ("F32", np.zeros((0, 4), np.float32)),
        "matrix": ("F32", rng.standard_normal((5, 7)).astype(np.float32)),
        "brain": ("BF16", rng.integers(0, 65536, (2, 3, 4)).astype(np.uint16)),
        "ids": ("I64", np.arange(6, dtype=np.uint64)),
        "flag": ("BOOL", np.array([0, 1, 1], np.uint8)),
        "näme": ("U8", np.array([7], np.uint8)),
    }


class TestWriter:
    @pytest.mark.parametrize("size", [1, 24, 60, 150, 10**9])
    def test_what_is_written_is_read_again(self, tmp_path: Path, size: int) -> None:
        arrays = arrays_of_all_kinds()
        writer = write(tmp_path / "m", arrays, size)
        checkpoint = open_weight_files(tmp_path / "m")
        assert checkpoint.tensors.keys() == arrays.keys()
        for name, array in read_all(checkpoint).items():
            assert array.tobytes() == arrays[name][1].tobytes()
            assert array.shape == arrays[name][1].shape
        assert checkpoint.metadata == {"format": "pt"}
        contents = [(tmp_path / "m" / name).read_bytes() for name in writer.names]
        assert sum('"näme":'.encode() in content for content in contents) == 1
        assert list(writer.names) == [file.name for file in checkpoint.files]

    @pytest.mark.parametrize("size", [1, 60, 10**9])
    def test_torch_loads_every_shard(self, tmp_path: Path, size: int) -> None:
        """It would not if a float32 began at an odd place, as after three float16."""
        pytest.importorskip("torch")
        from safetensors.torch import load_file

        arrays = arrays_of_all_kinds()
        writer = write(tmp_path / "m", arrays, size)
        loaded = {}
        for name in writer.names:
            loaded.update(load_file(tmp_path / "m" / name))
        assert loaded.keys() == arrays.keys()
        assert loaded["matrix"].numpy().tolist() == arrays["matrix"][1].tolist()
        assert loaded["odd"].numpy().tolist() == arrays["odd"][1].tolist()

    def test_shards_and_their_index(self, tmp_path: Path) -> None:
        arrays = {name: ("F32", np.full(2, ord(name), np.float32)) for name in "cab"}
        writer = write(tmp_path / "m", arrays, 16)
        index = (tmp_path / "m" / "model.safetensors.index.json").read_text()
        assert index == (
            '{\n  "metadata": {\n    "total_parameters": 6,\n    "total_size": 24\n  },\n'
            '  "weight_map": {\n'
            f'    "a": "{FIRST}",\n    "b": "{SECOND}",\n    "c": "{FIRST}"\n'
            "  }\n}\n"
        )
        assert list(writer.names) == [FIRST, SECOND]
        assert sorted(path.name for path in (tmp_path / "m").iterdir()) == [
            FIRST,
            SECOND,
            "model.safetensors.index.json",
        ]
        loaded = safetensors.numpy.load_file(tmp_path / "m" / FIRST)
        assert {name: array.tolist() for name, array in loaded.items()} == {
            "c": [99.0, 99.0],
            "a": [97.0, 97.0],
        }

    def test_plan(self) -> None:
        def sizes(*nbytes: int, limit: int) -> list[list[int]]:
            specs = [NewTensor(str(i), "U8", (n,)) for i, n in enumerate(nbytes)]
            return [[spec.nbytes for spec in shard] for shard in plan_shards(specs, limit)]

        assert sizes(limit=1) == [[]]
        assert sizes(3, 3, 4, limit=10) == [[3, 3, 4]]
        assert sizes(3, 3, 5, 5, 1, limit=10) == [[3, 3], [5, 5], [1]]
        assert sizes(1, 99, 1, 1, limit=10) == [[1], [99], [1, 1]]
        assert sizes(99, 98, limit=10) == [[99], [98]]
        assert sizes(10, 0, 0, 1, limit=10) == [[10, 0, 0], [1]]

    def test_wider_elements_go_first_in_their_file_only(self) -> None:
        specs = [
            NewTensor(f"{i}{dtype}", dtype, (1,))
            for i, dtype in enumerate(["F16", "F64", "BF16", "F32", "U8", "F32"])
        ]
        planned = [[spec.name for spec in shard] for shard in plan_shards(specs, 12)]
        assert planned == [["1F64", "0F16", "2BF16"], ["3F32", "5F32", "4U8"]]

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(0, 30), max_size=20), st.integers(1, 40))
    def test_plan_keeps_all_in_order_within_the_limit(self, sizes: list[int], limit: int) -> None:
        specs = [NewTensor(str(i), "U8", (n,)) for i, n in enumerate(sizes)]
        planned = plan_shards(specs, limit)
        assert [spec for shard in planned for spec in shard] == specs
        for shard in planned:
            assert (
                sum(spec.nbytes for spec in shard) <= limit
                or sum(spec.nbytes > 0 for spec in shard) == 1
            )
        for shard, after in itertools.pairwise(planned):
            assert sum(spec.nbytes for spec in shard) + after[0].nbytes > limit

    @pytest.mark.parametrize(
        ("specs", "size", "says"),
        [
            ([NewTensor("a", "F32", (1,)), NewTensor("a", "F16", (1,))], 10, "a is not the name"),
            ([NewTensor("__metadata__", "F32", (1,))], 10, "__metadata__ is not the name"),
            ([], 0, "a shard cannot have 0 bytes"),
            ([NewTensor("a", "F4", (1,))], 10, "no tensor of F4"),
        ],
    )
    def test_wrong_plans(self, specs: list[NewTensor], size: int, says: str) -> None:
        with pytest.raises(ValueError, match=says):
            plan_shards(specs, size)

    def test_an_incomplete_model_has_no_index(self, tmp_path: Path) -> None:
        shards = plan_shards([NewTensor(name, "U8", (2,)) for name in "ab"], 2)
        with (
            pytest.raises(ValueError, match="1 block never written"),
            ShardWriter(tmp_path, shards, ALIGNMENT) as writer,
        ):
            writer.write(writer.blocks[1], aligned(2))
        assert sorted(path.name for path in tmp_path.iterdir()) == [FIRST, SECOND]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_what_was_written_can_be_kept(self, tmp_path: Path, error: type[BaseException]) -> None:
        shards = plan_shards([NewTensor(name, "U8", (1,)) for name in "ab"], 1)
        with pytest.raises(error), ShardWriter(tmp_path, shards, ALIGNMENT) as writer:
            memory = aligned(1)
            memory[0] = 7
            writer.write(writer.blocks[0], memory)
            raise error
        with ShardWriter(tmp_path, shards, ALIGNMENT) as writer:
            assert writer.path(writer.blocks[0]) == tmp_path / FIRST
            writer.keep(writer.blocks[0])
            memory[0] = 8
            writer.write(writer.blocks[1], memory)
        found = read_all(open_weight_files(tmp_path))
        assert (found["a"].tolist(), found["b"].tolist()) == ([7], [8])

    @settings(max_examples=100, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from(["U8", "F16", "F32", "F64"]), st.integers(0, 40)), max_size=12
        ),
        st.sampled_from([8, 16, 64]),
    )
    def test_blocks_cover_every_element_once_and_in_order(
        self, sizes: list[tuple[str, int]], size: int
    ) -> None:
        specs = [NewTensor(f"{i}", dtype, (n,)) for i, (dtype, n) in enumerate(sizes)]
        (shard,) = plan_shards(specs, 10**9)
        blocks = list(cut_blocks(shard, 0, 4096, size))
        assert all(block.nbytes == size for block in blocks[:-1])
        assert [block.offset for block in blocks] == [4096 + i * size for i in range(len(blocks))]
        place = 4096
        seen = dict.fromkeys((spec.name for spec in shard), 0)
        for block in blocks:
            for span in block.spans:
                assert block.offset + span.place == place
                assert span.begin == seen[span.tensor.name]
                width = span.tensor.nbytes // span.tensor.shape[0]
                assert span.place % width == 0
                seen[span.tensor.name] += span.count
                place += span.count * width
        assert place == 4096 + sum(spec.nbytes for spec in specs)
        assert seen == {spec.name: spec.shape[0] for spec in shard}

    @pytest.mark.parametrize("name", ["other.safetensors", "model-2.safetensors.index.json", FIRST])
    def test_other_weights_are_not_joined(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).touch()
        message = failure(lambda: write(tmp_path, {}, 1))
        assert message == f"{tmp_path} already contains weights; choose an empty folder"
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_no_folder(self, tmp_path: Path) -> None:
        message = failure(lambda: ShardWriter(tmp_path / "gone", ((),), ALIGNMENT).__enter__())
        assert message.endswith("cannot write it: No such file or directory")

    @pytest.mark.parametrize("at", [1, 2, 3, 4])
    def test_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        """In a header or in the data: one message, and nothing that looks whole."""
        left = [at]

        def full(descriptor: int, buffers: Any, offset: int) -> int:
            left[0] -= 1
            if not left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return pwritev(descriptor, buffers, offset)

        pwritev = os.pwritev
        monkeypatch.setattr(os, "pwritev", full)
        arrays = {name: ("U8", np.zeros(1, np.uint8)) for name in "ab"}
        message = failure(lambda: write(tmp_path, arrays, 1))
        assert message.endswith("cannot write it: No space left on device")
        assert not list(tmp_path.glob("*.index.json"))


class TestOtherWriters:
    def test_safetensors_torch(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        from safetensors.torch import save_file

        tensors = {
            "half": torch.arange(5, dtype=torch.float16),
            "brain": torch.tensor([[1.0, -2.0]], dtype=torch.bfloat16),
            "single": torch.tensor(3.5),
            "ids": torch.arange(3),
        }
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
        checkpoint = open_weight_files(tmp_path)
        arrays = read_all(checkpoint)
        assert arrays["half"].tolist() == [0, 1, 2, 3, 4]
        assert arrays["brain"].tolist() == [[0x3F80, 0xC000]]
        assert (arrays["single"].shape, arrays["single"].tolist()) == ((), 3.5)
        assert checkpoint.tensors["ids"].dtype == "I64"
        assert arrays["ids"].tolist() == [0, 1, 2]

    @pytest.mark.parametrize("size", ["5GB", "20KB"])
    def test_transformers(self, tmp_path: Path, size: str) -> None:
        """Their folder is read; ours, written from it, is loaded by them; the indexes agree."""
        torch = pytest.importorskip("torch")
        transformers = pytest.importorskip("transformers")
        config = transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        torch.manual_seed(0)
        llama = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
        theirs, ours = tmp_path / "theirs", tmp_path / "ours"
        llama.save_pretrained(theirs, max_shard_size=size)
        checkpoint = open_weight_files(resolve(str(theirs)))
        assert (len(checkpoint.files) > 1) == (size == "20KB")
        assert checkpoint.parameters == llama.num_parameters()
        state = llama.state_dict()
        arrays = read_all(checkpoint)
        assert arrays.keys() == state.keys()
        for name, array in arrays.items():
            assert array.tolist() == state[name].view(torch.uint16).tolist()

        writer = write(
            ours, {name: (checkpoint.tensors[name].dtype, arrays[name]) for name in arrays}, 20_000
        )
        (ours / "config.json").write_bytes((theirs / "config.json").read_bytes())
        assert len(writer.names) > 1
        loaded = transformers.AutoModelForCausalLM.from_pretrained(ours)
        assert loaded.dtype == torch.bfloat16
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
        if size == "20KB":
            index = "model.safetensors.index.json"
            assert read_json(ours / index)["metadata"] == read_json(theirs / index)["metadata"]
