"""Loads policies, reward models, critics and tokenizers with transformers.

Dropout is off in every model: all of them stay in evaluation mode, also while their weights are
trained, so that log-probabilities of one batch can be compared between passes.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from salsa_cli.data import Prompt
from salsa_cli.errors import SalsaError, during
from salsa_cli.models import assembly, config_overrides, lora, shapes
from salsa_cli.models.backbones import Placement
from salsa_cli.models.forward import Module, last_scores
from salsa_cli.models.input_limits import UNLIMITED, Limits
from salsa_cli.models.shapes import text_config
from salsa_cli.models.tokenization import (
    Answer,
    Tokenizer,
    end_token,
    pad_right,
    padding_token,
    scored_ids,
)
from salsa_cli.weights import compatibility, folders

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


_NEUTRAL: dict[str, Any] = {
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "bad_words_ids": None,
    "sequence_bias": None,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
    "min_length": 0,
}
"""Settings of a generation config that change which tokens are sampled; their neutral values."""


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model with its tokenizer and the tokens that end and pad its answers."""

    folder: Path
    model: Module
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    pad_id: int


@dataclass(frozen=True)
class RewardModel:
    """A sequence classifier with one output, and the scale that makes its scores mean 0, std 1."""

    folder: Path
    model: Module
    tokenizer: Tokenizer
    mean: float
    std: float
    limits: Limits = UNLIMITED

    @property
    def pad_id(self) -> int:
        """The token that pads batches; it is masked, so any token of the embedding will do."""
        return self.limits.pad(self.tokenizer.pad_token_id, end_token(self.tokenizer))

    def score_ids(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Raw scores `[B]` in float32, with gradients, of rows of token ids."""
        tokens = pad_right(rows, self.pad_id).to(self.model.device)
        return last_scores(self.model, tokens)

    @torch.no_grad()
    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor:
        """Normalised scores `[B]` in float32 on the CPU."""
        rows = [
            scored_ids(self.tokenizer, prompt, answer)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        with during(str(self.folder)):
            self.limits.check(self.tokenizer, rows)
        return ((self.score_ids(rows) - self.mean) / self.std).cpu()


def find(name: str) -> Path:
    """The folder of a model, or of an adapter that can be loaded into its base.

    Raises:
        SalsaError: there is no such folder, the base is missing, the adapter is of another kind, or
            PEFT is not installed.
    """
    folder = folders.resolve_any(name)
    if folders.is_adapter(folder):
        assembly.adapter(folder)
        folders.base(folder)
        lora.check()
    return folder


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder; code in the folder is never executed."""
    place = folders.tokenizer(folder)
    try:
        return cast(Tokenizer, AutoTokenizer.from_pretrained(place, trust_remote_code=False))
    except Exception as error:
        raise SalsaError(
            f"{folder}: its tokenizer cannot be loaded ({assembly.first_line(error)})"
        ) from error


def token_differences(first: Path, other: Path) -> list[str]:
    """Differences in vocabulary and special tokens between two models."""
    return compatibility.tokenizers(folders.tokenizer(first), folders.tokenizer(other))


def load_language_model(folder: Path, placement: Placement) -> LanguageModel:
    """A frozen causal language model; see `trainable`.

    For the folder of an adapter, its base, which may be shared, with the adapter.

    Raises:
        SalsaError: it cannot be loaded, weights are missing, or it has no end token.
    """
    tokenizer = load_tokenizer(folder)
    if placement.dtype is None:
        placement = replace(placement, dtype=shapes.stored_dtype(folder))
    model = assembly.language_model(folder, placement)
    eos = _end_ids(folder, model.generation_config, tokenizer)
    pad = Limits.of(folder).pad(tokenizer.pad_token_id, eos[0])
    # Sampling settings of the folder (top_p, repetition_penalty) would change the distribution.
    model.generation_config = GenerationConfig(eos_token_id=list(eos), pad_token_id=pad)
    return LanguageModel(folder, model, tokenizer, eos, pad)


def end_ids(folder: Path) -> tuple[int, ...]:
    """The end tokens of a model, read from its files without loading it.

    Raises:
        SalsaError: there are none.
    """
    return _end_ids(folder, _generation_config(folder), load_tokenizer(folder))


def ignored_settings(folder: Path) -> dict[str, Any]:
    """What a generation config says about which tokens may be sampled, in which training is free.

    A policy learns the distribution that it samples from, which is that of its logits.
    """
    config = _generation_config(folder)
    given = {name: getattr(config, name, None) for name in _NEUTRAL}
    return {name: one for name, one in given.items() if one and one != _NEUTRAL[name]}


def _generation_config(folder: Path) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(generation_config_folder(folder))
    except OSError:  # without that file, config.json counts
        return GenerationConfig.from_model_config(text_config(folder))
    except Exception as error:
        raise SalsaError(
            f"{folder}: generation_config.json cannot be used ({assembly.first_line(error)}); "
            "correct or remove that setting; salsa does not need it"
        ) from error


def load_reward_model(folder: Path, placement: Placement) -> RewardModel:
    """A trained reward model, frozen; the folder may hold its adapter.

    Raises:
        SalsaError: it cannot be loaded, or its folder has no trained score head.
    """
    model = assembly.classifier(folder, placement)
    scale = folders.reward_scale(folder) or {}
    return RewardModel(
        folder,
        model,
        load_tokenizer(folder),
        float(scale.get("mean", 0.0)),
        float(scale.get("std", 1.0)),
        Limits.of(folder),
    )


def new_reward_model(
    folder: Path, device: torch.device, seed: int, pad_token: str | None = None
) -> RewardModel:
    """A reward model to train: the body of a language model in float32 and a new score head.

    `pad_token` is for tokenizers without a usable one (see `tokens.padding_token`). The head is
    normal with standard deviation 1/sqrt(d + 1) (Stiennon et al. 2020, appendix) and depends only
    on `seed`.
    """
    tokenizer = load_tokenizer(folder)
    model = _load_body(folder)
    width = model.score.in_features
    noise = torch.randn(
        model.score.weight.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32
    )
    with torch.no_grad():
        model.score.weight.copy_(noise / math.sqrt(width + 1))
    tokenizer.pad_token = padding_token(folder, tokenizer, pad_token)
    model.config.pad_token_id = tokenizer.pad_token_id
    trained = assembly.frozen(model, device)
    return RewardModel(folder, trained, tokenizer, 0.0, 1.0, Limits.of(folder))


def load_critic(folder: Path, placement: Placement, *, bias: bool = False) -> Module:
    """A value network on the scale of the rewards, its head in float32.

    A reward model keeps its head, normalised like its scores; a policy gets a head of zeros. With
    `bias`, the head has a bias in any case, as `rescale_head` needs.
    """
    trained = assembly.has_score_head(folder)
    make = assembly.classifier if trained else assembly.untrained_classifier
    model = make(folder, placement)
    if not hasattr(model, "score"):
        raise SalsaError(f"{folder}: a {type(model).__name__} has no per-token score head")
    given, scale = model.score.weight.float(), folders.reward_scale(folder)
    bias = bias or scale is not None
    head = torch.nn.Linear(given.shape[1], 1, bias=bias, device=placement.device)
    with torch.no_grad():
        head.weight.copy_(given / scale["std"] if scale else given)
        if bias:
            head.bias.fill_(-scale["mean"] / scale["std"] if scale else 0.0)
    model.score = head.requires_grad_(False)
    return model


@torch.no_grad()
def rescale_head(critic: Module, mean: float, std: float) -> None:
    """Make a critic's values (value - mean) / std, in place; its head has a bias."""
    critic.score.weight.div_(std)
    critic.score.bias.sub_(mean).div_(std)


def trainable(model: Module) -> list[torch.nn.Parameter]:
    """Enable gradients of the trainable weights of a model and return them; dropout stays off.

    All weights; in a model with adapters, the adapters and the score head.
    """
    named = list(model.named_parameters())
    adapted = any("lora_" in name for name, _ in named)
    for name, parameter in named:
        parameter.requires_grad_(not adapted or "lora_" in name or name.startswith("score."))
    return [parameter for _, parameter in named if parameter.requires_grad]


def checkpoint_activations(model: Module, layers: int | None = None) -> None:
    """Let layers discard their activations and recompute them in the backward pass.

    Args:
        layers: only so many, the first; by default all. Of a model whose layers are no
            `GradientCheckpointingLayer`, it is always all.
    """
    # The newer releases of Transformers 5 have another name for it, and warn of the older one.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    # Transformers does so only in training mode: these layers alone go into it, and not what is in
    # them. Some drop out by a rate of their own there, or by one of the configuration.
    config_overrides.override(model)
    if layers is not None:
        every = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]
        for layer in every[layers:]:
            layer.gradient_checkpointing = False
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True


@contextmanager
def checkpointed(*given: Module, layers: int | None = None) -> Iterator[None]:
    """`checkpoint_activations` of models for a block, which learns and does not generate.

    Layers that recompute do without a key-value cache, too.
    """
    for model in given:
        checkpoint_activations(model, layers)
    try:
        yield
    finally:
        for module in (module for model in given for module in model.modules()):
            if getattr(module, "gradient_checkpointing", False):
                module.gradient_checkpointing = module.training = False


def _end_ids(folder: Path, generation: Any, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The end tokens of the generation config, then that of the tokenizer."""
    given = generation.eos_token_id if generation else None
    eos = list(given) if isinstance(given, list | tuple) else [] if given is None else [given]
    if wrong := [one for one in eos if type(one) is not int or one < 0]:
        raise SalsaError(
            f"{folder}: eos_token_id in generation_config.json contains {wrong[0]!r}; expected a "
            "token id, or a list of them"
        )
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in eos:
        eos.append(tokenizer.eos_token_id)
    if not eos:
        raise SalsaError(
            f"{folder}: neither the tokenizer nor generation_config.json has an end token "
            "(eos_token)"
        )
    return tuple(eos)


def generation_config_folder(folder: Path) -> Path:
    """The folder whose generation config applies: that of an adapter, or else that of its base."""
    own = (folder / "generation_config.json").is_file()
    return folder if own else folders.base(folder)


def _load_body(folder: Path) -> Module:
    """A sequence classifier with the body of a language model; its head is not set yet."""
    model = assembly.load(
        AutoModelForSequenceClassification,
        folder,
        torch.float32,
        "a sequence classifier",
        fresh=("score.",),
        num_labels=1,
    )
    if not hasattr(model, "score"):
        raise SalsaError(
            f"{folder}: a {type(model).__name__} has no score head that salsa can train"
        )
    return model
