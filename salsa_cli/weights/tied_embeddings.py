"""Models whose output embedding is their input embedding, and how to store both apart."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from salsa_cli.records import JSON
from salsa_cli.weights import config_classes
from salsa_cli.weights.weight_files import WeightFiles

_KEY = "tie_word_embeddings"

# Input embedding, and what the families that store it so call the output embedding.
_PAIRS = (
    ("model.embed_tokens.weight", "lm_head.weight"),
    ("model.decoder.embed_tokens.weight", "lm_head.weight"),
    ("transformer.wte.weight", "lm_head.weight"),
    ("wte.weight", "lm_head.weight"),
    ("transformer.word_embeddings.weight", "lm_head.weight"),
    ("word_embeddings.weight", "lm_head.weight"),
    ("gpt_neox.embed_in.weight", "embed_out.weight"),
    ("backbone.embeddings.weight", "lm_head.weight"),
)
# Encoders and decoders that share one embedding, and models of several parts.
_EMBEDDING = re.compile(
    r"(.*\.)?(shared|embed_tokens|wte|word_embeddings|embed_in|lm_head)\.weight"
)


@dataclass(frozen=True)
class Tie:
    """The names of the tied tensors; `head` need not be stored."""

    embedding: str
    head: str


def find(weights: WeightFiles, config: Mapping[str, JSON]) -> Tie | None:
    """The tied embeddings of a causal model; None if they are not tied, or not known how."""
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else ""
    causal = str(named).endswith(("ForCausalLM", "LMHeadModel"))
    found = [Tie(*pair) for pair in _PAIRS if pair[0] in weights.tensors]
    return found[0] if causal and len(found) == 1 and is_tied(config) else None


def is_tied(config: Mapping[str, JSON]) -> bool:
    """Whether a configuration, with the default of its class, ties the embeddings."""
    if isinstance(said := config.get(_KEY), bool):
        return said
    full = config_classes.complete(config)
    return full is None or bool(full.values.get(_KEY, True))


def is_tied_elsewhere(
    weights: WeightFiles, config: Mapping[str, JSON], changed: Collection[str]
) -> bool:
    """Whether one of the tensors that are `changed` is tied to another one.

    That of a model without an output embedding (a reward model) is not.
    """
    architectures = config.get("architectures")
    named = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    if not any(_EMBEDDING.fullmatch(name) for name in changed):
        return False
    if not named.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MaskedLM")):
        return False
    return is_tied(config)


def untie(weights: WeightFiles, tie: Tie) -> WeightFiles:
    """The weights with both embeddings: the output embedding is read where the input one lies.

    It comes last in the file of the input embedding. One that is stored, which a tied model does
    not load, makes room for it.
    """
    source = weights.tensors[tie.embedding]
    copy = replace(source, name=tie.head)
    tensors = {name: spec for name, spec in weights.tensors.items() if name != tie.head}
    last = [name for name, spec in tensors.items() if spec.file == source.file][-1]
    both = {}
    for name, spec in tensors.items():
        both[name] = spec
        if name == last:
            both[tie.head] = copy
    return replace(weights, tensors=both)


def untied_config(config: Mapping[str, JSON]) -> dict[str, JSON]:
    """The configuration of a model that stores both."""
    return {**config, _KEY: False}
