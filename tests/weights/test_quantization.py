"""Quantised models are recognised by any of three signs, and others are not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.errors import SalsaError
from salsa_cli.runs.events import silent
from salsa_cli.weights.quantization import signs
from salsa_cli.weights.weight_files import open_weight_files
from tests.support.worlds import World

LAYER = "model.layers.0.mlp.up_proj"
I32 = torch.ones(4, 4, dtype=torch.int32)
U8 = torch.ones(8, 1, dtype=torch.uint8)
FP8 = torch.ones(4, 4).to(torch.float8_e4m3fn)
HALF = torch.ones(4).half()

# What each tool stores for a layer, and the names by which it must be recognised.
STORED: dict[str, dict[str, torch.Tensor]] = {
    "GPTQ": {"qweight": I32, "qzeros": I32, "scales": HALF, "g_idx": I32},
    "AWQ": {"qweight": I32, "qzeros": I32, "scales": HALF},
    "ModelOpt FP8": {"weight": FP8, "weight_scale": HALF, "input_scale": HALF},
    "ModelOpt NVFP4": {"weight": U8, "weight_scale": FP8, "weight_scale_2": HALF},
    "DeepSeek FP8": {"weight": FP8, "weight_scale_inv": HALF},
    "compressed-tensors": {"weight_packed": I32, "weight_scale": HALF, "weight_shape": I32},
    "bitsandbytes 4 bit": {"weight": U8, "weight.absmax": HALF, "weight.quant_map": HALF},
    "bitsandbytes state": {"weight": U8, "weight.quant_state.bitsandbytes__nf4": U8},
    "LLM.int8": {"weight": U8.to(torch.int8), "SCB": HALF, "weight_format": U8},
    "HQQ": {"W_q": U8, "zero": HALF, "scale": HALF},
    "AQLM": {"codes": U8, "codebooks": HALF, "scales": HALF},
    "MLX": {"weight": I32.view(torch.uint32), "scales": HALF, "biases": HALF},
    "MXFP4": {"gate_up_proj_blocks": U8, "gate_up_proj_scales": U8},
    "EETQ": {"weight": U8.to(torch.int8), "weight_scales": HALF},
    "torchao": {"_weight_qdata": U8, "_weight_scale": HALF, "_weight_zero_point": U8},
    "quanto": {"weight._data": U8.to(torch.int8), "weight._scale": HALF},
    "quanto 4 bit": {"weight._data": U8, "weight._scale": HALF, "weight._shift": HALF},
    "FP8 of fused experts": {"gate_up_proj": FP8, "gate_up_proj_scale_inv": HALF},
    "MXFP8": {"weight": FP8, "scales": U8},
    "VPTQ": {"indices": I32, "centroids.weight": HALF},
    "SpQR": {"dense_weights": I32, "row_offsets": I32[0], "col_vals": I32[0]},
    "ExLlama 2": {"q_weight": I32, "q_scale": I32, "q_groups": I32[0], "q_invperm": I32[0]},
    "ExLlama 3": {"trellis": I32.to(torch.int16), "suh": HALF, "svh": HALF},
    "SqueezeLLM": {"qweight": I32, "lookup_table": HALF},
    "HIGGS": {"weight": I32.to(torch.int16), "scales": HALF, "tables": HALF},
    "FP-Quant": {"codes_of_it": U8, "block_scales": U8},
    "BitNet": {"weight": U8},
}


def copy(source: Path, target: Path, stored: dict[str, torch.Tensor], **files: Any) -> Path:
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    tensors.pop(f"{LAYER}.weight")
    tensors |= {f"{LAYER}.{name}": value.clone() for name, value in stored.items()}
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    for name, content in files.items():
        (target / f"{name}.json").write_text(json.dumps(content))
    return target


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("tool", STORED)
def test_by_the_names_of_tensors(world: World, tmp_path: Path, tool: str, dtype: str) -> None:
    models = [copy(world.a, tmp_path / name, STORED[tool]) for name in ("a", "b")]
    config: Any = SoupConfig(models=tuple(map(str, models)), output=tmp_path / "ref", dtype=dtype)
    with pytest.raises(SalsaError, match="quantised weights cannot be averaged") as caught:
        soup.run(config, silent)
    assert f"{models[1]}: tensor {LAYER}." in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["quantize_config", "quant_config", "hf_quant_config", "qconfig", "quanto_qmap", "awq_config"],
)
def test_by_a_side_file(world: World, tmp_path: Path, name: str) -> None:
    model = copy(world.a, tmp_path / "a", {"weight": HALF}, **{name: {"bits": 4}})
    assert signs(model, open_weight_files(model)) == (f"{name}.json",)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"text_config": {"quantization_config": {"a": 1}}}, "text_config.quantization_config"),
        ({"compression_config": {"format": "int"}}, "compression_config"),
        ({"hqq_config": {"nbits": 4}}, "hqq_config"),
        ({"load_in_4bit": True}, "load_in_4bit"),
        ({"quant_method": "gptq"}, "quant_method"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config"),
    ],
)
def test_by_the_configuration(
    world: World, tmp_path: Path, settings: dict[str, Any], key: str
) -> None:
    before = json.loads((world.a / "config.json").read_text())
    model = copy(world.a, tmp_path / "a", {"weight": HALF}, config={**before, **settings})
    assert signs(model, open_weight_files(model)) == (f"{key} in config.json",)


def test_what_is_not_quantised(world: World, tmp_path: Path) -> None:
    """Plain FP8, settings that ask for nothing, names that only look like those of scales."""
    before = json.loads((world.a / "config.json").read_text())
    harmless = {
        "plain.weight": FP8,
        "relative_position_index": I32,
        "counts": I32[0],
        "indices": I32.long(),
        "scales": HALF,
        "layer_scale": HALF,
        "q_scale": HALF,
        "attn_scales": HALF,
        "logit_scale": HALF,
    }
    for number, nothing in enumerate((None, {}, {"load_in_4bit": False, "load_in_8bit": False})):
        settings = {**before, "quantization_config": nothing}
        model = copy(world.a, tmp_path / str(number), harmless, config=settings)
        assert signs(model, open_weight_files(model)) == ()
    assert signs(world.a, open_weight_files(world.a)) == ()


def test_numbers_of_less_than_a_byte_are_refused_in_words(world: World, tmp_path: Path) -> None:
    model = Path(shutil.copytree(world.a, tmp_path / "a"))
    for dtype, nbytes in (("F4", 2), ("F6_E2M3", 3)):
        entry = {"w": {"dtype": dtype, "shape": [4], "data_offsets": [0, nbytes]}}
        header = json.dumps(entry).encode()
        raw = len(header).to_bytes(8, "little") + header + bytes(nbytes)
        (model / "model.safetensors").write_bytes(raw)
        config = SoupConfig(models=(str(model), str(model)), output=tmp_path / "ref")
        with pytest.raises(SalsaError, match=f"tensor w of type {dtype}, which packs several"):
            soup.run(config, silent)
