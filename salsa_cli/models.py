"""Transformers: policies, reward models, critics and tokenizers, loaded, run and saved.

Never trains. Dropout is off in every model: all of them stay in evaluation mode, also while their
weights are trained, so that log-probabilities of one batch can be compared between passes.
"""

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from salsa_cli import assembly, backbones, lora
from salsa_cli.backbones import Source
from salsa_cli.data import Prompt
from salsa_cli.errors import SalsaError, StorageError, one_line, os_errors
from salsa_cli.passes import Module, last_scores
from salsa_cli.tokens import (
    Answer,
    Tokenizer,
    end_token,
    pad_right,
    padding_token,
    scored_ids,
)
from salsa_cli.weights import compatibility, folders

SHARD = "2GB"
"""Largest file of weights that are handed over; each is held once more while it is written."""

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


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

    @property
    def pad_id(self) -> int:
        """The token that pads its batches; it is masked, so any will do."""
        pad = self.tokenizer.pad_token_id
        return end_token(self.tokenizer) if pad is None else pad

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
        return ((self.score_ids(rows) - self.mean) / self.std).cpu()


@dataclass(frozen=True)
class Shape:
    """The widths of a transformer, in values a token.

    Attributes:
        hidden: of the residual stream.
        heads, keys: of all queries, and of all keys (or values).
        inner: between the two halves of the feed-forward part.
    """

    layers: int
    hidden: int
    heads: int
    keys: int
    inner: int
    vocabulary: int


def find(name: str) -> Path:
    """The folder of a model, or of an adapter that can be put into its base, which is here.

    Raises:
        SalsaError: there is none, or the adapter is of another kind, or PEFT is not installed.
    """
    folder = folders.resolve_any(name)
    if folders.is_adapter(folder):
        assembly.adapter(folder)
        folders.base(folder)
        lora.check()
    return folder


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder; never runs code from the folder."""
    place = folders.tokenizer(folder)
    try:
        return cast(Tokenizer, AutoTokenizer.from_pretrained(place, trust_remote_code=False))
    except Exception as error:
        raise SalsaError(
            f"{folder}: no tokenizer can be loaded from it ({assembly.first_line(error)})"
        ) from error


def token_differences(first: Path, other: Path) -> list[str]:
    """Differences in vocabulary and special tokens between two models."""
    return compatibility.tokenizers(folders.tokenizer(first), folders.tokenizer(other))


def load_language_model(
    folder: Path,
    dtype: torch.dtype | None,
    device: torch.device,
    source: Source = backbones.alone,
) -> LanguageModel:
    """A causal language model, frozen, in `dtype` or as it is stored; `trainable` thaws it.

    Of an adapter's folder, its base (which `source` may share) with the adapter put in.

    Raises:
        SalsaError: it cannot be loaded, weights are missing, or nothing ends its answers.
    """
    tokenizer = load_tokenizer(folder)
    model = assembly.language_model(folder, dtype, device, source)
    eos = _end_ids(folder, model.generation_config, tokenizer)
    pad = eos[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    # The folder's sampling habits (top_p, repetition_penalty ...) would bend every log-probability.
    model.generation_config = GenerationConfig(eos_token_id=list(eos), pad_token_id=pad)
    return LanguageModel(folder, model, tokenizer, eos, pad)


def end_ids(folder: Path) -> tuple[int, ...]:
    """The tokens that end an answer of a model, by its files alone.

    Raises:
        SalsaError: there are none.
    """
    try:
        habits = GenerationConfig.from_pretrained(_habits(folder))
    except OSError:  # without such a file, the model's own configuration says it
        habits = GenerationConfig.from_model_config(_text_config(folder))
    return _end_ids(folder, habits, load_tokenizer(folder))


def load_reward_model(
    folder: Path, dtype: torch.dtype, device: torch.device, source: Source = backbones.alone
) -> RewardModel:
    """A trained reward model, or the adapter of one, frozen.

    Raises:
        SalsaError: it cannot be loaded, or its folder has no trained score head.
    """
    model = assembly.classifier(folder, dtype, device, source)
    scale = folders.reward_scale(folder) or {}
    return RewardModel(
        folder,
        model,
        load_tokenizer(folder),
        float(scale.get("mean", 0.0)),
        float(scale.get("std", 1.0)),
    )


def new_reward_model(
    folder: Path, device: torch.device, seed: int, pad_token: str | None = None
) -> RewardModel:
    """A reward model to train: the language model's body in float32 and a fresh score head.

    `pad_token` is for a tokenizer that has none of use (see `tokens.padding_token`). The head is
    normal with standard deviation 1/sqrt(d + 1) (Stiennon et al. 2020, appendix), drawn from `seed`
    alone.
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
    return RewardModel(folder, assembly.frozen(model, device), tokenizer, 0.0, 1.0)


def load_critic(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    source: Source = backbones.alone,
) -> Module:
    """A value network in the scale of the rewards, its head in float32.

    A reward model keeps its head, rescaled as its scores are; a policy gets a head of zeros.
    """
    trained = assembly.has_score_head(folder)
    make = assembly.classifier if trained else assembly.untrained_classifier
    model = make(folder, dtype, device, source)
    if not hasattr(model, "score"):
        raise SalsaError(f"{folder}: a {type(model).__name__} has no per-token score head")
    given, scale = model.score.weight.float(), folders.reward_scale(folder)
    head = torch.nn.Linear(given.shape[1], 1, bias=scale is not None, device=device)
    with torch.no_grad():
        head.weight.copy_(given / scale["std"] if scale else given)
        if scale:
            head.bias.fill_(-scale["mean"] / scale["std"])
    model.score = head.requires_grad_(False)
    return model


def trainable(model: Module) -> list[torch.nn.Parameter]:
    """Thaw the weights of a model and return them; dropout stays off.

    All of them; of a model with adapters, these and the score head.
    """
    named = list(model.named_parameters())
    adapted = any("lora_" in name for name, _ in named)
    for name, parameter in named:
        parameter.requires_grad_(not adapted or "lora_" in name or name.startswith("score."))
    return [parameter for _, parameter in named if parameter.requires_grad]


def checkpoint_activations(model: Module) -> None:
    """Let the layers forget their activations and compute them again in the backward pass."""
    # The newer releases of Transformers 5 have another name for it, and warn of the older one.
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})
    # Transformers does so only in training mode, which would bring dropout back; these layers
    # alone go into it, and not what is in them.
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True


@contextmanager
def checkpointed(*given: Module) -> Iterator[None]:
    """`checkpoint_activations` of models for a block, which learns and does not generate.

    Layers that forget their activations do without a key-value cache, too.
    """
    for model in given:
        checkpoint_activations(model)
    try:
        yield
    finally:
        for module in (module for model in given for module in model.modules()):
            if getattr(module, "gradient_checkpointing", False):
                module.gradient_checkpointing = module.training = False


def context_length(folder: Path) -> int | None:
    """The most tokens a model can attend to, where its configuration says so."""
    limit = getattr(_text_config(folder), "max_position_embeddings", None)
    return int(limit) if limit else None


def vocabulary_size(folder: Path) -> int:
    """The number of logits of a model, by its configuration."""
    return int(_text_config(folder).vocab_size)


def stored_dtype(folder: Path) -> torch.dtype:
    """The type of a model's weights, by its configuration."""
    dtype = getattr(_text_config(folder), "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def shape(folder: Path) -> Shape:
    """How wide and deep a model is, by its configuration."""
    config = _text_config(folder)
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    head = int(getattr(config, "head_dim", None) or hidden // heads)
    return Shape(
        layers=int(config.num_hidden_layers),
        hidden=hidden,
        heads=heads * head,
        keys=int(getattr(config, "num_key_value_heads", None) or heads) * head,
        inner=int(getattr(config, "intermediate_size", None) or 4 * hidden),
        vocabulary=int(config.vocab_size),
    )


def activation_bytes(folder: Path, tokens: int, width: int) -> int:
    """Bytes that a pass over `tokens` tokens keeps for its gradient, about, without the logits.

    17 values of `width` bytes a token, layer and hidden unit (Korthikanti et al., "Reducing
    Activation Recomputation in Large Transformer Models", 2022, table 2, with an attention that
    keeps no scores).
    """
    config = _text_config(folder)
    return 17 * width * tokens * int(config.hidden_size) * int(config.num_hidden_layers)


def checkpointed_activation_bytes(folder: Path, tokens: int, width: int) -> int:
    """The same with `checkpoint_activations`: what every layer reads, and one layer whole."""
    layers = int(_text_config(folder).num_hidden_layers)
    whole = activation_bytes(folder, tokens, width)
    return whole // 17 + whole // layers


def save_model(model: Module, folder: Path, *, like: Path) -> None:
    """Configuration and weights as transformers writes them, in the weight type of `like`.

    A causal model also gets the generation config of `like`, byte for byte.
    """
    raised = model.to(getattr(_text_config(like), "dtype", None) or torch.float32)
    with _written(folder):
        raised.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):  # made for their owner alone, whatever the umask
        path.chmod((folder / "config.json").stat().st_mode)
    habits = _habits(like) / "generation_config.json"
    if habits.exists() and model.can_generate():
        shutil.copyfile(habits, folder / habits.name)


def save_to_sample(model: Module, folder: Path, *, like: Path) -> None:
    """A policy under training as a whole model for another program to sample from, unchanged here.

    In the weight type of `like`, with whatever adapters it has merged: the weights that it would
    have if it were saved now. Holds a copy of them in the CPU's memory, where the type is another.
    """
    dtype = stored_dtype(like)
    copies: dict[tuple[int, torch.Size], torch.Tensor] = {}
    state = {}
    for name, value in lora.merged_state(model).items():
        # Tied weights stay one tensor, which is then stored once.
        place = (value.data_ptr(), value.shape)
        narrow = dtype if value.is_floating_point() else value.dtype
        state[name] = copies.setdefault(place, value.detach().to("cpu", narrow))
    with _written(folder):
        model.save_pretrained(folder, state_dict=state, max_shard_size=SHARD)
    for path in folder.glob("*.safetensors"):  # made for their owner alone, whatever the umask
        path.chmod((folder / "config.json").stat().st_mode)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """The block in which transformers writes a model.

    Raises:
        StorageError: the file system does not take it. The library that writes the weights has an
            error of its own for that, which is no OSError.
    """
    with os_errors(folder, "write"):
        try:
            yield
        except Exception as error:
            if type(error).__name__ != "SafetensorError":
                raise
            raise StorageError(f"{folder}: cannot write it: {one_line(str(error))}") from error


def save_policy(model: Module, folder: Path, *, like: Path) -> None:
    """A policy that began as the model of `like`: an adapter as an adapter, all else as a model.

    A new adapter is merged in float32 into the weights of `like` as they are stored.
    """
    if folders.is_adapter(like):
        lora.save_as(model, folder, like)
        return
    if lora.has_adapters(model):
        plain = load_language_model(like, torch.float32, torch.device("cpu")).model
        model = lora.merged(plain, model)
    save_model(model, folder, like=like)


def _end_ids(folder: Path, habits: Any, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Those of the generation config, then the tokenizer's."""
    given = habits.eos_token_id if habits else None
    eos = [given] if isinstance(given, int) else list(given or [])
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in eos:
        eos.append(tokenizer.eos_token_id)
    if not eos:
        raise SalsaError(f"{folder}: neither tokenizer nor generation_config.json has an end token")
    return tuple(eos)


def _text_config(folder: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folders.base(folder), trust_remote_code=False)
        return config.get_text_config()
    except Exception as error:
        raise SalsaError(
            f"{folder}: config.json cannot be used ({assembly.first_line(error)})"
        ) from error


def _habits(folder: Path) -> Path:
    """The folder whose generation config counts: an adapter's own, or else its base's."""
    own = (folder / "generation_config.json").is_file()
    return folder if own else folders.base(folder)


def _load_body(folder: Path) -> Module:
    """A sequence classifier whose body comes from a language model; its head is not set yet."""
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
