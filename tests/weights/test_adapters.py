"""Sums of LoRA adapters: against float64 NumPy, against peft where it is installed."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.runs.events import silent
from salsa_cli.weights.adapters import module_of
from tests.support import tiny
from tests.support.adapters import DOWN, PREFIX, SHAPES, K, Q, save_adapter
from tests.support.worlds import World

Floats = npt.NDArray[np.float64]


def configure(output: Path, *models: Path, **changes: Any) -> SoupConfig:
    return SoupConfig(models=tuple(map(str, models)), output=output, **changes)


def update(folder: Path, module: str) -> Floats:
    """s B A of an adapter, from the definition: s = alpha / r, the alpha of a pattern first."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    a = tensors.get(f"{PREFIX}{module}.lora_A.weight")
    if a is None:
        return np.zeros(SHAPES[module])
    b = tensors[f"{PREFIX}{module}.lora_B.weight"].double().numpy()
    short = module.rpartition(".")[2]
    patterns = {key.replace("\\", ""): value for key, value in config["alpha_pattern"].items()}
    alpha = patterns.get(short, patterns.get(module, config["lora_alpha"]))
    root = config.get("use_rslora", False)
    scale = alpha / (a.shape[0] ** 0.5 if root else a.shape[0])
    return np.asarray(scale * b @ a.double().numpy())


@pytest.fixture
def pair(world: World, tmp_path: Path) -> tuple[Path, Path]:
    """Different ranks, a rank and an alpha pattern, and a module that only one of them has."""
    return (
        save_adapter(tmp_path / "a", world.a, {Q: 3, DOWN: 2}, seed=1),
        save_adapter(tmp_path / "b", world.a, {Q: 4, K: 1}, seed=2, alpha_pattern={"q_proj": 5.0}),
    )


def expected(folders: Sequence[Path], weights: Sequence[float], module: str) -> Floats:
    found = [weight * update(one, module) for one, weight in zip(folders, weights, strict=True)]
    return np.asarray(sum(found))


@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.5, 0.5), (1.0, 0.0)])
def test_the_soup_is_the_sum_of_the_updates(
    pair: tuple[Path, Path], tmp_path: Path, weights: tuple[float, float]
) -> None:
    soup.run(configure(tmp_path / "ref", *pair, weights=weights, verify=True), silent)
    for module in SHAPES:
        want = expected(pair, weights, module)
        # One factor is rounded to float32 after its scale has been taken into it.
        assert np.allclose(update(tmp_path / "ref", module), want, rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "ref" / "adapter_config.json").read_text())
    ranks = {
        name: tensor.shape[0]
        for name, tensor in load_file(tmp_path / "ref" / "adapter_model.safetensors").items()
        if "lora_A" in name
    }
    assert ranks[f"{PREFIX}{Q}.lora_A.weight"] == (7 if weights[1] else 3)
    assert config["r"] in ranks.values() and not config["use_rslora"]


def test_averaging_the_factors_is_wrong(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The mean of the Bs times the mean of the As has cross terms: not the mean of the updates."""
    a, _ = pair
    b = save_adapter(tmp_path / "same-rank", tmp_path, {Q: 3, DOWN: 2}, seed=5)
    factors = [load_file(one / "adapter_model.safetensors") for one in (a, b)]
    mean = {name: (factors[0][name] + factors[1][name]) / 2 for name in factors[0]}
    naive = 2.0 * mean[f"{PREFIX}{Q}.lora_B.weight"] @ mean[f"{PREFIX}{Q}.lora_A.weight"]
    right = expected((a, b), (0.5, 0.5), Q)
    assert np.linalg.norm(naive.numpy() - right) > 0.3 * np.linalg.norm(right)


def test_rank_stabilised_scales_are_respected(world: World, tmp_path: Path) -> None:
    a = save_adapter(tmp_path / "a", world.a, {Q: 4}, seed=1, use_rslora=True)
    b = save_adapter(tmp_path / "b", world.a, {Q: 4}, seed=2)
    soup.run(configure(tmp_path / "ref", a, b, alpha=0.25), silent)
    want = expected((a, b), (0.75, 0.25), Q)
    assert np.allclose(update(tmp_path / "ref", Q), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merging_adds_the_updates_to_the_base_and_rounds_once(
    world: World, pair: tuple[Path, Path], tmp_path: Path, dtype: str
) -> None:
    config = configure(
        tmp_path / "ref", *pair, weights=(0.7, 0.3), merge_into=str(world.a), dtype=dtype
    )
    soup.run(config, silent)
    found = load_file(tmp_path / "ref" / "model.safetensors")
    base = load_file(world.a / "model.safetensors")
    assert found.keys() == base.keys()
    for name, tensor in base.items():
        module = name.removesuffix(".weight")
        want = tensor.double().numpy()
        if module in SHAPES:
            want = want + expected(pair, (0.7, 0.3), module)
        rounded = torch.from_numpy(np.asarray(want)).to(getattr(torch, dtype))
        # Another order of the sum may move a value to the other side of a tie, by one unit.
        unit = 2.0**-23 if dtype == "float32" else 2.0**-8
        assert found[name].dtype == rounded.dtype
        assert torch.allclose(found[name].double(), rounded.double(), rtol=unit, atol=1e-12), name
        if module not in SHAPES:
            assert torch.equal(found[name], tensor.to(rounded.dtype))
    made = json.loads((tmp_path / "ref" / "soup.json").read_text())
    assert made["inputs"]["base"]["path"] == str(world.a)


def test_what_was_trained_as_a_whole_is_averaged(world: World, tmp_path: Path) -> None:
    name = f"{PREFIX}model.norm.weight"
    one = save_adapter(tmp_path / "a", world.a, {Q: 1}, seed=1, extra={name: torch.ones(16)})
    two = save_adapter(tmp_path / "b", world.a, {Q: 1}, seed=2, extra={name: torch.zeros(16)})
    soup.run(configure(tmp_path / "ref", one, two, alpha=0.25), silent)
    found = load_file(tmp_path / "ref" / "adapter_model.safetensors")
    assert found[name].tolist() == [0.75] * 16
    soup.run(configure(tmp_path / "full", one, two, alpha=0.25, merge_into=str(world.a)), silent)
    assert (
        load_file(tmp_path / "full" / "model.safetensors")["model.norm.weight"].tolist()
        == [0.75] * 16
    )
    other = save_adapter(tmp_path / "c", world.a, {Q: 1}, seed=3)
    with pytest.raises(SalsaError, match=r"model\.norm\.weight: only in"):
        soup.run(configure(tmp_path / "no", one, other), silent)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; expected 'LORA'"),
        ({"init_lora_weights": "pissa_niter_4"}, "changes the base model too"),
        ({"r": 9}, "has rank 3, but adapter_config.json says r = 9"),
        ({"base_model_name_or_path": "other/base"}, "base_model_name_or_path: "),
        ({"bias": "all"}, "adapter_config.json bias: 'none' in"),
    ],
)
def test_what_does_not_add_up_is_refused(
    world: World, pair: tuple[Path, Path], tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    path = pair[0] / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(SalsaError) as caught:
        soup.run(configure(tmp_path / "ref", pair[1], pair[0]), silent)
    assert says in str(caught.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("extra", ["lora_magnitude_vector", "lora_B.bias", "lora_new.mine.weight"])
def test_tensors_of_a_variant_are_refused_by_their_names(
    world: World, tmp_path: Path, extra: str
) -> None:
    """A configuration that lost `use_dora` is no plain LoRA."""
    folder = save_adapter(tmp_path / "a", world.a, {Q: 2}, seed=1)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors[f"{PREFIX}{Q}.{extra}"] = torch.ones(16)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(SalsaError, match="belongs to a LoRA variant"):
        soup.run(configure(tmp_path / "ref", folder, folder), silent)


@pytest.mark.parametrize("name", ["mine", "my-adapter", "v1.2"])
def test_factors_under_an_adapters_name(world: World, tmp_path: Path, name: str) -> None:
    folder = save_adapter(tmp_path / "a", world.a, {Q: 2}, seed=1)
    named = Path(shutil.copytree(folder, tmp_path / "named"))
    tensors = load_file(folder / "adapter_model.safetensors")
    renamed = {key.replace(".weight", f".{name}.weight"): one for key, one in tensors.items()}
    save_file(renamed, named / "adapter_model.safetensors", {"format": "pt"})
    for number, pair in enumerate([(folder, folder), (named, folder)]):
        soup.run(configure(tmp_path / str(number), *pair, alpha=0.3), silent)
    one, two = (load_file(tmp_path / n / "adapter_model.safetensors") for n in "01")
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("alpha", [None, "8", float("nan"), 10**400])
def test_an_alpha_that_is_no_number_is_named(world: World, tmp_path: Path, alpha: object) -> None:
    folder = save_adapter(tmp_path / "a", world.a, {Q: 2}, seed=1)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": alpha}))
    with pytest.raises(SalsaError, match="lora_alpha = ") as caught:
        soup.run(configure(tmp_path / "ref", folder, folder), silent)
    assert len(str(caught.value)) < 1000


def test_models_and_adapters_do_not_mix(
    world: World, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="models and LoRA adapters cannot be averaged"):
        soup.run(configure(tmp_path / "ref", world.a, pair[0]), silent)
    with pytest.raises(UsageError, match="--merge-into applies to LoRA adapters"):
        soup.run(configure(tmp_path / "ref", world.a, world.b, merge_into=str(world.a)), silent)
    narrow = tiny.save_language_model(tmp_path / "narrow", seed=1, hidden_size=8)
    with pytest.raises(SalsaError, match="do not fit F32"):
        soup.run(configure(tmp_path / "ref", *pair, merge_into=str(narrow)), silent)
    shallow = tiny.save_language_model(tmp_path / "shallow", seed=1, num_hidden_layers=1)
    with pytest.raises(SalsaError, match=r"layers\.1\.mlp\.down_proj is not a module of"):
        soup.run(configure(tmp_path / "ref", *pair, merge_into=str(shallow)), silent)


def test_modules_are_found_under_the_names_of_the_base() -> None:
    factors = [f"{PREFIX}transformer.h.0.attn.c_attn", f"{PREFIX}transformer.wte"]
    assert module_of("transformer.h.0.attn.c_attn.weight", factors) == factors[0]
    assert module_of("h.0.attn.c_attn.weight", factors) == factors[0]
    assert module_of("h.1.attn.c_attn.weight", factors) is None
    assert module_of("attn.c_attn.weight", factors) is None


def test_peft_reads_the_soup_and_computes_the_same(world: World, tmp_path: Path) -> None:
    """Embeddings, patterns and other targets included; made, loaded and merged by peft itself."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from transformers import AutoModelForCausalLM

    folders = []
    for seed, targets in ((1, ["q_proj", "embed_tokens"]), (2, ["q_proj", "down_proj"])):
        torch.manual_seed(seed)
        config = peft.LoraConfig(
            r=2 + seed,
            target_modules=targets,
            lora_alpha=3,
            rank_pattern={"down_proj": 1},
            task_type="CAUSAL_LM",
        )
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(world.a), config)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        folders.append(tmp_path / f"peft-{seed}")
        model.save_pretrained(folders[-1])
        shutil.copy(world.a / "tokenizer.json", folders[-1])
    soup.run(configure(tmp_path / "ref", *folders, alpha=0.3), silent)
    soup.run(configure(tmp_path / "full", *folders, alpha=0.3, merge_into=str(world.a)), silent)
    base = AutoModelForCausalLM.from_pretrained(world.a)
    by_peft = peft.PeftModel.from_pretrained(base, tmp_path / "ref")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    ids = torch.tensor([[4, 6, 9, 11, 5]])
    logits = ours(ids).logits
    # Two ways of computing in float32: merged, and beside the base.
    assert torch.allclose(by_peft(ids).logits, logits, rtol=1e-4, atol=1e-4)
    merged = [
        peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(world.a), one)
        .merge_and_unload()
        .state_dict()
        for one in folders
    ]
    for name, tensor in ours.state_dict().items():
        want = 0.7 * merged[0][name].double() + 0.3 * merged[1][name].double()
        # peft merges in float32, which leaves an error of a few units in the last place.
        assert torch.allclose(tensor.double(), want, rtol=1e-5, atol=1e-6), name
