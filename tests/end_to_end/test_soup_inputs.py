"""What a soup can be made of: other files, other types, and what only some models store."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError
from salsa_cli.runs.events import Event, Note, silent
from tests.support import tiny
from tests.support.worlds import World

Tensors = dict[str, torch.Tensor]


def configure(output: Path, *models: Path, **changes: Any) -> SoupConfig:
    return SoupConfig(models=tuple(map(str, models)), output=output, **changes)


def copies(source: Path, folder: Path, **tensors: list[torch.Tensor]) -> list[Path]:
    """Copies of a model, each with its own value of some more tensors."""
    count = len(next(iter(tensors.values())))
    found = [Path(shutil.copytree(source, folder / f"m{number}")) for number in range(count)]
    for number, path in enumerate(found):
        stored = load_file(path / "model.safetensors")
        stored |= {name: values[number] for name, values in tensors.items()}
        save_file(stored, path / "model.safetensors", {"format": "pt"})
    return found


def souped(output: Path) -> Tensors:
    return load_file(output / "model.safetensors")


def test_pytorch_files_give_the_same_soup(world: World, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(world.b, pickled)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    for name, second in (("plain", world.b), ("mixed", pickled)):
        soup.run(configure(tmp_path / name, world.a, second, alpha=0.3), silent)
    first, second = (souped(tmp_path / name) for name in ("plain", "mixed"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    digests = [
        json.loads((tmp_path / name / "soup.json").read_text())["ingredients"][1]["weights_xxh3"]
        for name in ("plain", "mixed")
    ]
    assert digests[0] == digests[1]


def test_a_tied_embedding_may_be_stored_in_one_model_only(tmp_path: Path) -> None:
    a, b = (
        tiny.save_language_model(tmp_path / name, seed=s, tie_word_embeddings=True)
        for name, s in (("a", 1), ("b", 2))
    )
    tensors = load_file(b / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, b / "model.safetensors", {"format": "pt"})
    notes: list[Event] = []
    soup.run(configure(tmp_path / "ref", a, b), notes.append)
    assert "lm_head.weight" not in souped(tmp_path / "ref")
    texts = [event.text for event in notes if isinstance(event, Note)]
    assert any(
        "lm_head.weight is left out: it equals model.embed_tokens.weight" in t for t in texts
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ref")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tensors["lm_head.weight"][0, 0] += 1
    save_file(tensors, b / "model.safetensors", {"format": "pt"})
    with pytest.raises(SalsaError, match=r"lm_head\.weight of .*b differs from"):
        soup.run(configure(tmp_path / "no", a, b), silent)


def test_buffers_of_old_versions_are_left_out(world: World, tmp_path: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    (old,) = copies(world.b, tmp_path, **{name: [torch.ones(4)]})
    notes: list[Event] = []
    soup.run(configure(tmp_path / "ref", old, world.a), notes.append)
    assert name not in souped(tmp_path / "ref")
    assert Note(f"{name} is left out: only some of the models store it, and none needs it") in notes
    soup.run(configure(tmp_path / "both", old, old), silent)
    assert name in souped(tmp_path / "both")


def test_extra_tensors_are_listed(world: World, tmp_path: Path) -> None:
    (more,) = copies(world.b, tmp_path, extra=[torch.ones(4)], other=[torch.ones(1)])
    with pytest.raises(SalsaError) as caught:
        soup.run(configure(tmp_path / "ref", world.a, more), silent)
    assert f"extra: only in {more}/" in str(caught.value)
    assert f"other: only in {more}/" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "mixing", "mean"),
    [
        (([1, 2, 3], [2, 3, 5]), (0.5, 0.5), [2, 2, 4]),  # ties to even
        (([-7, 0, 100], [8, 0, -100]), (0.25, 0.75), [4, 0, -50]),
        (([0, 1, 9], [0, 1, 9]), (0.1, 0.9), [0, 1, 9]),
    ],
)
def test_integers_are_averaged_only_with_a_dtype(
    world: World,
    tmp_path: Path,
    values: tuple[list[int], list[int]],
    mixing: tuple[float, float],
    mean: list[int],
) -> None:
    models = copies(world.a, tmp_path, steps=[torch.tensor(v) for v in values])
    if values[0] != values[1]:
        with pytest.raises(SalsaError, match="steps is of type I64, which is not averaged"):
            soup.run(configure(tmp_path / "no", *models, weights=mixing), silent)
    soup.run(configure(tmp_path / "ref", *models, weights=mixing, dtype="float32"), silent)
    found = souped(tmp_path / "ref")["steps"]
    assert found.dtype == torch.int64 and found.tolist() == mean


def test_eight_bit_floats_are_averaged_only_with_a_dtype(world: World, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(77, generator=generator).to(torch.float8_e4m3fn) for _ in range(2)]
    models = copies(world.a, tmp_path, w8=values)
    with pytest.raises(SalsaError, match="w8 is of type F8_E4M3, which is not averaged"):
        soup.run(configure(tmp_path / "no", *models), silent)
    soup.run(configure(tmp_path / "ref", *models, alpha=0.3, dtype="bfloat16"), silent)
    wide = [
        v.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn).astype(np.float64) for v in values
    ]
    # With 4 significant bits an input, float32 holds the sum far within a bfloat16's rounding.
    want = torch.from_numpy(0.7 * wide[0] + 0.3 * wide[1]).float().bfloat16()
    found = souped(tmp_path / "ref")["w8"]
    assert found.dtype == torch.bfloat16 and torch.equal(found, want)


def test_a_type_that_is_too_narrow_is_named(world: World, tmp_path: Path) -> None:
    models = copies(world.a, tmp_path, big=[torch.full((3,), 1e6)] * 2)
    with pytest.raises(SalsaError, match="big: 3 averages are too large for F16"):
        soup.run(configure(tmp_path / "ref", *models, dtype="float16"), silent)


def test_the_files_are_those_of_the_first_model(world: World, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(world.a).save_pretrained(sharded, max_shard_size="8KB")
    tiny.tokenizer().save_pretrained(sharded)
    soup.run(configure(tmp_path / "ref", sharded, world.b), silent)
    layout = [
        json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
        for folder in (sharded, tmp_path / "ref")
    ]
    assert layout[0] == layout[1]
    soup.run(configure(tmp_path / "one", sharded, world.b, max_shard_size=10**9), silent)
    assert (tmp_path / "one" / "model.safetensors").is_file()


def test_the_tokenizer_can_be_that_of_another_model(world: World, tmp_path: Path) -> None:
    other = Path(shutil.copytree(world.b, tmp_path / "other"))
    (other / "chat_template.jinja").write_text("{{ messages }}")
    soup.run(configure(tmp_path / "ref", world.a, world.b, tokenizer=str(other)), silent)
    assert (tmp_path / "ref" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_a_tokenizer_that_does_not_fit_is_refused_first(world: World, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(world.b, other)
    tiny.tokenizer(words=[*tiny.WORDS[:-1], "snow"]).save_pretrained(other)
    bare = Path(shutil.copytree(world.b, tmp_path / "bare"))
    for path in bare.glob("tokenizer*"):
        path.unlink()
    for tokenizer, says in ((other, "'rain' is 23 and absent"), (bare, f"{bare} has no tokenizer")):
        with pytest.raises(SalsaError, match=says):
            config = configure(tmp_path / "ref", world.a, world.b, tokenizer=str(tokenizer))
            soup.run(dataclasses.replace(config, dry_run=True), silent)
    notes: list[Event] = []
    soup.run(configure(tmp_path / "ref", bare, world.b), notes.append)
    assert Note(f"{bare} has no tokenizer; the soup uses the tokenizer of {world.b}") in notes
    assert (tmp_path / "ref" / "tokenizer.json").is_file()


def test_the_card_tells_the_command(world: World, tmp_path: Path) -> None:
    soup.run(configure(tmp_path / "ref", world.a, world.b, alpha=0.25), silent)
    card = (tmp_path / "ref" / "README.md").read_text()
    # Of a local folder, a reader elsewhere learns only the name.
    command = f"salsa soup {world.a.name} {world.b.name} --alpha 0.25 -o ref"
    assert f"    {command}\n" in card
