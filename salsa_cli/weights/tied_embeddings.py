"""Models whose output embedding is their input embedding, and how to store both apart."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from salsa_cli.errors import one_line
from salsa_cli.records import JSON
from salsa_cli.weights import config_classes
from salsa_cli.weights.shared_tensors import are_equal
from salsa_cli.weights.weight_files import WeightFiles

KEY = "tie_word_embeddings"

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
    ("model.language_model.embed_tokens.weight", "lm_head.weight"),
    ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"),
)
_CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_HEADLESS = ("ForSequenceClassification", "ForTokenClassification", "Model")
# Encoders and decoders that share one embedding, and models of several parts.
_EMBEDDING = re.compile(
    r"(.*\.)?(shared|embed_tokens|wte|word_embeddings|embed_in|lm_head)\.weight"
)


@dataclass(frozen=True)
class Tie:
    """The names of the tied tensors; `head` need not be stored."""

    embedding: str
    head: str


@dataclass(frozen=True)
class _Model:
    """A causal model, tied or not."""

    weights: WeightFiles
    tie: Tie
    is_tied: bool

    @property
    def stores_head(self) -> bool:
        return self.tie.head in self.weights.tensors

    @property
    def head_is_embedding(self) -> bool:
        """Whether the output embedding that it stores is the input embedding."""
        return are_equal(self.weights, self.tie.head, self.tie.embedding)

    @property
    def without_head(self) -> WeightFiles:
        tensors = self.weights.tensors.items()
        return replace(self.weights, tensors={n: s for n, s in tensors if n != self.tie.head})

    def is_contradictory(self, mixed: bool) -> bool:
        """Whether the output embedding is not what the configuration says.

        `mixed` if only some of the models are tied; else one that lacks it is like the others.
        """
        if self.is_tied:
            return self.stores_head and not self.head_is_embedding
        return mixed and not self.stores_head

    @property
    def contradiction(self) -> str:
        head, folder = one_line(self.tie.head), self.weights.folder
        if not self.is_tied:
            return f"{folder} has no {head}, and its config.json does not tie one ({KEY}: false)"
        return (
            f"{head} of {folder} differs from {self.tie.embedding}, to which its config.json ties "
            f"it: transformers 5 uses it, transformers 4 does not. Write {KEY}: false there if it "
            "counts, or remove the tensor if it does not"
        )


@dataclass(frozen=True)
class OneSpelling:
    """Models of which some are tied and some are not, with the same tensors as far as possible.

    `config` is that of the result. `settled` if a difference in `tie_word_embeddings` means nothing
    any more, `reasons` say why it still does.
    """

    models: tuple[WeightFiles, ...]
    config: Mapping[str, JSON]
    notes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    settled: bool = False


def find(weights: WeightFiles, config: Mapping[str, JSON]) -> Tie | None:
    """The tied embeddings of a causal model; None if they are not tied, or not known how."""
    tie = _pair(weights, config)
    return tie if tie is not None and is_tied(config) else None


def is_tied(config: Mapping[str, JSON]) -> bool:
    """Whether a configuration, with the default of its class, ties the embeddings."""
    if said := _said(config):
        return said[0]
    full = config_classes.complete(config)
    return full is None or bool(full.values.get(KEY, True))


def one_spelling(
    models: Sequence[WeightFiles], configs: Sequence[Mapping[str, JSON]]
) -> OneSpelling:
    """Make tied and untied models comparable; the first says which of both the result is.

    The output embedding of a tied model is its input embedding. So a tied first model stays tied
    only if the output embeddings that the others store equal their input embeddings; otherwise the
    result stores both, and so it does if the first model does.

    Raises:
        SalsaError: a file cannot be read.
    """
    same = OneSpelling(tuple(models), configs[0])
    ties = [_pair(one, config) for one, config in zip(models, configs, strict=True)]
    if any(tie is None for tie in ties) or len({tie.head for tie in ties if tie}) > 1:
        return replace(same, settled=all(map(_is_headless, configs)))
    pairs = [(one, tie) for one, tie in zip(models, ties, strict=True) if tie is not None]
    stored = {tie.head in one.tensors for one, tie in pairs}
    if len(stored) == 1 and all(_said(one) == _said(configs[0]) for one in configs):
        return same
    known = [_Model(*pair, is_tied(config)) for pair, config in zip(pairs, configs, strict=True)]
    mixed = len({one.is_tied for one in known}) > 1
    if not mixed and len(stored) == 1:
        return replace(same, settled=True)
    if reasons := [one.contradiction for one in known if one.is_contradictory(mixed)]:
        return replace(same, reasons=tuple(reasons), settled=True)
    return _unified(known, configs[0]) if mixed else replace(same, settled=True)


def is_tied_elsewhere(
    weights: WeightFiles, config: Mapping[str, JSON], changed: Collection[str]
) -> bool:
    """Whether one of the tensors that are `changed` is tied to another one.

    That of a model without an output embedding (a reward model) is not.
    """
    if not any(_EMBEDDING.fullmatch(name) for name in changed):
        return False
    if not _architecture(config).endswith((*_CAUSAL, "MaskedLM")):
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
    text = config.get("text_config")
    inside = {"text_config": {**text, KEY: False}} if isinstance(text, dict) and KEY in text else {}
    return {**config, **inside, KEY: False}


def _pair(weights: WeightFiles, config: Mapping[str, JSON]) -> Tie | None:
    """The embeddings of a causal model, tied or not; None if it is not known which they are."""
    if not _architecture(config).endswith(_CAUSAL) or config.get("is_encoder_decoder"):
        return None
    if _architecture(config).endswith(_CAUSAL[-1]) and "vision_config" not in config:
        return None  # encoders and decoders tie more than two tensors
    found = [Tie(*pair) for pair in _PAIRS if pair[0] in weights.tensors]
    if len(found) != 1 or len(set(_said(config))) > 1:
        return None
    return found[0]


def _said(config: Mapping[str, JSON]) -> tuple[bool, ...]:
    """What a configuration, and that of the language model inside it, say of the tie."""
    text = config.get("text_config")
    found = (config.get(KEY), text.get(KEY) if isinstance(text, dict) else None)
    return tuple(one for one in found if isinstance(one, bool))


def _is_headless(config: Mapping[str, JSON]) -> bool:
    """Whether a model has nothing to tie: no output embedding, and one input embedding."""
    return _architecture(config).endswith(_HEADLESS) and not config.get("is_encoder_decoder")


def _architecture(config: Mapping[str, JSON]) -> str:
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else ""


def _unified(models: Sequence[_Model], config: Mapping[str, JSON]) -> OneSpelling:
    """The models, all tied or none, where some are and some are not."""
    first = models[0]
    head = first.tie.head
    if first.is_tied and all(one.is_tied or one.head_is_embedding for one in models):
        note = (
            f"{head} is left out: it equals {first.tie.embedding}, to which {first.weights.folder} "
            "ties it"
        )
        return OneSpelling(tuple(one.without_head for one in models), config, (note,), settled=True)
    named = ", ".join(str(one.weights.folder) for one in models if one.is_tied)
    note = (
        f"the input embedding of {named} is also used as its {head}, since the two are tied there"
    )
    if first.is_tied:
        note += f"; the result stores a separate {head} ({KEY}: false)"
        config = untied_config(config)
    return OneSpelling(
        tuple(untie(one.weights, one.tie) if one.is_tied else one.weights for one in models),
        config,
        (note,),
        settled=True,
    )
