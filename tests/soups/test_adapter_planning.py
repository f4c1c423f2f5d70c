"""Adapters whose configurations say one thing in different words, and files of other tools."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.runs.events import Event, Warned, silent
from tests.support.adapters import K, Q, save_adapter
from tests.support.worlds import World


def configure(output: Path, *models: Path, **changes: Any) -> SoupConfig:
    return SoupConfig(models=tuple(map(str, models)), output=output, **changes)


def edit(folder: Path, **changes: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.fixture
def pair(world: World, tmp_path: Path) -> tuple[Path, Path]:
    return (
        save_adapter(tmp_path / "a", world.a, {Q: 3}, seed=1),
        save_adapter(tmp_path / "b", world.a, {Q: 2, K: 1}, seed=2),
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda base: {"base_model_name_or_path": f"{base}/"},
        lambda base: {"base_model_name_or_path": str(base.parent / "." / base.name)},
        lambda base: {"revision": "main"},
        lambda base: {"revision": None},
        lambda base: {"task_type": None},
        lambda base: {"fan_in_fan_out": None},
    ],
)
def test_one_base_in_other_words(
    world: World, pair: tuple[Path, Path], tmp_path: Path, change: Any
) -> None:
    a, b = pair
    soup.run(configure(tmp_path / "plain", a, b), silent)
    soup.run(configure(tmp_path / "ref", edit(a, **change(world.a)), b), silent)
    ours, theirs = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("plain", "ref")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    told = json.loads((tmp_path / "ref" / "adapter_config.json").read_text())
    assert told["task_type"] == "CAUSAL_LM"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"base_model_name_or_path": "org/x-bnb-4bit"}, "--base BASE, or --merge-into BASE"),
        ({"revision": "v2"}, "revision v2"),
        ({"task_type": "SEQ_CLS"}, "task_type: 'CAUSAL_LM' in"),
    ],
)
def test_another_base_is_refused(
    pair: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(SalsaError, match=says):
        soup.run(configure(tmp_path / "ref", pair[0], edit(pair[1], **changes)), silent)


@pytest.mark.parametrize("option", ["base", "merge_into"])
def test_the_user_knows_that_it_is_one_base(
    world: World, pair: tuple[Path, Path], tmp_path: Path, option: str
) -> None:
    edit(pair[1], base_model_name_or_path="org/x-bnb-4bit")
    warnings: list[Event] = []
    config = configure(tmp_path / "ref", *pair, **{option: str(world.a)})
    soup.run(config, lambda event: warnings.append(event) if isinstance(event, Warned) else None)
    (warning,) = warnings
    assert isinstance(warning, Warned) and "org/x-bnb-4bit as their base; they are" in warning.text
    if option == "base":
        told = json.loads((tmp_path / "ref" / "adapter_config.json").read_text())
        assert told["base_model_name_or_path"] == str(world.a)
        assert f"--base {world.a.name}" in (tmp_path / "ref" / "README.md").read_text()


def test_base_is_for_adapters_and_once(
    world: World, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--base applies to LoRA adapters"):
        soup.run(configure(tmp_path / "ref", world.a, world.b, base="x/y"), silent)
    with pytest.raises(UsageError, match="remove --base"):
        soup.run(configure(tmp_path / "ref", *pair, base="x/y", merge_into="x/y"), silent)


def test_a_configuration_of_the_base_beside_the_adapter(
    world: World, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copyfile(world.a / "config.json", pair[0] / "config.json")
    soup.run(configure(tmp_path / "ref", *pair), silent)
    assert (tmp_path / "ref" / "adapter_model.safetensors").is_file()


def test_names_of_a_state_in_memory(pair: tuple[Path, Path], tmp_path: Path) -> None:
    soup.run(configure(tmp_path / "plain", *pair), silent)
    path = pair[0] / "adapter_model.safetensors"
    renamed = {
        name.replace(".weight", ".default.weight"): value for name, value in load_file(path).items()
    }
    save_file(renamed, path, {"format": "pt"})
    soup.run(configure(tmp_path / "ref", *pair), silent)
    ours, theirs = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("plain", "ref")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    twice = {name.replace("default", "other"): value.clone() for name, value in renamed.items()}
    save_file(renamed | twice, path, {"format": "pt"})
    with pytest.raises(SalsaError, match="several factors lora_A; expected the weights of one"):
        soup.run(configure(tmp_path / "no", *pair), silent)


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_a_bad_pattern_is_named(pair: tuple[Path, Path], tmp_path: Path, key: str) -> None:
    edit(pair[1], **{key: {"q_proj(": 2}})
    with pytest.raises(SalsaError, match=r"b: adapter_config.json contains the pattern 'q_proj\('"):
        soup.run(configure(tmp_path / "ref", *pair), silent)


def test_one_adapter_is_merged_by_itself(
    world: World, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """What a probe of adapters advises; two copies of one adapter are that adapter."""
    for name, models in (("one", pair[:1]), ("two", (pair[0], pair[0]))):
        soup.run(configure(tmp_path / name, *models, merge_into=str(world.a)), silent)
    ours, theirs = (load_file(tmp_path / one / "model.safetensors") for one in ("one", "two"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    base = load_file(world.a / "model.safetensors")
    assert {name for name in base if not torch.equal(base[name], ours[name])} == {f"{Q}.weight"}
    factors = load_file(pair[0] / "adapter_model.safetensors")
    left, right = (factors[f"base_model.model.{Q}.lora_{one}.weight"].double() for one in "BA")
    expected = base[f"{Q}.weight"].double() + 2 * left @ right
    assert torch.equal(ours[f"{Q}.weight"], expected.to(ours[f"{Q}.weight"].dtype))
    with pytest.raises(UsageError, match=r"needs two or more models; found 1 \(--merge-into BASE"):
        configure(tmp_path / "none", pair[0])
