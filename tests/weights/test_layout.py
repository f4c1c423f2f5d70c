"""The file contract: literal bytes, every broken rule refused, other libraries as witnesses."""

import hashlib
import os
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from salsa_cli.errors import SalsaError
from salsa_cli.weights import layout
from salsa_cli.weights.disk import ALIGNMENT
from salsa_cli.weights.layout import Array, NewTensor, TensorSpec, encode_header
from salsa_cli.weights.weight_files import TensorReader, WeightFiles, digest, open_weight_files
from tests.support.files import (
    GOLDEN,
    GOLDEN_HEADER,
    bytes_of,
    failure,
    library_tensors,
    model,
    peak_memory,
    read_all,
    write,
)


class TestGolden:
    def test_writer_writes_these_bytes(self, tmp_path: Path) -> None:
        arrays: dict[str, tuple[str, Array]] = {
            "b": ("F32", np.array([1.0, -2.0], np.float32)),
            "a": ("BF16", np.array([[0x3F80, 0xC000, 0x8001]], np.uint16)),
        }
        writer = write(tmp_path / "out", arrays, 1000)
        # The golden bytes, but for the blanks that move the data to a block of the disk.
        blanks = ALIGNMENT - 8 - len(GOLDEN_HEADER)
        assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
            (ALIGNMENT - 8).to_bytes(8, "little")
            + GOLDEN_HEADER
            + b" " * blanks
            + GOLDEN[8 + len(GOLDEN_HEADER) :]
        )
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
        assert writer.names == ("model.safetensors",)

    def test_encoded_header_is_the_golden_one(self) -> None:
        specs = [NewTensor("b", "F32", (2,)), NewTensor("a", "BF16", (1, 3))]
        assert encode_header(specs) == GOLDEN[: 8 + len(GOLDEN_HEADER)]

    def test_header_is_the_library_s(self, golden: Path) -> None:
        tensors = {
            "b": np.array([1.0, -2.0], np.float32),
            "a": np.zeros((1, 3), np.float16),
        }
        library = safetensors.numpy.save(tensors, {"format": "pt"})
        assert library[: 8 + len(GOLDEN_HEADER)].replace(b'"F16"', b'"BF16"').rstrip() == (
            GOLDEN[: 8 + len(GOLDEN_HEADER)].rstrip()
        )

    def test_index_of_it(self, golden: Path) -> None:
        file = golden / "model.safetensors"
        data = 8 + len(GOLDEN_HEADER)
        assert open_weight_files(golden) == WeightFiles(
            golden,
            {
                "b": TensorSpec("b", "F32", (2,), file, data, 8),
                "a": TensorSpec("a", "BF16", (1, 3), file, data + 8, 6),
            },
            {"format": "pt"},
            open_weight_files(golden).files,
        )
        (fingerprint,) = open_weight_files(golden).files.values()
        assert (fingerprint.size, fingerprint.header_bytes) == (len(GOLDEN), data)
        assert list(open_weight_files(golden).tensors) == ["b", "a"]
        assert open_weight_files(golden).parameters == 5
        assert open_weight_files(golden).nbytes == 14

    def test_pieces_of_it(self, golden: Path) -> None:
        tensors = open_weight_files(golden).tensors
        with TensorReader() as reader:
            assert reader.read(tensors["b"], 1, 1).tolist() == [-2.0]
            piece = reader.read(tensors["a"], 1, 2)
            assert piece.dtype == np.uint16 and piece.tolist() == [0xC000, 0x8001]
            assert reader.read(tensors["a"], 3, 0).shape == (0,)
            for begin, count in [(-1, 1), (0, 4), (4, 0), (0, -1)]:
                with pytest.raises(ValueError, match="a has 3 elements"):
                    reader.read(tensors["a"], begin, count)

    def test_torch_loads_it(self, golden: Path) -> None:
        torch = pytest.importorskip("torch")
        from safetensors.torch import load_file

        loaded = load_file(golden / "model.safetensors")
        assert loaded["a"].dtype == torch.bfloat16 and loaded["a"].shape == (1, 3)
        assert loaded["b"].tolist() == [1.0, -2.0]

    def test_digests_of_it(self, golden: Path) -> None:
        assert digest(golden / "model.safetensors") == hashlib.sha256(GOLDEN).hexdigest()


# ---------------------------------------------------------------------------- the header's rules

F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
ANY4 = b"\0" * 4


def one(**changes: object) -> dict[str, object]:
    return {"w": {**F32, **changes}}


def without(key: str) -> dict[str, object]:
    return {"w": {name: value for name, value in F32.items() if name != key}}


RULES: list[tuple[str, bytes, str]] = [
    # what is broken, the file, what the message says of it
    ("empty file", b"", "it has 0 bytes, and its header"),
    ("no whole length", b"\x02\0\0", "it has 3 bytes, and its header"),
    ("length beyond the file", struct.pack("<Q", 3) + b"{}", "its header would have 3"),
    ("length 2^64 - 1", b"\xff" * 8 + b"{}", "its header would have 18446744073709551615"),
    ("git lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
    ("empty header", bytes_of(b""), "not a JSON object"),
    ("leading space", bytes_of(b" {}"), "not a JSON object"),
    ("array", bytes_of(b"[]"), "not a JSON object"),
    ("cut JSON", bytes_of(b'{"w":'), "malformed JSON: Expecting value at line 1, column 6"),
    ("text behind", bytes_of(b"{}{}"), "malformed JSON"),
    ("NUL behind", bytes_of(b"{}\0"), "malformed JSON"),
    ("no UTF-8", bytes_of(b'{"\xff": 1}'), "not UTF-8 text (byte 2"),
    ("NaN", bytes_of(b'{"w": NaN}'), "NaN is not a JSON number"),
    ("nested too deep", bytes_of(b'{"w":' + b"[" * 100_000), "malformed JSON"),
    ("endless digits", bytes_of(b'{"w":' + b"9" * 5000 + b"}"), "malformed JSON"),
    ("repeated tensor", bytes_of(b'{"w":{},"w":{}}'), "w occurs twice"),
    ("repeated key", bytes_of(b'{"w":{"dtype":"F32","dtype":"F32"}}'), "dtype occurs twice"),
    ("half a surrogate pair", bytes_of({"\ud800": F32}, ANY4), "surrogates not allowed"),
    ("half a pair in metadata", bytes_of({"__metadata__": {"x": "\udfff"}}), "surrogates"),
    (
        "metadata is no object",
        bytes_of({"__metadata__": []}),
        "__metadata__ is not a map of strings",
    ),
    ("metadata is null", bytes_of({"__metadata__": None}), "__metadata__ is not a map of strings"),
    ("metadata has a number", bytes_of({"__metadata__": {"n": 1}}), "not a map of strings"),
    (
        "entry is no object",
        bytes_of({"w": ["F32", [1], [0, 4]]}, ANY4),
        "w: expected an object, found list",
    ),
    ("no dtype", bytes_of(without("dtype"), ANY4), "unknown dtype None"),
    ("no shape", bytes_of(without("shape"), ANY4), "not a list of sizes: None"),
    ("no offsets", bytes_of(without("data_offsets"), ANY4), "wrong data_offsets None"),
    ("unknown dtype", bytes_of(one(dtype="F31"), ANY4), "unknown dtype 'F31'"),
    ("dtype in lower case", bytes_of(one(dtype="f32"), ANY4), "unknown dtype 'f32'"),
    ("dtype is a list", bytes_of(one(dtype=["F32"]), ANY4), "unknown dtype ['F32']"),
    ("shape is a number", bytes_of(one(shape=1), ANY4), "not a list of sizes: 1"),
    ("size is a bool", bytes_of(one(shape=[True]), ANY4), "not a list of sizes: [True]"),
    ("size is a float", bytes_of(one(shape=[1.0]), ANY4), "not a list of sizes: [1.0]"),
    ("size is negative", bytes_of(one(shape=[-1]), ANY4), "not a list of sizes: [-1]"),
    ("two negative sizes", bytes_of(one(shape=[-1, -1]), ANY4), "not a list of sizes"),
    ("size of 2^63", bytes_of(one(shape=[2**63]), ANY4), "not a list of sizes"),
    ("offsets are floats", bytes_of(one(data_offsets=[0.0, 4.0]), ANY4), "wrong data_offsets"),
    ("offset is a bool", bytes_of(one(data_offsets=[False, 4]), ANY4), "wrong data_offsets"),
    ("three offsets", bytes_of(one(data_offsets=[0, 4, 4]), ANY4), "wrong data_offsets"),
    ("one offset", bytes_of(one(data_offsets=[0]), ANY4), "wrong data_offsets"),
    ("negative offset", bytes_of(one(data_offsets=[-4, 0]), ANY4), "wrong data_offsets"),
    ("offsets reversed", bytes_of(one(data_offsets=[4, 0]), ANY4), "wrong data_offsets"),
    ("too few bytes", bytes_of(one(shape=[2]), ANY4), "does not match the 4 bytes"),
    ("too many bytes", bytes_of(one(shape=[]), ANY4 * 2).replace(b"4]", b"8]"), "the 8 bytes"),
    ("sizes overflow", bytes_of(one(shape=[2**62, 2**62]), ANY4), "does not match the 4 bytes"),
    ("many sizes overflow", bytes_of(one(shape=[2**62] * 9999), ANY4), "does not match"),
    (
        "zero behind overflow",
        bytes_of(one(shape=[2**62, 2**62, 0], data_offsets=[0, 0])),
        "0 bytes",
    ),
    ("parts of a byte", bytes_of(one(dtype="F4", shape=[7]), ANY4), "does not match the 4 bytes"),
    ("cut short", bytes_of(one(), b"\0" * 3), "truncated within tensor w"),
    ("end of 2^63", bytes_of(one(dtype="U8", shape=[2**62], data_offsets=[0, 2**62])), "truncated"),
    ("bytes behind", bytes_of(one(), ANY4 + b"\0"), "1 bytes after the last tensor"),
    ("bytes without tensor", bytes_of({}, ANY4), "4 bytes after the last tensor"),
    (
        "gap at the front",
        bytes_of(one(data_offsets=[4, 8]), ANY4 * 2),
        "w leaves a gap after the previous one",
    ),
    (
        "gap between",
        bytes_of({"v": F32, "w": {**F32, "data_offsets": [8, 12]}}, ANY4 * 3),
        "w leaves a gap after the previous one",
    ),
    (
        "overlap",
        bytes_of({"v": F32, "w": {**F32, "data_offsets": [2, 6]}}, b"\0" * 6),
        "w overlaps the previous one",
    ),
    ("same place", bytes_of({"v": F32, "w": F32}, ANY4), "w overlaps the previous one"),
    (
        "empty tensor within another",
        bytes_of({"v": F32, "w": {**F32, "shape": [0], "data_offsets": [2, 2]}}, ANY4),
        "w overlaps the previous one",
    ),
]


class TestHeaderRules:
    @pytest.mark.parametrize(
        ("content", "says"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES]
    )
    def test_each_violation_is_named(self, tmp_path: Path, content: bytes, says: str) -> None:
        folder = model(tmp_path / "m", content)
        message = failure(lambda: open_weight_files(folder))
        assert message.startswith(str(folder / "model.safetensors"))
        assert says in message and len(message) < 600

    def test_header_has_a_limit(self, tmp_path: Path) -> None:
        """A sparse file: 100 MB and a byte of header are refused before they are read."""
        folder = model(tmp_path / "m", struct.pack("<Q", 100_000_001) + b"{}")
        os.truncate(folder / "model.safetensors", 200_000_000)
        with peak_memory() as peak:
            assert "(at most 100000000 are allowed)" in failure(lambda: open_weight_files(folder))
        assert peak[0] < 1_000_000

    @pytest.mark.parametrize(
        "header",
        [
            {},
            {"w": F32, "__metadata__": {"format": "pt", "é": "x"}},
            {"w": {**F32, "more": [1]}},  # the library passes over members it does not know
            {"w": {**F32, "shape": []}},
            {"v": {**F32, "shape": [0, 2**62], "data_offsets": [4, 4]}, "w": F32},
            {"w": F32, "v": {**F32, "shape": [0], "data_offsets": [0, 0]}},
            {"w": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}},
            {"": F32},
        ],
    )
    def test_what_is_allowed(self, tmp_path: Path, header: dict[str, Any]) -> None:
        content = bytes_of(header, ANY4 if "w" in header or "" in header else b"")
        tensors = open_weight_files(model(tmp_path / "m", content)).tensors
        library = library_tensors(content)
        assert {name: list(spec.shape) for name, spec in tensors.items()} == {
            name: info["shape"] for name, info in library.items()
        }

    def test_trailing_spaces_are_padding(self, tmp_path: Path) -> None:
        assert not open_weight_files(model(tmp_path / "m", bytes_of(b"{}      "))).tensors

    def test_tensors_come_in_the_order_of_their_bytes(self, tmp_path: Path) -> None:
        header = {
            "z": F32 | {"data_offsets": [4, 8]},
            "a": F32 | {"data_offsets": [8, 12]},
            "m": F32,
        }
        folder = model(tmp_path / "m", bytes_of(header, ANY4 * 3))
        assert list(open_weight_files(folder).tensors) == ["m", "z", "a"]

    def test_every_prefix_is_refused(self, tmp_path: Path) -> None:
        for length in range(len(GOLDEN)):
            folder = model(tmp_path / "m", GOLDEN[:length])
            failure(lambda folder=folder: open_weight_files(folder))  # type: ignore[misc]

    def test_foreign_names_fit_one_line(self, tmp_path: Path) -> None:
        name = "a\nb\x1b[31m" + "x" * 5000
        folder = model(tmp_path / "m", bytes_of({name: {}}))
        message = failure(lambda: open_weight_files(folder))
        assert r"a\nb\x1b[31m" in message and len(message) < 600 and "xxx'..." in message

    def test_a_dtype_of_the_library_is_known(self) -> None:
        """Its own list, from its own complaint about an unknown one."""
        with pytest.raises(safetensors.SafetensorError) as caught:
            library_tensors(bytes_of(one(dtype="X"), ANY4))
        listed = str(caught.value).split("expected one of ")[1].split(" at line")[0]
        assert set(listed.replace("`", "").split(", ")) == set(layout.BITS)


def mutated(rng: random.Random) -> bytes:
    """A file up to two small accidents, and some harmless changes, away from a good one."""
    header = bytearray(GOLDEN_HEADER.strip())
    for old, new in [
        (b",", b" ,\n"),
        (b'"a"', b'"\\u00e9"'),
        (b'"b"', b'""'),
        (b"[1,3]", b"[3,1,1]"),
        (b'"BF16"', b'"I16"'),
        (b'"dtype"', b'"x":[{"y":0.5}],"dtype"'),
        (b'"pt"', b'"np"'),
    ]:
        if rng.random() < 0.3:
            header = header.replace(old, new)
    snippets = [b"0", b"-1", b"9" * 30, b"1.5", b"true", b"null", b'"', b"[", b"]", b"{", b"}"]
    snippets += [b",", b":", b'"a"', b'"F64"', b'"shape"', b"\\u0000", b"\\ud800", b"\xff", b" "]
    for _ in range(rng.randint(0, 2)):
        place = rng.randrange(len(header) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            header[place:place] = rng.choice(snippets)
        elif kind == 1:
            del header[place : place + rng.randint(1, 12)]
        elif kind == 2 and place < len(header):
            header[place] = rng.randrange(256)
        else:
            digits = [i for i, byte in enumerate(header) if chr(byte).isdigit()]
            if digits:
                header[rng.choice(digits)] = rng.choice(b"0123456789")
    length = len(header) if rng.random() < 0.9 else rng.choice([0, 1, len(header) + 1, 2**40])
    data = GOLDEN[8 + len(GOLDEN_HEADER) :] + b"\0" * rng.choice([0, 0, 0, 0, 1, 8])
    return struct.pack("<Q", length) + bytes(header) + data


class TestFuzz:
    def test_mutated_files(self, tmp_path: Path) -> None:
        """An error of ours or success, no other; what we let through, the library does too."""
        rng = random.Random(0)
        passed = 0
        with peak_memory() as peak:
            for _ in range(8000):
                content = mutated(rng)
                folder = model(tmp_path / "m", content)
                try:
                    arrays = read_all(open_weight_files(folder))
                except SalsaError as error:
                    assert "\n" not in str(error), content
                    continue
                passed += 1
                library = library_tensors(content)
                assert {name: array.tobytes() for name, array in arrays.items()} == {
                    name: bytes(info["data"]) for name, info in library.items()
                }
        assert 800 < passed < 8000
        assert peak[0] < 4_000_000

    def test_mutated_indexes(self, tmp_path: Path) -> None:
        """The same for the index of two shards; what it lets through are the tensors of both."""
        rng = random.Random(1)
        arrays: dict[str, tuple[str, Array]] = {
            name: ("U8", np.full(3, value, np.uint8)) for value, name in enumerate(["a", "b"])
        }
        write(tmp_path / "m", arrays, 1)
        index = tmp_path / "m" / "model.safetensors.index.json"
        whole = index.read_bytes()
        snippets = [
            b"0",
            b'"',
            b"{",
            b"}",
            b"[",
            b",",
            b":",
            b"null",
            b"../",
            b"/dev/zero",
            b"\xff",
        ]
        passed = 0
        for _ in range(2000):
            text = bytearray(whole)
            for _ in range(rng.randint(1, 2)):
                place = rng.randrange(len(text))
                if rng.random() < 0.5:
                    text[place:place] = rng.choice(snippets)
                else:
                    del text[place : place + rng.randint(1, 30)]
            index.write_bytes(bytes(text))
            try:
                found = open_weight_files(tmp_path / "m").tensors
            except SalsaError as error:
                assert "\n" not in str(error), bytes(text)
                continue
            passed += 1
            assert sorted(found) == ["a", "b"]
        assert 100 < passed < 2000

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=40), st.booleans())
    def test_any_bytes(
        self, tmp_path_factory: pytest.TempPathFactory, raw: bytes, wrap: bool
    ) -> None:
        folder = model(tmp_path_factory.getbasetemp() / "any", bytes_of(raw) if wrap else raw)
        try:
            open_weight_files(folder)
        except SalsaError:
            return
        library_tensors((folder / "model.safetensors").read_bytes())

    @settings(max_examples=100, deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from(["w", "v", "__metadata__"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner, max_size=4
                    )
                ),
                max_leaves=8,
            ),
            max_size=3,
        )
    )
    def test_any_json(self, tmp_path_factory: pytest.TempPathFactory, header: object) -> None:
        folder = model(tmp_path_factory.getbasetemp() / "any", bytes_of(header))
        try:
            open_weight_files(folder)
        except SalsaError:
            return
        library_tensors((folder / "model.safetensors").read_bytes())
