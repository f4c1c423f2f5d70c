"""Model folders found here or on the hub."""

import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors as hub_errors

from salsa_cli.errors import SalsaError
from salsa_cli.records import read_json, write_json
from salsa_cli.runs import checkpoints
from salsa_cli.weights import folders
from salsa_cli.weights.folders import resolve
from tests.support.adapters import AdapterWorld
from tests.support.files import failure
from tests.support.worlds import World


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A hub that records what is asked and does what `hub["answer"]` says."""
    state: dict[str, Any] = {"asked": []}

    def snapshot_download(name: str, **options: Any) -> str:
        state["asked"].append((name, options))
        if isinstance(state["answer"], BaseException):
            raise state["answer"]
        return str(state["answer"])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    yield state


def http_error(kind: type[Exception]) -> Exception:
    """An error of the hub's client, without the response its constructor asks for."""
    return kind.__new__(kind)


class TestResolve:
    def test_a_folder(self, hub: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "org" / "sft").mkdir(parents=True)
        (tmp_path / "org" / "sft" / "config.json").touch()
        for name in ["org/sft", "org/sft/", "./org/sft", str(tmp_path / "org" / "sft")]:
            assert resolve(name) == Path(name)
        assert hub["asked"] == []

    def test_a_hub_model(self, hub: dict[str, Any], tmp_path: Path) -> None:
        snapshot = tmp_path / "cache" / "snapshot"
        snapshot.mkdir(parents=True)
        for name in ("config.json", "model.safetensors"):
            (snapshot / name).touch()
        hub["answer"] = snapshot
        assert resolve("Qwen/Qwen2.5-0.5B") == snapshot
        ((name, options),) = hub["asked"]
        assert name == "Qwen/Qwen2.5-0.5B"
        assert options["allow_patterns"] == folders._FETCHED
        assert options["ignore_patterns"] == ["*/*.safetensors", "consolidated*"]

    def test_pickles_are_fetched_where_there_is_nothing_else(
        self, hub: dict[str, Any], tmp_path: Path
    ) -> None:
        (tmp_path / "snapshot").mkdir()
        (tmp_path / "snapshot" / "config.json").touch()
        hub["answer"] = tmp_path / "snapshot"
        resolve("org/old")
        patterns = [options["allow_patterns"] for _, options in hub["asked"]]
        assert [pattern for pattern in patterns[1] if pattern not in patterns[0]] == [
            "pytorch_model*.bin",
            "adapter_model.bin",
        ]

    def test_what_is_fetched(self) -> None:
        """By the hub's own filter: no pickles, no weights twice; code is carried, not run."""
        from huggingface_hub.utils._paths import filter_repo_objects

        wanted = [
            "config.json", "model.safetensors", "model-00001-of-00002.safetensors",
            "model.safetensors.index.json", "tokenizer.model", "vocab.txt", "chat_template.jinja",
            "additional_chat_templates/tool_use.jinja", "modeling_x.py", "LICENSE",
        ]  # fmt: skip
        unwanted = [
            "pytorch_model.bin", "consolidated.safetensors",
            "original/model.safetensors", "onnx/model.onnx", "optimizer.pt", "README.md",
        ]  # fmt: skip
        fetched = filter_repo_objects(
            wanted + unwanted,
            allow_patterns=folders._FETCHED,
            ignore_patterns=folders._NOT_FETCHED,
        )
        assert list(fetched) == wanted

    @pytest.mark.parametrize(
        "name",
        ["sft-x", "./sft-x", "../sft-x", "a/b/c", "/gone", "sft/", "org/name\n", "~/x", "-a/b"],
    )
    def test_a_path_is_not_looked_up(self, hub: dict[str, Any], name: str) -> None:
        message = failure(lambda: resolve(name))
        assert ": no such folder; expected a Hugging Face model folder or a hub id" in message
        assert hub["asked"] == []

    def test_a_file_or_nothing(self, hub: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "org").mkdir()
        (tmp_path / "org" / "sft").touch()
        assert failure(lambda: resolve("org/sft")) == (
            "org/sft: is a file; expected a Hugging Face model folder or a hub id like org/name"
        )
        assert ": no such folder" in failure(lambda: resolve(""))
        assert "cannot read it: File name too long" in failure(lambda: resolve("x" * 5000))

    def test_a_folder_without_a_model(self, hub: dict[str, Any], tmp_path: Path) -> None:
        (tmp_path / "sft-x").mkdir()
        for name in ["b.txt", "a.txt"]:
            (tmp_path / "sft-x" / name).touch()
        assert failure(lambda: resolve("sft-x")) == (
            "sft-x: no config.json found; expected a Hugging Face model folder "
            "(found: a.txt, b.txt)"
        )
        (tmp_path / "sft-x" / "adapter_config.json").touch()
        assert "sft-x contains a LoRA adapter; expected a whole model" in failure(
            lambda: resolve("sft-x")
        )

    @pytest.mark.parametrize(
        ("error", "says"),
        [
            (http_error(hub_errors.RepositoryNotFoundError), "no such model on the Hugging Face"),
            (http_error(hub_errors.GatedRepoError), "https://huggingface.co/org/name and log in"),
            (hub_errors.LocalEntryNotFoundError("Got: refused\nMore"), "(Got: refused); pass a"),
            (hub_errors.OfflineModeIsEnabled("offline"), "(offline); pass a local folder"),
            (hub_errors.HFValidationError("bad name"), "(bad name)"),
            (TimeoutError(), "(TimeoutError)"),
            (RuntimeError("\x1b[31mred" + "x" * 5000), r"('\x1b[31mred"),
        ],
    )
    def test_hub_failures(self, hub: dict[str, Any], error: Exception, says: str) -> None:
        hub["answer"] = error
        message = failure(lambda: resolve("org/name"))
        assert message.startswith("org/name: no such folder, and ")
        assert says in message and len(message) < 500

    def test_interruption_is_no_failure(self, hub: dict[str, Any]) -> None:
        hub["answer"] = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            resolve("org/name")

    def test_really_offline(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        message = failure(lambda: resolve("org/name"))
        assert "no such folder, and it could not be downloaded" in message

    def test_without_the_hub_s_client(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        monkeypatch.chdir(tmp_path)
        assert "pip install huggingface_hub" in failure(lambda: resolve("org/name"))


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"rms_norm_eps": 0.5}),
        ("generation_config.json", {"eos_token_id": [0, 1]}),
        ("tokenizer_config.json", {"eos_token": "cat"}),
    ],
)
def test_a_record_tells_what_a_model_computes_and_reads(
    world: World, tmp_path: Path, file: str, changes: dict[str, Any]
) -> None:
    model = Path(shutil.copytree(world.a, tmp_path / "m"))
    before = folders.describe(model)
    edit(model / file, transformers_version="1.2.3", _name_or_path="elsewhere")
    if file != "tokenizer_config.json":  # whose bytes count
        assert folders.describe(model) == before
    edit(model / file, **changes)
    now = folders.describe(model)
    assert now["weights_xxh3"] == before["weights_xxh3"]
    with pytest.raises(SalsaError, match="other inputs: reference was"):
        checkpoints.check_same_inputs(tmp_path, {"reference": [before]}, {"reference": [now]})
    old = {key: value for key, value in before.items() if key != folders.SETTINGS_DIGEST}
    checkpoints.check_same_inputs(tmp_path, {"reference": [old]}, {"reference": [now]})


def test_a_record_tells_the_scale_of_an_adapter(adapted: AdapterWorld, tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(adapted.a, tmp_path / "a"))
    before = folders.describe(adapter)
    edit(adapter / "adapter_config.json", lora_alpha=400)
    assert folders.describe(adapter) != before


def test_a_folder_with_a_model_and_an_adapter_is_refused(
    adapted: AdapterWorld, world: World, tmp_path: Path
) -> None:
    both = Path(shutil.copytree(world.a, tmp_path / "both"))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(adapted.a / name, both / name)
    for look in (folders.resolve, folders.resolve_any):
        assert "both contains both a model and a LoRA adapter" in failure(partial(look, str(both)))
    # The base's configuration alone does not make it a model.
    (both / "model.safetensors").unlink()
    assert folders.resolve_any(str(both)) == both


def edit(path: Path, **changes: Any) -> None:
    write_json(path, {**read_json(path), **changes})
