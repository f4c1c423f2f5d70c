"""Signs that stored weights are quantised: codes that mean nothing without their scales.

Averaging codes, or codes and scales separately, gives noise. Any one of three signs is enough: the
configuration, a side file of a quantisation tool, or the names of the tensors.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from salsa_cli.errors import SalsaError, one_line
from salsa_cli.records import read_json
from salsa_cli.weights.layout import BITS, TensorSpec
from salsa_cli.weights.weight_files import WeightFiles

_CONFIG_KEYS = re.compile(
    r"quantization_config|compression_config|quantization|quantize_config|quant_config|quant_method"
    r"|(hqq|awq|gptq|bnb|eetq|aqlm)_config|load_in_[48]bit"
)
# AutoGPTQ, AutoAWQ, ModelOpt, HQQ and Neural Compressor, VPTQ, quanto.
_SIDE_FILES = re.compile(
    r"(.*_)?(quant|quantize|quantization|hqq|awq|gptq)_(config|strategy|map)\.json"
    r"|(.*_)?q(config|map)\.json"
)

# Last parts of tensor names that no unquantised model has.
_TENSORS = frozenset(
    (
        # GPTQ, AWQ, Marlin, SqueezeLLM, ExLlama
        "qweight qzeros g_idx B_24 lookup_table q_weight q_scale_max q_invperm trellis "
        # compressed-tensors, ModelOpt, block-scaled FP8
        "weight_packed weight_scale weight_scale_inv weight_scale_2 weight_global_scale "
        "weight_zero_point weight_g_idx input_scale input_global_scale input_zero_point "
        "activation_scale input_scale_ub "
        # bitsandbytes
        "absmax nested_absmax quant_map nested_quant_map SCB weight_format "
        # HQQ, AQLM, QuIP#, SpQR, VPTQ, torchao
        "W_q W_nbits codebooks Qidxs dense_weights centroids _weight_qdata"
    ).split()
)
# These occur elsewhere, so they count only next to what they belong to.
_SCALES = {
    "scales": ("qweight", "qzeros", "biases", "codes"),
    "codes": ("codebooks", "scales"),
}
# Integers of several dimensions are codes if they are called a weight, or if something in the same
# module maps them to numbers. Those of 64 bits are indices.
_CODES = frozenset("I8 U8 I16 U16 I32 U32".split())
_NOT_CODES = re.compile(r"index|indexes|position|mask|ids|steps|num_batches_tracked|bucket", re.I)
_MAPPING = re.compile(
    r"scales?(?![a-z])|(?<![a-z])zeros?(?![a-z])|shift|codebook|centroid|table|absmax", re.I
)
_FLOAT8 = frozenset(dtype for dtype in BITS if dtype.startswith("F8_"))


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
        "quantised weights cannot be averaged: the stored numbers are codes, meaningless without "
        "their scales; expected unquantised models. Use the original bfloat16 or float16 "
        "models, or dequantise first (in transformers: load the model, "
        f"`model.dequantize().save_pretrained(FOLDER)`):\n{listed}\n"
        "If the weights are plain numbers, remove the leftover setting or file."
    )


def signs(folder: Path, weights: WeightFiles) -> tuple[str, ...]:
    """What shows that a model is quantised, a line each; empty if nothing does."""
    found = []
    config = folder / "config.json"
    if config.is_file():
        found += [f"{key} in config.json" for key in _quantised_keys(read_json(config))]
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    found += [name for name in names if _SIDE_FILES.fullmatch(name)]
    neighbours = _by_module(weights)
    named = [
        name
        for name, spec in weights.tensors.items()
        if _is_code(name, weights) or _has_codes(spec, neighbours)
    ]
    if named:
        more = f" and {len(named) - 1} more like it" if len(named) > 1 else ""
        found.append(f"tensor {one_line(named[0])}{more}")
    packed = [spec.name for spec in weights.tensors.values() if BITS[spec.dtype] < 8]
    if packed:
        dtype = weights.tensors[packed[0]].dtype
        found.append(
            f"tensor {one_line(packed[0])} of type {dtype}, which packs several numbers into a byte"
        )
    return tuple(found)


def _quantised_keys(config: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys of a configuration, or of the configurations inside it, that describe codes."""
    found = []
    for key, value in config.items():
        if _CONFIG_KEYS.fullmatch(key):
            found += [prefix + key] if _says_something(value) else []
        elif isinstance(value, dict):
            found += _quantised_keys(value, f"{prefix}{key}.")
    return found


def _says_something(value: object) -> bool:
    """Whether a setting asks for codes; `load_in_4bit: false` alone does not."""
    if not isinstance(value, dict):
        return bool(value)
    loads = {key: one for key, one in value.items() if key in ("load_in_4bit", "load_in_8bit")}
    if loads and value.get("quant_method") in (None, "bitsandbytes"):
        return any(loads.values())
    return bool(value)


def _is_code(name: str, weights: WeightFiles) -> bool:
    module, _, last = name.rpartition(".")
    if last in _TENSORS or not {"quant_state", "centroids"}.isdisjoint(name.split(".")):
        return True
    if last.endswith(("_blocks", "_scales")):  # MXFP4
        pair = name.removesuffix("_blocks").removesuffix("_scales")
        return f"{pair}_blocks" in weights.tensors and f"{pair}_scales" in weights.tensors
    return any(f"{module}.{one}" in weights.tensors for one in _SCALES.get(last, ()))


def _has_codes(spec: TensorSpec, neighbours: Mapping[str, list[str]]) -> bool:
    """Whether a tensor has to be mapped to numbers by others, by its type and their names."""
    module, _, last = spec.name.rpartition(".")
    if len(spec.shape) < 2:
        return False
    if spec.dtype in _FLOAT8:  # which are numbers where nothing scales them
        scale = re.compile(rf"_?({re.escape(last)}|weight)?_?scales?(_inv|_\d)?")
        return any(scale.fullmatch(one) for one in neighbours[module] if one != last)
    if spec.dtype not in _CODES or _NOT_CODES.search(last):
        return False
    return last == "weight" or any(
        _MAPPING.search(one) for one in neighbours[module] if one != last
    )


def _by_module(weights: WeightFiles) -> Mapping[str, list[str]]:
    """The last parts of the names of the tensors in each module."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in weights.tensors:
        module, _, last = name.rpartition(".")
        found[module].append(last)
    return found
