"""Trained models as ordinary folders: types, tied weights, adapters, and a full disk."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from salsa_cli.errors import StorageError
from salsa_cli.models import loading, lora, saving
from salsa_cli.models.backbones import Placement
from tests.support import tiny
from tests.support.adapters import AdapterWorld

CPU = torch.device("cpu")


def stored_as(folder: Path, dtype: str) -> Path:
    """The same model with its weights in this type."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    return folder


def test_a_model_is_written_in_the_type_that_its_start_has(tmp_path: Path) -> None:
    start = stored_as(tiny.save_language_model(tmp_path / "start", seed=1), "bfloat16")
    (start / "generation_config.json").write_text('{ "eos_token_id": 2, "top_k": 7 }')
    model = loading.load_language_model(start, Placement(torch.float32, CPU)).model
    saving.save_model(model, tmp_path / "out", like=start)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert (tmp_path / "out" / "generation_config.json").read_bytes() == (
        start / "generation_config.json"
    ).read_bytes()
    mode = (tmp_path / "out" / "model.safetensors").stat().st_mode
    assert mode == (tmp_path / "out" / "config.json").stat().st_mode


def test_to_sample_the_policy_is_copied_and_stays_as_it_is(tmp_path: Path) -> None:
    start = tiny.save_language_model(tmp_path / "start", seed=1, tie_word_embeddings=True)
    stored_as(start, "bfloat16")
    model = loading.load_language_model(start, Placement(torch.float32, CPU)).model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saving.save_to_sample(model, tmp_path / "out", like=start)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert "lm_head.weight" not in weights  # tied, and so stored once
    for name, tensor in weights.items():
        assert torch.equal(tensor, before[name].bfloat16()), name
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, before[name])


def test_a_new_adapter_is_merged_into_the_stored_weights(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    start = tiny.save_language_model(tmp_path / "start", seed=1)
    model = loading.load_language_model(start, Placement(torch.float32, CPU)).model
    lora.add(model, 2, 0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    ids = torch.tensor([[4, 6, 9]])
    with torch.no_grad():
        expected = model(ids).logits
    saving.save_policy(model, tmp_path / "out", like=start)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, expected, rtol=0, atol=1e-5)
        plain = AutoModelForCausalLM.from_pretrained(start)(ids).logits
    assert (plain - expected).abs().max() > 1e-2


def test_an_adapter_is_written_as_an_adapter(adapted: AdapterWorld, tmp_path: Path) -> None:
    model = loading.load_language_model(adapted.a, Placement(torch.float32, CPU)).model
    (tmp_path / "out").mkdir()
    saving.save_policy(model, tmp_path / "out", like=adapted.a)
    assert not (tmp_path / "out" / "config.json").exists()
    ours, theirs = (
        load_file(f / "adapter_model.safetensors") for f in (tmp_path / "out", adapted.a)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files of at most so many bytes, as a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("save", [saving.save_model, saving.save_to_sample])
def test_a_full_disk_is_one_error_that_names_the_folder(save: object, tmp_path: Path) -> None:
    start = tiny.save_language_model(tmp_path / "start", seed=1)
    model = loading.load_language_model(start, Placement(torch.float32, CPU)).model
    with full_disk(4096), pytest.raises(StorageError, match=r"out: cannot write it: "):
        save(model, tmp_path / "out", like=start)  # type: ignore[operator]


def test_saving_a_policy_leaves_it_as_it_was(tmp_path: Path) -> None:
    start = tiny.save_language_model(tmp_path / "start", seed=1, tie_word_embeddings=True)
    stored_as(start, "bfloat16")
    model = loading.load_language_model(start, Placement(torch.float32, CPU)).model
    before = {name: (one, one.data_ptr()) for name, one in model.named_parameters()}
    others = {name: (one.data_ptr(), one.dtype) for name, one in model.named_buffers()}
    saving.save_policy(model, tmp_path / "out", like=start)
    assert {name: (one, one.data_ptr()) for name, one in model.named_parameters()} == before
    assert {n: (one.data_ptr(), one.dtype) for n, one in model.named_buffers()} == others
    assert model.config.dtype == torch.float32
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


def test_as_saved_a_policy_computes_with_rounded_weights(tmp_path: Path) -> None:
    start = stored_as(tiny.save_language_model(tmp_path / "start", seed=1), "bfloat16")
    model = loading.load_language_model(start, Placement(torch.float32, CPU)).model
    with torch.no_grad():
        for one in model.parameters():
            one += 1e-4  # no bfloat16 number
    before = {name: (one, one.data_ptr()) for name, one in model.named_parameters()}
    saving.save_policy(model, tmp_path / "out", like=start)
    expected = load_file(tmp_path / "out" / "model.safetensors")
    with saving.as_saved(model, torch.float32, like=start):
        for name, value in model.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, expected[name].float()), name
    assert {name: (one, one.data_ptr()) for name, one in model.named_parameters()} == before
    assert any(
        not torch.equal(value, expected[name].float()) for name, value in model.state_dict().items()
    )
