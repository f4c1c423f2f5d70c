"""LoRA adapters: random ones, and a world of a base with adapters that share it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.runs.events import silent
from tests.support import tiny

Tensors = dict[str, torch.Tensor]


PREFIX = "base_model.model."


Q = "model.layers.0.self_attn.q_proj"  # 16 x 16


K = "model.layers.1.self_attn.k_proj"  # 8 x 16


DOWN = "model.layers.1.mlp.down_proj"  # 16 x 32


SHAPES = {Q: (16, 16), K: (8, 16), DOWN: (16, 32)}


def save_adapter(
    folder: Path,
    base: Path,
    ranks: dict[str, int],
    *,
    seed: int,
    extra: Tensors | None = None,
    **changes: Any,
) -> Path:
    """A random adapter; its most frequent rank is `r`, the others are patterns."""
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(extra or {})
    for module, rank in ranks.items():
        rows, columns = SHAPES[module]
        tensors[f"{PREFIX}{module}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = torch.randn(rows, rank, generator=generator)
    r = next(iter(ranks.values()))
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(base),
        "task_type": "CAUSAL_LM",
        "r": r,
        "lora_alpha": 2 * r,
        "rank_pattern": {m.rpartition(".")[2]: rank for m, rank in ranks.items() if rank != r},
        "alpha_pattern": {},
        "target_modules": sorted({module.rpartition(".")[2] for module in ranks}),
        "bias": "none",
        "inference_mode": True,
        **changes,
    }
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


CPU = torch.device("cpu")


IDS = torch.tensor([[4, 6, 9, 11, 5]])


@dataclass(frozen=True)
class AdapterWorld:
    """A base, two SFT adapters of it, their soup, and the adapter of a reward model."""

    base: Path
    a: Path
    b: Path
    soup: Path
    rm: Path


def make(root: Path, scale: float = 0.1) -> AdapterWorld:
    """Adapters far enough from nothing that a lost one shows; `scale` is that of their B."""
    base = tiny.save_language_model(root / "base", seed=1)
    made = AdapterWorld(base, root / "a", root / "b", root / "soup", root / "rm")
    head = 0.1 * torch.randn(1, 16, generator=torch.Generator().manual_seed(9))
    save_adapter(made.a, base, {Q: 3, DOWN: 2}, seed=1)
    save_adapter(made.b, base, {Q: 4, K: 1}, seed=2)
    save_adapter(
        made.rm,
        base,
        {Q: 3, K: 2},
        seed=3,
        extra={f"{PREFIX}score.weight": head},
        task_type="SEQ_CLS",
        modules_to_save=["score"],
    )
    (made.rm / "salsa_reward.json").write_text(json.dumps({"mean": 0.5, "std": 2.0}))
    for folder in (made.a, made.b, made.rm):
        path = folder / "adapter_config.json"
        settings = json.loads(path.read_text())
        path.write_text(json.dumps(settings | {"lora_alpha": scale * settings["r"]}))
    pair = (str(made.a), str(made.b))
    soup.run(SoupConfig(models=pair, alpha=0.5, output=made.soup), silent)
    return made


def held_bytes(*given: Any) -> int:
    """Bytes of the distinct storages that models hold."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for model in given
        for tensor in (*model.parameters(), *model.buffers())
    }
    return sum(storages.values())


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits
    return found
