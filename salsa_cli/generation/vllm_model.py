"""What a vLLM server serves, and whether the policy's weights fit into it.

vLLM loads weights of another shape until the first tensor that does not fit, and is unusable
afterwards. Hence the comparison before anything is sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from salsa_cli.errors import SalsaError
from salsa_cli.generation import vllm_http
from salsa_cli.generation.vllm_http import COMMAND, who
from salsa_cli.models import shapes

INFO_PATIENCE = 60.0
"""Seconds to wait for /server_info, for which vLLM runs `pip` and `nvidia-smi` the first time."""

SHAPE = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "tie_word_embeddings",
)
"""Fields of a configuration that the names or shapes of weights depend on."""


@dataclass(frozen=True)
class ServedModel:
    """A model as the server describes it.

    Attributes:
        name: under which requests ask for it.
        root: the folder or hub id that it was loaded from; None if the server does not say.
        context: the most tokens of a prompt with its answer; None if the server does not say.
        dtype: in which it computes, as `bfloat16`; None if the server does not say.
    """

    name: str
    root: str | None
    context: int | None
    dtype: str | None = None


def served_model(url: str, patience: float) -> ServedModel:
    """The model of the server.

    Raises:
        SalsaError: nothing answers there, or something else than a vLLM server.
    """
    try:
        raw = vllm_http.exchange(url, "GET", "/v1/models", None, patience)
    except vllm_http.Refusal as refused:
        raise SalsaError(f"{refused}; expected a vLLM server: {COMMAND}") from refused
    for card in cards(vllm_http.parsed(url, raw, "/v1/models")):
        if not card.get("parent"):  # an adapter names its parent
            root, context = card.get("root"), card.get("max_model_len")
            return ServedModel(
                card["id"],
                root if isinstance(root, str) else None,
                context if isinstance(context, int) else None,
                _dtype(url),
            )
    raise SalsaError(f"{who(url)} names no model at /v1/models; expected: {COMMAND}")


def cards(listed: object) -> list[dict[str, Any]]:
    """The models and adapters in a response of /v1/models."""
    found = listed.get("data") if isinstance(listed, dict) else None
    return [
        one
        for one in (found if isinstance(found, list) else [])
        if isinstance(one, dict) and isinstance(one.get("id"), str)
    ]


def check_fits(url: str, model: ServedModel, policy: Path) -> bool:
    """Refuse a server whose model has other shapes than the policy; returns whether they are known.

    Raises:
        SalsaError: names all fields that differ.
    """
    if model.root is None or (served := _config(model.root)) is None:
        return False
    expected = _shape(shapes.text_config(policy))
    found = _shape(served)
    differences = [
        f"{name} is {found[name]} (expected {value})"
        for name, value in expected.items()
        if found[name] != value
    ]
    if differences:
        raise SalsaError(
            f"{who(url)} serves {model.root}, which does not fit the policy {policy}: "
            f"{', '.join(differences)}. Nothing was sent. Serve the policy's start: "
            f"{COMMAND.replace('MODEL', str(policy))}"
        )
    return True


def _shape(config: Any) -> Mapping[str, object]:
    return {name: getattr(config, name, None) for name in SHAPE}


def _config(root: str) -> Any:
    """The configuration of a folder or of a hub model in the local cache; None without one."""
    try:
        config = AutoConfig.from_pretrained(root, local_files_only=True, trust_remote_code=False)
        return config.get_text_config()
    except Exception:  # transformers raises errors of many kinds
        return None


def _dtype(url: str) -> str | None:
    """The data type that the server computes in; None if it does not say."""
    path = "/server_info?config_format=json"
    try:
        raw = vllm_http.exchange(url, "GET", path, None, INFO_PATIENCE)
        told = vllm_http.parsed(url, raw, path)["vllm_config"]["model_config"]["dtype"]
    except (SalsaError, KeyError, TypeError):  # older releases have no such endpoint, or only text
        return None
    return told.removeprefix("torch.") if isinstance(told, str) else None
