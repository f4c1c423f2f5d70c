"""Dropout is off in every model that is loaded, and what config.json said comes back on saving."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig, PreTrainedConfig

from salsa_cli.models import config_overrides, loading, saving
from salsa_cli.models.backbones import Placement
from tests.support import architectures

PLACEMENT = Placement(torch.float32, torch.device("cpu"))

# Those whose layers read a rate where they are called, and those with dropout modules.
KINDS = ["falcon", "opt", "biogpt", "gpt2", "xglm", "bloom", "phi"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_training_mode_computes_as_in_evaluation(kind: str, tmp_path: Path) -> None:
    folder = architectures.save(tmp_path / "m", kind, 1)
    rates = [value for name, value in stored(folder).items() if "drop" in name and value]
    assert rates  # or nothing would be tested
    ids = torch.arange(3, 15).view(2, 6)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()(ids).logits
    model = loading.load_language_model(folder, PLACEMENT).model.train()
    torch.testing.assert_close(model(ids).logits, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_config_has_the_rates_of_the_one_that_was_loaded(kind: str, tmp_path: Path) -> None:
    folder = architectures.save(tmp_path / "m", kind, 1)
    model = loading.load_language_model(folder, PLACEMENT).model
    for path in (tmp_path / "saved", tmp_path / "sampled"):
        path.mkdir()
    saving.save_to_sample(model, tmp_path / "sampled", like=folder)
    saving.save_model(model, tmp_path / "saved", like=folder)
    for name in ("saved", "sampled"):
        assert (tmp_path / name / "config.json").read_text() == (
            (folder / "config.json").read_text()
        )


def test_rates_of_configurations_within_a_configuration_are_0() -> None:
    inner = OPTConfig(dropout=0.3, layerdrop=1)
    model = torch.nn.Sequential(torch.nn.Dropout(0.2))
    model.config = PreTrainedConfig(text_config=inner, hidden_dropout=0.1, drop_tokens=True)
    config_overrides.override(model)
    assert (inner.dropout, inner.layerdrop, model.config.hidden_dropout, model[0].p) == (0, 0, 0, 0)
    assert model.config.drop_tokens is True


def test_rates_that_config_json_leaves_to_their_default_stay_so(tmp_path: Path) -> None:
    """OPT's default is 0.1: a 0 that was written would change another program's training."""
    folder = architectures.save(tmp_path / "m", "opt", 1)
    content = stored(folder)
    del content["dropout"]
    (folder / "config.json").write_text(json.dumps(content))
    model = loading.load_language_model(folder, PLACEMENT).model
    assert model.config.dropout == 0.0
    (tmp_path / "saved").mkdir()
    saving.save_model(model, tmp_path / "saved", like=folder)
    assert "dropout" not in stored(tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").config.dropout == 0.1


@pytest.mark.parametrize(
    ("saved", "source", "restored"),
    [
        ({"dropout": 0.0, "a": 1}, {"dropout": 0.1}, {"dropout": 0.1, "a": 1}),
        ({"resid_pdrop": 0.0}, {}, {}),
        ({"drop_tokens": True}, {"drop_tokens": False}, {"drop_tokens": True}),
        ({"output_attentions": False}, {"output_attentions": True}, {"output_attentions": True}),
        ({}, {"return_dict": False, "b": 2}, {"return_dict": False}),
        (
            {"text_config": {"hidden_dropout": 0.0, "c": 3}},
            {"text_config": {"hidden_dropout": 0.2}},
            {"text_config": {"hidden_dropout": 0.2, "c": 3}},
        ),
        ({"text_config": {"hidden_dropout": 0.0}}, {}, {"text_config": {"hidden_dropout": 0.0}}),
    ],
)
def test_what_is_restored(
    saved: dict[str, Any], source: dict[str, Any], restored: dict[str, Any], tmp_path: Path
) -> None:
    for name, content in (("new", saved), ("old", source)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
    config_overrides.restore(tmp_path / "new", tmp_path / "old")
    assert stored(tmp_path / "new") == restored


def stored(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found
