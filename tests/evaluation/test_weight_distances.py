"""Distances of weights, against NumPy over whole tensors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from salsa_cli.evaluation.weight_distances import distances, group_of
from salsa_cli.weights.weight_files import WeightFiles, open_weight_files

NAMES = {
    "model.embed_tokens.weight": "embeddings",
    "model.layers.0.self_attn.q_proj.weight": "attention, first third",
    "model.layers.2.self_attn.o_proj.weight": "attention, last third",
    "model.layers.1.mlp.up_proj.weight": "MLP, middle third",
    "model.layers.1.input_layernorm.weight": "norms",
    "model.norm.weight": "norms",
    "lm_head.weight": "head",
    "transformer.h.0.attn.c_attn.weight": "attention, first third",
    "backbone.layers.0.mixer.in_proj.weight": "attention, first third",
}


def model(folder: Path, seed: int, dtype: torch.dtype = torch.float32) -> WeightFiles:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(6, 5, generator=generator).to(dtype) for name in NAMES}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return open_weight_files(folder)


def flat(weights: WeightFiles, group: str) -> np.ndarray:
    from safetensors.torch import load_file

    tensors = load_file(weights.folder / "model.safetensors")
    chosen = [tensors[n].double().flatten() for n, g in NAMES.items() if group in (g, "all")]
    return torch.cat(chosen).numpy()


def test_groups() -> None:
    assert {name: group_of(name, 3) for name in NAMES} == NAMES
    assert group_of("model.layers.1.mlp.up_proj.weight", 2) == "MLP, layer 1"


def test_cosines_and_distances(tmp_path: Path) -> None:
    a, b, base = (model(tmp_path / name, seed) for seed, name in enumerate(("a", "b", "base")))
    groups, _ = distances(a, b, base)
    assert {one.group for one in groups} == {*NAMES.values(), "all"}
    for one in groups:
        x, y, z = (flat(weights, one.group) for weights in (a, b, base))
        assert one.parameters == x.size
        assert one.cosine == pytest.approx(x @ y / np.sqrt((x @ x) * (y @ y)))
        assert one.relative_distance == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x))
        u, v = x - z, y - z
        assert one.cosine_of_changes == pytest.approx(u @ v / np.sqrt((u @ u) * (v @ v)))
    assert all(one.cosine_of_changes is None for one in distances(a, b, None)[0])


def test_units_in_the_last_place(tmp_path: Path) -> None:
    """Across zero too: -0 and 0 are one number, and the smallest ones are one unit from it."""
    folders = []
    values = [[0x0000, 0x0001, 0x3F80, 0xBF80], [0x8000, 0x8001, 0x3F81, 0xBF83]]
    for name, bits in zip("ab", values, strict=True):
        (tmp_path / name).mkdir()
        stored = torch.from_numpy(np.array(bits, np.uint16)).view(torch.bfloat16)
        save_file({"w": stored}, tmp_path / name / "model.safetensors", {"format": "pt"})
        folders.append(open_weight_files(tmp_path / name))
    _, stored = distances(folders[0], folders[1], None)
    assert (stored.dtype, stored.equal, stored.one_unit) == ("BF16", 0.25, 0.25)
    assert stored.median_units == 2 and stored.is_staircase  # 1, 2 and 3 units
