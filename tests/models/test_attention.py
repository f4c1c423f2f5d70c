"""Attention of our own in a transformers model: when it may take the place of the model's."""

import pytest
import torch

from salsa_cli.models import attention
from salsa_cli.models.attention import UnsupportedAttentionError
from tests.support.kinds import llama


@pytest.mark.parametrize("name", ["sliding_window", "softcap", "s_aux", "position_bias"])
def test_another_kind_of_attention_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedAttentionError):
        attention.require_plain_attention({"scaling": 0.5, name: 4096})
    attention.require_plain_attention({"scaling": 0.5, name: None})
    attention.require_plain_attention({})


def test_the_models_own_attention_comes_back_whatever_happens() -> None:
    model = llama()
    before = model.config._attn_implementation
    with attention.use_attention(model, "eager"):
        assert attention.body(model).config._attn_implementation == "eager"
    with pytest.raises(KeyError), attention.use_attention(model, "eager"):
        raise KeyError
    assert model.config._attn_implementation == before


def test_the_body_gives_the_hidden_states_of_the_logits() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    ids = torch.tensor([[4, 6, 9]])
    with torch.no_grad():
        hidden = attention.body(model)(ids).last_hidden_state
        assert torch.equal(model(ids).logits, hidden @ model.lm_head.weight.T)
