"""Signs that stored weights are quantised: codes that mean nothing without their scales.

Averaging codes, or codes and scales separately, gives noise. Any one of three signs is enough: the
configuration, a side file of a quantisation tool, or the names of the tensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salsa_cli.errors import SalsaError, one_line
from salsa_cli.records import read_json
from salsa_cli.weights.layout import BITS
from salsa_cli.weights.weight_files import WeightFiles

_CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")
_SIDE_FILES = (
    "quantize_config.json",  # AutoGPTQ
    "quant_config.json",  # AutoAWQ
    "hf_quant_config.json",  # ModelOpt
    "quantization_config.json",
    "qconfig.json",  # HQQ
)

# Last parts of tensor names that no unquantised model has.
_TENSORS = frozenset(
    (
        # GPTQ, AWQ, Marlin
        "qweight qzeros g_idx B_24 "
        # compressed-tensors, ModelOpt, block-scaled FP8
        "weight_packed weight_scale weight_scale_inv weight_scale_2 weight_global_scale "
        "weight_zero_point weight_g_idx input_scale input_global_scale input_zero_point "
        "activation_scale "
        # bitsandbytes
        "absmax nested_absmax quant_map nested_quant_map SCB weight_format "
        # HQQ, AQLM, QuIP#, SpQR, VPTQ
        "W_q W_nbits codebooks Qidxs dense_weights centroids"
    ).split()
)
# These occur elsewhere, so they count only next to what they belong to.
_SCALES = {
    "scales": ("qweight", "qzeros", "biases", "weight", "codes"),
    "codes": ("codebooks", "scales"),
}
_CODES = frozenset("I8 U8 I16 U16 I32 U32 F4 F6_E2M3 F6_E3M2".split())


def refuse_quantised(models: Mapping[Path, WeightFiles]) -> None:
    """Refuse models whose stored numbers are codes.

    Raises:
        SalsaError: it names the sign in each model.
    """
    found = {folder: signs(folder, weights) for folder, weights in models.items()}
    if not any(found.values()):
        return
    listed = "\n".join(f"  - {folder}: {one}" for folder, all_ in found.items() for one in all_)
    raise SalsaError(
        "quantised weights cannot be averaged: the stored numbers are codes that mean nothing "
        "without their scales; expected unquantised models. Use the original bfloat16 or float16 "
        "models, or dequantise first (in transformers: load the model, "
        f"`model.dequantize().save_pretrained(FOLDER)`):\n{listed}"
    )


def signs(folder: Path, weights: WeightFiles) -> tuple[str, ...]:
    """What shows that a model is quantised, a line each; empty if nothing does."""
    found = []
    config = folder / "config.json"
    if config.is_file():
        found += [f"{key} in config.json" for key in _quantised_keys(read_json(config))]
    found += [name for name in _SIDE_FILES if (folder / name).is_file()]
    named = [name for name in weights.tensors if _is_code(name, weights)]
    if named:
        more = f" and {len(named) - 1} more of the kind" if len(named) > 1 else ""
        found.append(f"tensor {one_line(named[0])}{more}")
    packed = [spec.name for spec in weights.tensors.values() if BITS[spec.dtype] < 8]
    if packed:
        dtype = weights.tensors[packed[0]].dtype
        found.append(f"tensor {one_line(packed[0])} of type {dtype}, less than a byte a number")
    return tuple(found)


def _quantised_keys(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys of a configuration, or of the configurations inside it, that describe codes."""
    found = [prefix + key for key in _CONFIG_KEYS if config.get(key)]
    for key, value in config.items():
        if isinstance(value, dict) and key not in _CONFIG_KEYS:
            found += _quantised_keys(value, f"{prefix}{key}.")
    return found


def _is_code(name: str, weights: WeightFiles) -> bool:
    module, _, last = name.rpartition(".")
    if last in _TENSORS or "quant_state" in name.split("."):
        return True
    if last.endswith(("_blocks", "_scales")):  # MXFP4
        pair = name.removesuffix("_blocks").removesuffix("_scales")
        return f"{pair}_blocks" in weights.tensors and f"{pair}_scales" in weights.tensors
    return any(
        other in weights.tensors
        and (other != f"{module}.weight" or weights.tensors[other].dtype in _CODES)
        for other in (f"{module}.{one}" for one in _SCALES.get(last, ()))
    )
