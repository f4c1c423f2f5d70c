"""The story of `soup`: exact values, an ordinary folder, refusals that list everything."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError
from salsa_cli.runs import run_folder
from salsa_cli.runs.events import Event, Warned, silent
from tests.support import tiny
from tests.support.worlds import World

Tensors = dict[str, torch.Tensor]


def configure(output: Path, *models: Path, **changes: Any) -> SoupConfig:
    return SoupConfig(models=tuple(map(str, models)), output=output, **changes)


def run(config: SoupConfig) -> soup.SoupResult:
    result = soup.run(config, silent)
    assert isinstance(result, soup.SoupResult)
    return result


def oracle(models: Sequence[Tensors], weights: Sequence[float]) -> Tensors:
    """The float64 average, rounded once: exact for float32 and float16; bfloat16 see averaging."""
    found = {}
    for name, first in models[0].items():
        total = sum(w * m[name].double().numpy() for w, m in zip(weights, models, strict=True))
        dtype = {torch.float32: np.float32, torch.float16: np.float16}[first.dtype]
        found[name] = torch.from_numpy(np.asarray(total).astype(dtype))
    return found


def save_as(folder: Path, source: Path, dtype: torch.dtype) -> Path:
    AutoModelForCausalLM.from_pretrained(source, dtype=dtype).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1 / 3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_value_is_the_float64_average_rounded_once(
    world: World, tmp_path: Path, alpha: float, dtype: torch.dtype
) -> None:
    a, b = (save_as(tmp_path / n, s, dtype) for n, s in (("a", world.a), ("b", world.b)))
    run(configure(tmp_path / "ref", a, b, alpha=alpha))
    inputs = [load_file(folder / "model.safetensors") for folder in (a, b)]
    expected = oracle(inputs, (1 - alpha, alpha))
    assert_same(load_file(tmp_path / "ref" / "model.safetensors"), expected)


def nearest(value: Fraction, dtype: str) -> float:
    """The nearest number of a type, ties to an even last bit, by exact arithmetic."""
    digits, smallest = {"BF16": (8, -133), "F16": (11, -24), "F32": (24, -149)}[dtype]
    if not value:
        return 0.0
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > size
    unit = Fraction(2) ** max(exponent + 1 - digits, smallest)
    return float(round(value / unit) * unit)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32", "F64"])
@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.5, 0.5), (1.0, 0.0), (0.2,) * 5])
def test_sizes_types_and_numbers_of_models(
    world: World, tmp_path: Path, dtype: str, weights: tuple[float, ...]
) -> None:
    """Odd, single and empty tensors, subnormal values among them, against exact arithmetic."""
    kind = {
        "BF16": torch.bfloat16,
        "F16": torch.float16,
        "F32": torch.float32,
        "F64": torch.float64,
    }[dtype]
    generator = torch.Generator().manual_seed(len(weights))
    models = []
    for number in range(len(weights)):
        folder = Path(shutil.copytree(world.a, tmp_path / f"m{number}"))
        values = torch.randn(67, generator=generator, dtype=torch.float64)
        values[::5] *= 2.0**-130
        tensors = {
            "odd": values.to(kind).clone(),
            "one": values[:1].to(kind).clone(),
            "scalar": values[1].to(kind).clone(),
            "empty": torch.zeros(0, 3, dtype=kind),
        }
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        models.append((folder, tensors))
    run(configure(tmp_path / "ref", *(folder for folder, _ in models), weights=weights))
    found = load_file(tmp_path / "ref" / "model.safetensors")
    for name, result in found.items():
        columns = [tensors[name].double().flatten().tolist() for _, tensors in models]
        for got, *values in zip(result.double().flatten().tolist(), *columns, strict=True):
            total = weights[0] * values[0]
            for weight, value in zip(weights[1:], values[1:], strict=True):
                total += weight * value  # Python's floats are float64
            assert got == (total if dtype == "F64" else nearest(Fraction(total), dtype)), name
    assert found["empty"].shape == (0, 3)


def test_pieces_shards_and_layouts_do_not_change_the_values(world: World, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(world.b).save_pretrained(sharded, max_shard_size="8KB")
    tiny.tokenizer().save_pretrained(sharded)
    assert len(list(sharded.glob("*.safetensors"))) > 1
    whole = configure(tmp_path / "whole", world.a, world.b, alpha=0.3)
    run(whole)
    # Three columns of the embedding a piece, a few tensors a file: far below what --memory allows.
    parts = configure(tmp_path / "parts", world.a, sharded, alpha=0.3)
    object.__setattr__(parts, "memory", 3 * 8 * 50)
    object.__setattr__(parts, "max_shard_size", 5000)
    run(parts)
    found: Tensors = {}
    for file in sorted((tmp_path / "parts").glob("*.safetensors")):
        found |= load_file(file)
    assert_same(found, load_file(tmp_path / "whole" / "model.safetensors"))
    AutoModelForCausalLM.from_pretrained(tmp_path / "parts")


def test_the_ends_of_the_line_and_equal_inputs_give_the_same_bytes(
    world: World, tmp_path: Path
) -> None:
    original = load_file(world.a / "model.safetensors")
    for name, models, alpha in (
        ("zero", (world.a, world.b), 0.0),
        ("one", (world.b, world.a), 1.0),
        ("equal", (world.a, world.a), 0.3),
    ):
        run(configure(tmp_path / name, *models, alpha=alpha))
        assert_same(load_file(tmp_path / name / "model.safetensors"), original)


def test_the_result_is_an_ordinary_folder(world: World, tmp_path: Path) -> None:
    config = configure(tmp_path / "ref", world.a, world.b, world.a, weights=(0.5, 0.25, 0.25))
    result = run(replace(config, verify=True))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ref")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ref")
    inputs = tokenizer("the cat", return_tensors="pt")
    assert model.generate(inputs.input_ids, max_new_tokens=3).shape[1] > 2
    assert result.parameters == sum(p.numel() for p in model.parameters())
    assert result.weights == (0.5, 0.25, 0.25)
    made = json.loads((tmp_path / "ref" / "soup.json").read_text())
    assert [one["weight"] for one in made["ingredients"]] == [0.5, 0.25, 0.25]
    assert made["ingredients"][0]["model"] == str(world.a)
    card = (tmp_path / "ref" / "README.md").read_text()
    assert "base_model" not in card and "- merge\n- salsa\n" in card  # folders are no hub ids
    assert f"| {world.a.name} | 0.5 |" in card and str(tmp_path) not in card
    assert not list(tmp_path.glob("*.partial"))


def test_logits_equal_those_of_an_average_made_in_memory(world: World, tmp_path: Path) -> None:
    run(configure(tmp_path / "ref", world.a, world.b, alpha=0.5))
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ref")
    theirs = AutoModelForCausalLM.from_pretrained(world.a)
    other = AutoModelForCausalLM.from_pretrained(world.b).state_dict()
    theirs.load_state_dict({k: (v + other[k]) / 2 for k, v in theirs.state_dict().items()})
    ids = torch.tensor([[4, 6, 9, 11]])
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_reward_models_can_be_averaged(world: World, tmp_path: Path) -> None:
    other = tiny.save_reward_model(tmp_path / "other", seed=8)
    run(configure(tmp_path / "mean", world.rm, other))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "mean")
    heads = [load_file(f / "model.safetensors")["score.weight"] for f in (world.rm, other)]
    assert torch.equal(model.score.weight.detach(), (heads[0] + heads[1]) / 2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_type_of_the_result_can_be_chosen(world: World, tmp_path: Path, dtype: str) -> None:
    run(configure(tmp_path / "ref", world.a, world.b, dtype=dtype))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ref")
    assert model.dtype == getattr(torch, dtype)


def test_all_differences_are_listed_at_once(world: World, tmp_path: Path) -> None:
    other = tiny.save_language_model(
        tmp_path / "other", seed=3, hidden_size=24, num_hidden_layers=1
    )
    tiny.tokenizer(words=[*tiny.WORDS[:-1], "snow"], bos_token="<unk>").save_pretrained(other)
    with pytest.raises(SalsaError) as caught:
        soup.run(configure(tmp_path / "ref", world.a, other), silent)
    message = str(caught.value)
    for words in (
        "these models cannot be averaged; expected fine-tuned models of the same base:",
        "config.json hidden_size: 16 in",
        "config.json num_hidden_layers: 2 in",
        "for example 'rain' is 23 and absent",
        "bos_token: '<s>' in",
        "model.embed_tokens.weight: [24, 16] in",
        "model.layers.1.",
    ):
        assert words in message
    assert list(tmp_path.iterdir()) == [other]


def test_a_chat_template_of_its_own_is_worth_a_warning(world: World, tmp_path: Path) -> None:
    other = Path(shutil.copytree(world.b, tmp_path / "other"))
    (other / "chat_template.jinja").write_text("{{ messages }}")
    warnings: list[Event] = []
    soup.run(
        configure(tmp_path / "ref", world.a, other),
        lambda event: warnings.append(event) if isinstance(event, Warned) else None,
    )
    assert warnings == [
        Warned(
            f"the chat templates of {world.a} and {other} differ; the soup uses that of {world.a}"
        )
    ]
    assert not (tmp_path / "ref" / "chat_template.jinja").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_named(world: World, tmp_path: Path, bad: float) -> None:
    other = Path(shutil.copytree(world.b, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][3] = bad
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        SalsaError,
        match=(
            r"model\.norm\.weight of .*other contains 1 NaN or Inf "
            r"values"
        ),
    ):
        soup.run(configure(tmp_path / "ref", world.a, other), silent)
    assert list(tmp_path.iterdir()) == [other]
    run(configure(tmp_path / "ref", world.a, other, allow_nonfinite=True))
    found = load_file(tmp_path / "ref" / "model.safetensors")["model.norm.weight"]
    assert torch.isfinite(found).tolist() == [i != 3 for i in range(16)]


def test_a_number_that_is_none_is_named_even_without_weight(world: World, tmp_path: Path) -> None:
    other = Path(shutil.copytree(world.b, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        SalsaError,
        match=(
            r"model\.norm\.weight of .*other contains 1 NaN or Inf "
            r"values"
        ),
    ):
        soup.run(configure(tmp_path / "ref", world.a, other, alpha=0.0), silent)


def test_integers_must_agree(world: World, tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(world.a, tmp_path / name)) for name in ("x", "y", "z")]
    for folder, count in zip(folders, (3, 3, 4), strict=True):
        tensors = load_file(folder / "model.safetensors")
        tensors["steps"] = torch.tensor([1, 2, count])
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    run(configure(tmp_path / "ref", folders[0], folders[1]))
    assert load_file(tmp_path / "ref" / "model.safetensors")["steps"].tolist() == [1, 2, 3]
    with pytest.raises(
        SalsaError, match="steps is of type I64, which is not averaged, and differs"
    ):
        soup.run(configure(tmp_path / "no", folders[0], folders[2]), silent)


def test_a_disk_that_is_too_small_is_found_first(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soup.folders, "free_space", lambda path: 1000)
    with pytest.raises(SalsaError, match=r"needs \d+\.?\d*kB and its disk has 1kB free"):
        soup.run(configure(tmp_path / "ref", world.a, world.b), silent)


def test_what_was_stored_wrongly_is_found(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights = soup.write_weights

    def unreliable(plan: soup.SoupPlan, config: SoupConfig, folder: Path, *rest: Any) -> Any:
        files = write_weights(plan, config, folder, *rest)
        path = folder / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        return files

    monkeypatch.setattr(soup, "write_weights", unreliable)
    with pytest.raises(SalsaError, match="differs on disk from what was computed"):
        soup.run(configure(tmp_path / "ref", world.a, world.b, verify=True), silent)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_and_writes_nothing(world: World, tmp_path: Path) -> None:
    config = configure(tmp_path / "ref", world.a, world.b, dry_run=True)
    record = soup.run(config, silent).record()
    assert record["tensors"] == 21
    assert record["bytes_to_read"] == 2 * record["bytes_to_write"]  # type: ignore[operator]
    assert list(tmp_path.iterdir()) == []


def test_nothing_loads_before_all_is_written(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill leaves the draft as it is; it must not look like a model."""

    def killed(folder: Path, output: Path) -> None:
        saved = tmp_path / "as-it-was-when-killed"
        shutil.copytree(folder, saved)
        (saved / "config.json").unlink()  # written last of all
        with pytest.raises((OSError, ValueError)):
            AutoModelForCausalLM.from_pretrained(saved)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder, "publish", killed)
    with pytest.raises(KeyboardInterrupt):
        soup.run(configure(tmp_path / "ref", world.a, world.b), silent)
