"""Custom attention functions in transformers models, selected by their registered name.

Only plain attention is replaced. Transformers requests any other kind through keyword arguments.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from salsa_cli.models.lm_head import Module, body

_OTHER_KINDS = ("sliding_window", "softcap", "s_aux", "position_bias")
"""Keyword arguments with which transformers requests attention of another kind."""


class UnsupportedAttentionError(Exception):
    """The model needs a kind of attention that is not implemented here."""


def require_plain_attention(arguments: Mapping[str, object]) -> None:
    """Check that no argument requests anything but plain attention.

    Raises:
        UnsupportedAttentionError: an argument does.
    """
    if any(arguments.get(name) is not None for name in _OTHER_KINDS):
        raise UnsupportedAttentionError


@contextmanager
def use_attention(model: Module, name: str) -> Iterator[None]:
    """Context manager: the model uses the attention function registered as `name`."""
    config = body(model).config
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before
