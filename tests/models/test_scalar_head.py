"""A scalar head on any causal model: its values, what it shares, and models that have no place."""

from collections.abc import Callable

import pytest
import torch
import transformers

from salsa_cli.errors import SalsaError
from salsa_cli.models import forward
from salsa_cli.models.forward import Module
from salsa_cli.models.scalar_head import with_scalar_head
from tests.support.families import ANSWERS, PROMPTS, SMALL, build, read
from tests.support.kinds import convolutional, llama

# Transformers has no sequence classifier for the last three.
FAMILIES = ["Llama", "GPT-2", "Cohere, multiplied logits", "Granite, divided logits"]


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_the_head_on_the_states_before_each_token(family: str) -> None:
    model = build(family)
    critic = with_scalar_head(model).double()
    assert not critic.training
    # A head of zeros says that everything is worth nothing.
    assert forward.answer_values(critic, read()).abs().sum() == 0
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 16, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        critic.score.weight.copy_(weight)
        found = forward.answer_values(critic, read())
        body = getattr(model, model.base_model_prefix)
        for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
            states = body(torch.tensor([prompt + answer])).last_hidden_state[0]
            theirs = (states @ weight.T)[len(prompt) - 1 : -1, 0]
            # Norms and rotations of these families round to float32 on the way.
            ours = found[row, : len(theirs)]
            torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("make", [llama, convolutional])
def test_the_tensors_of_the_body_are_not_copied(make: Callable[[], Module]) -> None:
    model = make()
    critic = with_scalar_head(model)
    body = getattr(model, model.base_model_prefix)
    ours = {p.data_ptr() for p in critic.parameters()} - {critic.score.weight.data_ptr()}
    assert ours == {p.data_ptr() for p in body.parameters()}
    assert critic.config is not model.config  # each may be set on its own


def test_a_model_without_an_output_embedding_is_refused() -> None:
    model = llama()
    model.set_output_embeddings(None)
    with pytest.raises(SalsaError, match="a LlamaForCausalLM has no output embedding to replace"):
        with_scalar_head(model)


@pytest.mark.parametrize("kind", ["GraniteMoe", "Olmoe", "Phimoe", "Mixtral"])
def test_mixtures_of_experts_have_values(kind: str) -> None:
    """In float32, the widest type that their grouped products of matrices take."""
    settings = {"num_local_experts": 4, "num_experts_per_tok": 2}
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **settings})
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    critic = with_scalar_head(model)
    with torch.no_grad():
        critic.score.weight.normal_()
        found = forward.answer_values(critic, read())
        for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
            states = model.model(torch.tensor([prompt + answer])).last_hidden_state[0]
            theirs = (states @ critic.score.weight.T)[len(prompt) - 1 : -1, 0]
            ours = found[row, : len(theirs)]
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # float32 sums
