"""Which models can play which part of a run, known from their files before any is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto import modeling_auto

from salsa_cli.errors import SalsaError
from salsa_cli.models import assembly, shapes
from salsa_cli.weights import folders, weight_files
from salsa_cli.weights.layout import TensorSpec

_OUTPUTS = ("lm_head.", "embed_out.")
"""Beginnings of the names of output embeddings, where they are stored."""

_HEADS = ("classifier", "score", "v_head", "value_head", "rm_head", "reward_head", "regression")
"""Beginnings of the names that trainers give to heads on hidden states."""


def check_language_model(folder: Path) -> None:
    """Refuse what cannot be a policy or a reference.

    Raises:
        SalsaError: it is no causal language model, or of a kind that `ppo` cannot drive.
    """
    kind = _kind(folder)
    if kind not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise _cannot(folder, "a language model", f"transformers has no causal {kind} model")
    both_ways = kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if both_ways and not getattr(shapes.text_config(folder), "is_decoder", False):
        raise _cannot(folder, "a language model", f"a {kind} encoder reads in both directions")
    tensors = weight_files.open_weight_files(folders.base(folder)).tensors
    headed = any(one.startswith(_HEADS) for one in tensors)
    if headed and not any(one.startswith(_OUTPUTS) for one in tensors):
        raise _cannot(folder, "a language model", "its files hold a classifier without an output")
    try:
        shapes.shape(folder)
    except SalsaError as error:
        raise _cannot(folder, "a policy or a reference", str(error)) from error


def check_checkpointing(folder: Path) -> None:
    """Refuse `--gradient-checkpointing` of a model that transformers cannot do it with.

    Raises:
        SalsaError: it cannot.
    """
    made = AutoModelForCausalLM._model_mapping.get(type(_config(folder)), None)
    if not getattr(made, "supports_gradient_checkpointing", True):
        raise SalsaError(
            f"{folder}: a {_kind(folder)} model does not support gradient checkpointing; remove "
            "--gradient-checkpointing"
        )


def check_reward_model(folder: Path) -> None:
    """Refuse what cannot be a reward: it takes one score per text, at its last token.

    Raises:
        SalsaError: says what was found instead, and what to do.
    """
    if folders.is_adapter(folder):
        if not assembly.has_score_head(folder):
            raise SalsaError(
                f"{folder} cannot be used as a reward model: neither the adapter nor its base has "
                "a score head; `salsa train-rm --lora-rank` trains an adapter with one"
            )
        return
    tensors = weight_files.open_weight_files(folder).tensors
    score = tensors.get("score.weight")
    if score is not None and score.shape[0] == 1 and _has_classifier(folder):
        return
    found = _score_head_fault(folder, score, [one for one in tensors if one.startswith(_HEADS)])
    raise SalsaError(
        f"{folder} cannot be used as a reward model: {found}; `salsa train-rm` trains one from a "
        f"causal language model. {_what_it_can_be(folder)}"
    )


def check_critic(folder: Path) -> None:
    """Refuse what cannot be a critic: a reward model, or any causal language model, can.

    Raises:
        SalsaError: says what was found instead.
    """
    if not assembly.has_score_head(folder) and (reason := _refusal(check_language_model, folder)):
        raise SalsaError(f"{folder} cannot be a critic: it is not a reward model, and {reason}")


def described(folder: Path) -> str:
    """The parts that a model can play, in one line."""
    found = _what_it_can_be(folder).removesuffix(".")
    return f"{folder} {found[3:]}" if found.startswith("It ") else f"{folder}: {found}"


def _what_it_can_be(folder: Path) -> str:
    found = []
    if _refusal(check_language_model, folder) is None:
        found += ["policy", "reference", "critic"]
    elif assembly.has_score_head(folder):
        found.append("critic")
    if assembly.has_score_head(folder) and _refusal(check_reward_model, folder) is None:
        found.append("reward")
    return f"It can be used as: {', '.join(found)}." if found else "salsa ppo cannot use it."


def _score_head_fault(folder: Path, score: TensorSpec | None, heads: list[str]) -> str:
    if score is not None and score.shape[0] != 1:
        return (
            f"it gives {score.shape[0]} scores per text (score.weight has {score.shape[0]} rows), "
            "like a classifier with several labels; expected one"
        )
    if score is not None:
        return f"transformers has no sequence classifier of a {_kind(folder)} model"
    if heads:
        return (
            f"its head is {heads[0]}, and score.weight is missing; expected a causal model whose "
            "head score.weight gives one score at the last token"
        )
    architectures = getattr(_config(folder), "architectures", None) or ()
    named = "a" if any("SequenceClassification" in name for name in architectures) else "no"
    return (
        f"its config.json names {named} sequence classifier and its files have no score.weight (it "
        "has no trained score head)"
    )


def _has_classifier(folder: Path) -> bool:
    return _kind(folder) in modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES


def _kind(folder: Path) -> str:
    return str(_config(folder).model_type)


def _config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folders.base(folder), trust_remote_code=False)
    except Exception as error:
        raise SalsaError(
            f"{folder}: config.json cannot be used ({assembly.first_line(error)})"
        ) from error


def _refusal(check: Callable[[Path], None], folder: Path) -> str | None:
    try:
        check(folder)
    except SalsaError as error:
        return str(error)
    return None


def _cannot(folder: Path, part: str, reason: str) -> SalsaError:
    return SalsaError(
        f"{folder} cannot be {part}: {reason.removeprefix(f'{folder}: ')}. Expected a causal "
        "language model made of attention layers, such as Llama, Qwen or Mistral"
    )
