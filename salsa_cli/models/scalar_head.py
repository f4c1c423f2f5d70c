"""A scalar head of our own on the hidden states of any causal language model.

Transformers has a sequence classifier for some families only. A critic needs one value per token,
and no more of the family than its body.
"""

import copy
import functools
from typing import Any

import torch

from salsa_cli.errors import SalsaError
from salsa_cli.models.lm_head import Module, body


def with_scalar_head(model: Module) -> Module:
    """The body of a causal language model with a new head of zeros, named `score`.

    The tensors of the body are not copied.

    Raises:
        SalsaError: the model has no body apart from its head, or no output embedding.
    """
    stem, output = body(model), model.get_output_embeddings()
    if output is None:
        raise SalsaError(
            f"a {type(model).__name__} has no output embedding to replace with a score head"
        )
    made = _scored(type(stem).__mro__[1])(copy.deepcopy(model.config))
    setattr(made, made.base_model_prefix, stem)
    made.score = torch.nn.Linear(output.weight.shape[1], 1, bias=False, device=model.device)
    torch.nn.init.zeros_(made.score.weight)
    return made.eval()


@functools.cache
def _scored(family: Any) -> Any:
    """A model class of the body's own family, which knows its layers and how to checkpoint them.

    Transformers reads the source of its module to find out which kernels (of experts, of attention)
    the class can use, so its module is that of the family.
    """
    return type("ScalarHeadModel", (family,), {"__module__": family.__module__})
