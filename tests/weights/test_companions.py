"""Which files of a model folder go into a model made from it."""

import json
import os
from pathlib import Path

import pytest

from salsa_cli.errors import StorageError
from salsa_cli.weights import companions as companion_files
from salsa_cli.weights.companions import (
    companions,
    copy_file,
    modules_left_out,
    with_tokenizer,
)


def folder(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(f"{path.name}: {name}")
    return path


CARRIED = (
    "additional_chat_templates/tool.jinja",
    "generation_config.json",
    "modeling_x.py",
    "preprocessor_config.json",
    "spk/voice.npy",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
)
LEFT_OUT = (
    "consolidated.00.pth",
    "flax_model.msgpack",
    "model.gguf",
    "optimizer.pt",
    "pytorch_model.bin",
    "salsa.json",
    "trainer_state.json",
)


def test_everything_but_weights_and_records(tmp_path: Path) -> None:
    source = folder(tmp_path / "a", *CARRIED, *LEFT_OUT, "onnx/model.onnx", "onnx/config.json")
    folder(source, "config.json", "model.safetensors", "checkpoint-5/model.safetensors")
    found = companions(source, ("config.json", "model.safetensors"))
    assert found.carried == CARRIED
    assert sorted(found.left_out) == sorted((*LEFT_OUT, "checkpoint-5/", "onnx/"))
    found.copy(tmp_path / "b")
    assert all((tmp_path / "b" / n).read_text() == f"a: {n}" for n in CARRIED)
    assert found.nbytes == sum((source / name).stat().st_size for name in CARRIED)


def test_the_tokenizer_of_another_folder(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", "tokenizer.json", "vocab.json", "modeling_x.py", "image.json")
    b = folder(tmp_path / "b", "tokenizer.json", "tokenization_x.py", "other.json", "more.py")
    (b / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", null]}}'
    )
    ours, theirs = with_tokenizer(companions(a, ()), b)
    assert ours.carried == ("image.json", "modeling_x.py")
    assert theirs.carried == ("tokenization_x.py", "tokenizer.json", "tokenizer_config.json")
    assert with_tokenizer(companions(a, ()), a) == (companions(a, ()),)


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path / "a", "x.json") / "x.json"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(companion_files.shutil, "copyfileobj", full)
    with pytest.raises(StorageError, match=r"b/x\.json: the disk is full; free some space"):
        copy_file(source, tmp_path / "b" / "x.json")


def test_links_to_folders_are_left_out_and_links_to_files_are_carried(tmp_path: Path) -> None:
    elsewhere = folder(tmp_path / "data", "rows.txt")
    a = folder(tmp_path / "a", "x.json")
    (a / "data").symlink_to(elsewhere)
    (a / "loop").symlink_to(a)
    (a / "linked.txt").symlink_to(elsewhere / "rows.txt")
    (a / "gone.txt").symlink_to(tmp_path / "nowhere")
    found = companions(a, ())
    assert found.carried == ("linked.txt", "x.json")
    assert found.left_out == ("data/", "gone.txt", "loop/")
    found.copy(tmp_path / "b")
    assert not (tmp_path / "b" / "linked.txt").is_symlink()


def test_names_that_are_no_utf8_are_carried_and_can_be_recorded(tmp_path: Path) -> None:
    folder(tmp_path / "a", "x.json")
    for name in (b"\xff.txt", b"\xff.bin"):
        (tmp_path / "a" / os.fsdecode(name)).write_text("x")
    found = companions(tmp_path / "a", ())
    assert found.left_out == ("\\udcff.bin",) and "\\".join(found.left_out).encode()
    found.copy(tmp_path / "b")
    assert (tmp_path / "b" / os.fsdecode(b"\xff.txt")).read_text() == "x"


def test_a_module_with_weights_that_is_left_out_is_known(tmp_path: Path) -> None:
    """As sentence-transformers lays out a model with a pooling and a projection."""
    for name in ("1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]
    assert modules_left_out(companions(tmp_path, ())) == ()
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert modules_left_out(companions(tmp_path, ())) == ("2_Dense",)
    (tmp_path / "modules.json").write_text("{")
    assert modules_left_out(companions(tmp_path, ())) == ()
