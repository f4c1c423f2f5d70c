"""Whether two configurations mean the same model.

The same model is written in many ways: by transformers 4 (`rope_theta`, `torch_dtype`) and 5
(`rope_parameters`, `dtype`), with or without the defaults of its class, with notes of training
tools. So keys that say nothing of the function are dropped, spellings are unified, and what still
differs is looked at with the defaults that the class in transformers fills in. A difference in a
key that is not known to be harmless counts as one of the function.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from salsa_cli.records import read_json
from salsa_cli.weights import config_classes
from salsa_cli.weights.difference import ABSENT, ClassDefault, Difference, describe_values

Config = dict[str, Any]

# Keys that do not change what a trained model computes: where it comes from, how it is stored or
# run, how it was initialised, what only training reads.
_BOOKKEEPING = re.compile(
    r"_name_or_path|transformers_version|torch_dtype|dtype|_commit_hash|salsa_reward"
    r"|use_cache|_?attn_implementation\w*|_attn_implementation_\w+|_flash_attn_2_enabled"
    r"|_experts_implementation\w*|use_flash_attn|use_flash_attention\w*|_remove_final_layer_norm"
    r"|unsloth\w*|gradient_checkpointing|use_gradient_checkpointing\w*|torchscript|pretraining_tp"
    r"|initializer_\w+|init_std|init_method\w*|initial_scale|rescale_prenorm_residual"
    r"|embedding_initializer_range|mamba_initializer_range|time_step_init_scheme"
    r"|\w*dropout\w*|\w+_pdrop|\w*layerdrop|\w*drop_path\w*|jitter_noise|\w+_jitter_noise"
    r"|\w*router_\w+_loss_coef|\w*aux_loss\w*|output_router_logits|router_z_loss_coef|z_loss\w*"
    r"|label_smoothing|problem_type|finetuning_task|task_specific_params|gradient_clipping"
    r"|output_(hidden_states|attentions|past)|return_dict|use_return_dict|chunk_size_feed_forward"
    r"|pad_token_id|keys_to_ignore_at_inference|model_max_length|_pre_quantization_dtype|use_bfloat16"
    r"|tf_legacy_loss|quantization_config|use_parallel_residual_ckpt|cache_implementation"
    r"|tokenizer_class|name_or_path|neftune_noise_alpha|_?(use_)?liger\w*|transformers\.js_config"
    r"|(trl|peft|\w*swift|axolotl|llama_?factory|deepspeed|accelerate|datasets|torch|optimum)_version"
)
# Names of one activation; the formulas of the approximations differ in rounding alone.
_ACTIVATIONS = {
    "swish": "silu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_pytorch_tanh",
    "gelu_fast": "gelu_pytorch_tanh",
}
_MOST_LABELS = 1_000_000
# Keys that change how answers are generated or named, or nothing within the usual lengths.
_MAY_CHANGE = re.compile(
    r"(bos|eos|sep|mask|cls|decoder_start|forced_bos|forced_eos)_token_id|suppress_tokens"
    r"|begin_suppress_tokens|id2label|label2id|auto_map|max_position_embeddings|max_sequence_length"
    r"|max_seq_len(gth)?|seq_length|n_ctx|rope_parameters\.original_max_position_embeddings"
    # Settings of generation, which old versions kept here.
    r"|max_length|min_length|max_new_tokens|do_sample|early_stopping|num_beams|num_beam_groups"
    r"|diversity_penalty|temperature|top_k|top_p|typical_p|repetition_penalty|length_penalty"
    r"|no_repeat_ngram_size|encoder_no_repeat_ngram_size|bad_words_ids|num_return_sequences"
    r"|output_scores|return_dict_in_generate|remove_invalid_values|exponential_decay_length_penalty"
    r"|is_decoder|prefix"
)
# Kinds of rotary embedding that do not compute frequencies from the longest length.
_PLAIN_ROPE = {"default", "linear", "proportional", "llama3"}


def compare_configs(first: Path, other: Path) -> list[Difference]:
    """How the configurations of two model folders differ in meaning.

    Raises:
        SalsaError: one of them cannot be read.
    """
    ours, theirs = (read_json(folder / "config.json") for folder in (first, other))
    found = config_differences(ours, theirs, first, other)
    return [*found, *_generation_differences(first, other)]


def config_keys(folder: Path) -> set[str]:
    """The keys of a model folder's configurations, named as differences in them are."""
    path = folder / "config.json"
    config = read_json(path) if path.is_file() else {}
    keys = {*flatten(config), *flatten(normalise(config))}
    return {"generation_config.eos_token_id", *(f"config.{key}" for key in keys)}


def config_differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], first: Path, other: Path
) -> list[Difference]:
    """How two configurations differ in meaning; the paths are for the messages."""
    flats = told = tuple(flatten(normalise(config)) for config in (ours, theirs))
    unknown: set[str] = set()
    unlabelled = _have_no_labels(ours, theirs)
    if not _differing(*flats):
        return []
    full = tuple(config_classes.complete(config) for config in (ours, theirs))
    if full[0] is not None and full[1] is not None:
        flats = (
            flatten(normalise(full[0].values)),
            flatten(normalise(full[1].values)),
        )
        if known := flatten(full[0].defaults):
            unknown = {key for flat in flats for key in flat if not _is_known(key, known)}
    else:
        flats = _without_nulls(*flats)
    return [
        Difference(
            f"config.{key}",
            f"config.json {key}: "
            + describe_values(
                _as_told(key, flats[0], told[0]), _as_told(key, flats[1], told[1]), first, other
            ),
            key not in unknown and not _may_change(key, *flats),
        )
        for key in _differing(*flats)
        if not (unlabelled and key.partition(".")[0] in ("id2label", "num_labels"))
    ]


def normalise(config: Mapping[str, Any]) -> Config:
    """One spelling, without bookkeeping, in all configurations inside the configuration too."""
    found: Config = {
        str(key): normalise(value)
        if isinstance(value, Mapping) and key != "rope_parameters"
        else value
        for key, value in config.items()
        if not _BOOKKEEPING.fullmatch(str(key))
    }
    if isinstance(found.get("architectures"), list):
        # Names of sharded training: FSDPQwen2ForCausalLM.
        found["architectures"] = [str(n).removeprefix("FSDP") for n in found["architectures"]]
    for key in [key for key in found if re.search(r"act(ivation)?(_fn|_function)?$", key)]:
        if isinstance(found[key], str):
            found[key] = _ACTIVATIONS.get(found[key], found[key])
    if found.get("pruned_heads") == {}:
        del found["pruned_heads"]
    labels = found.get("num_labels")
    if type(labels) is int and not _is_odd(labels) and "id2label" not in found:
        found["id2label"] = {str(n): f"LABEL_{n}" for n in range(labels)}
    if isinstance(found.get("id2label"), dict):
        found["num_labels"] = len(found["id2label"])
    found.pop("label2id", None)
    for key in [key for key in found if key.endswith("eos_token_id")]:
        if isinstance(found[key], list) and len(found[key]) == 1:
            found[key] = found[key][0]
    if found.get("use_sliding_window") is False:
        found.pop("sliding_window", None)
        found.pop("max_window_layers", None)
    return _with_rope(found)


def _as_told(key: str, flat: Config, told: Config) -> object:
    """A value as a message shows it: a default of the class, or a value of the file."""
    if key in told:
        return flat.get(key, ABSENT)
    return ABSENT if flat.get(key) is None else ClassDefault(flat[key])


def _is_odd(labels: object) -> bool:
    """Whether a number of labels is damage."""
    return labels is not None and (type(labels) is not int or labels > _MOST_LABELS)


def _have_no_labels(*configs: Mapping[str, Any]) -> bool:
    """Whether models are causal language models, whose output has no labels.

    A configuration that names no architecture is one of the others' kind.
    """
    lists = [config.get("architectures") for config in configs]
    named = [one for found in lists if isinstance(found, list) for one in found]
    causal = [str(one).endswith(("ForCausalLM", "LMHeadModel")) for one in named]
    odd = any(_is_odd(config.get("num_labels")) for config in configs)
    return bool(causal) and all(causal) and not odd


def flatten(config: Mapping[str, Any], prefix: str = "") -> Config:
    """The leaves of a configuration by their path: `text_config.hidden_size`, `layer_types[3]`."""
    found: Config = {}
    for key, value in config.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f"{path}.")
        else:
            found[path] = value
    return found


def _with_rope(config: Config) -> Config:
    """The rotary embedding as transformers 5 writes it: everything in `rope_parameters`.

    Where both keys are there, it reads `rope_scaling`: users add that to switch YaRN on. Only where
    the spelling is plain; what is nested by the kind of layer is left to the class.
    """
    scaling, given = config.get("rope_scaling"), config.get("rope_parameters")
    wanted = scaling or given or {}
    if not isinstance(wanted, Mapping) or any(isinstance(one, Mapping) for one in wanted.values()):
        return config
    config.pop("rope_scaling", None)
    parameters = dict(wanted)
    for key in ("rope_theta", "partial_rotary_factor"):
        if (value := config.pop(key, None)) is not None:
            parameters.setdefault(key, value)
    if parameters:
        kind = parameters.pop("type", None)
        parameters.setdefault("rope_type", kind or "default")
        if parameters.get("partial_rotary_factor") == 1:
            del parameters["partial_rotary_factor"]
        if parameters["rope_type"] == "linear" and parameters.get("factor") == 1:
            del parameters["factor"]  # positions divided by 1
            parameters["rope_type"] = "default"
        config["rope_parameters"] = {
            key: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
            for key, value in parameters.items()
        }
    else:
        config.pop("rope_parameters", None)
    return config


def _differing(ours: Config, theirs: Config) -> list[str]:
    return [
        key
        for key in sorted({*ours, *theirs})
        if (key in ours) != (key in theirs) or not _equal(ours[key], theirs[key])
    ]


def _equal(one: object, other: object) -> bool:
    """NaN equals itself, and True is not 1."""
    if isinstance(one, bool) != isinstance(other, bool):
        return False
    return one == other or (one != one and other != other)


def _without_nulls(ours: Config, theirs: Config) -> tuple[Config, Config]:
    """A null in one and no such key in the other: without the class nobody can tell them apart."""
    return (
        {key: value for key, value in ours.items() if value is not None or key in theirs},
        {key: value for key, value in theirs.items() if value is not None or key in ours},
    )


def _is_known(key: str, known: Mapping[str, Any]) -> bool:
    """Whether the class has the key, or an object in which it is."""
    parts = key.split(".")
    paths = {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return bool(paths & known.keys()) or "rope_parameters" in parts


def _may_change(key: str, ours: Config, theirs: Config) -> bool:
    last = key if key.startswith("rope_parameters.") else key.rpartition(".")[2]
    head = key.partition(".")[0]
    if head == "id2label":
        return ours.get("num_labels") == theirs.get("num_labels")
    if head == "auto_map":
        return True
    if last == "architectures":
        return not (ours.get(key) and theirs.get(key))
    if last.startswith(("max_position", "max_seq", "seq_length")):
        kinds = {
            value
            for flat in (ours, theirs)
            for name, value in flat.items()
            if name.endswith("rope_type")
        }
        return kinds <= _PLAIN_ROPE
    return _MAY_CHANGE.fullmatch(last) is not None


def _generation_differences(first: Path, other: Path) -> Iterator[Difference]:
    """Where answers end by `generation_config.json`."""
    paths = [folder / "generation_config.json" for folder in (first, other)]
    if not all(path.is_file() for path in paths):
        return
    ours, theirs = (_ids(read_json(path).get("eos_token_id")) for path in paths)
    if ours != theirs:
        text = describe_values(sorted(ours), sorted(theirs), first, other)
        yield Difference(
            "generation_config.eos_token_id", f"generation_config.json eos_token_id: {text}", False
        )


def _ids(value: object) -> set[int]:
    if isinstance(value, list):
        return {one for one in value if isinstance(one, int)}
    return {value} if isinstance(value, int) else set()
