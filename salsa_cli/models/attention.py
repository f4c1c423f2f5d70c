"""Attention of our own in transformers' models: who registers it, gives a model a name for it.

Only plain attention is replaced. Transformers tells what else a model wants by arguments.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from salsa_cli.models.lm_head import Module

_BENT = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Arguments by which transformers asks for attention that is not the plain one."""


class UnsupportedAttentionError(Exception):
    """The model asks for attention of another kind."""


def require_plain_attention(arguments: Mapping[str, object]) -> None:
    """Refuse what is not plain attention.

    Raises:
        UnsupportedAttentionError: an argument asks for something else.
    """
    if any(arguments.get(name) is not None for name in _BENT):
        raise UnsupportedAttentionError


@contextmanager
def use_attention(model: Module, name: str) -> Iterator[None]:
    """The block in which a model attends by the function that is registered as `name`."""
    config = body(model).config
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def body(model: Module) -> Module:
    """The model without its head."""
    return getattr(model, model.base_model_prefix)
