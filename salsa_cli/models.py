"""Transformers: policies, reward models, critics and tokenizers, loaded, run and saved.

Never trains. Dropout is off in every model: all of them stay in evaluation mode, also while their
weights are trained, so that log-probabilities of one batch can be compared between passes.
"""

import json
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
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
)

from salsa_cli.data import Prompt
from salsa_cli.errors import SalsaError
from salsa_cli.passes import Module, last_scores
from salsa_cli.tokens import (
    Answer,
    Tokenizer,
    end_token,
    pad_right,
    padding_token,
    scored_ids,
)

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


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder; never runs code from the folder."""
    try:
        return cast(Tokenizer, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    except Exception as error:
        raise SalsaError(
            f"{folder}: no tokenizer can be loaded from it ({_line(error)})"
        ) from error


def load_language_model(
    folder: Path, dtype: torch.dtype | None, device: torch.device
) -> LanguageModel:
    """A causal language model, frozen, in `dtype` or as it is stored; `trainable` thaws it.

    Raises:
        SalsaError: it cannot be loaded, weights are missing, or nothing ends its answers.
    """
    tokenizer = load_tokenizer(folder)
    model = _load(AutoModelForCausalLM, folder, dtype, "a causal language model")
    eos = _end_ids(folder, model.generation_config, tokenizer)
    pad = eos[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    # The folder's sampling habits (top_p, repetition_penalty ...) would bend every log-probability.
    model.generation_config = GenerationConfig(eos_token_id=list(eos), pad_token_id=pad)
    return LanguageModel(folder, _frozen(model, device), tokenizer, eos, pad)


def end_ids(folder: Path) -> tuple[int, ...]:
    """The tokens that end an answer of a model, by its files alone.

    Raises:
        SalsaError: there are none.
    """
    try:
        habits = GenerationConfig.from_pretrained(folder)
    except OSError:  # without such a file, the model's own configuration says it
        habits = GenerationConfig.from_model_config(_text_config(folder))
    return _end_ids(folder, habits, load_tokenizer(folder))


def load_reward_model(folder: Path, dtype: torch.dtype, device: torch.device) -> RewardModel:
    """A trained reward model, frozen.

    Raises:
        SalsaError: it cannot be loaded, or its folder has no trained score head.
    """
    model = _load(AutoModelForSequenceClassification, folder, dtype, "a reward model", num_labels=1)
    scale = getattr(model.config, "salsa_reward", None) or {}
    return RewardModel(
        folder,
        _frozen(model, device),
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
    return RewardModel(folder, _frozen(model, device), tokenizer, 0.0, 1.0)


def load_critic(folder: Path, device: torch.device) -> Module:
    """A value network in float32, in the scale of the rewards.

    A reward model keeps its head, rescaled as its scores are; a policy gets a head of zeros.
    """
    if has_score_head(folder):
        model = _load(
            AutoModelForSequenceClassification, folder, torch.float32, "a critic", num_labels=1
        )
        _take_in_scale(model)
    else:
        model = _load_body(folder)
        torch.nn.init.zeros_(model.score.weight)
    if not hasattr(model, "score"):
        raise SalsaError(f"{folder}: a {type(model).__name__} has no per-token score head")
    return _frozen(model, device)


def _take_in_scale(model: Module) -> None:
    """Make a reward model's head give the normalised scores that `RewardModel.score` gives."""
    scale = getattr(model.config, "salsa_reward", None)
    if not scale or not hasattr(model, "score"):
        return
    raw = model.score.weight
    model.score = torch.nn.Linear(raw.shape[1], 1, dtype=raw.dtype)
    with torch.no_grad():
        model.score.weight.copy_(raw / scale["std"])
        model.score.bias.fill_(-scale["mean"] / scale["std"])


def has_score_head(folder: Path) -> bool:
    """Whether a folder holds a sequence classifier, by its configuration."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return any("SequenceClassification" in name for name in config.get("architectures") or [])


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
    model.to(getattr(_text_config(like), "dtype", None) or torch.float32).save_pretrained(folder)
    for path in folder.glob("*.safetensors"):  # made for their owner alone, whatever the umask
        path.chmod((folder / "config.json").stat().st_mode)
    habits = like / "generation_config.json"
    if habits.exists() and model.can_generate():
        shutil.copyfile(habits, folder / habits.name)


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
        return AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    except Exception as error:
        raise SalsaError(f"{folder}: config.json cannot be used ({_line(error)})") from error


def _frozen(model: Module, device: torch.device) -> Module:
    return model.eval().requires_grad_(False).to(device)


def _load_body(folder: Path) -> Module:
    """A sequence classifier whose body comes from a language model; its head is not set yet."""
    model = _load(
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


def _load(
    loader: Any,
    folder: Path,
    dtype: torch.dtype | None,
    kind: str,
    fresh: tuple[str, ...] = (),
    **options: Any,
) -> Module:
    try:
        model, info = loader.from_pretrained(
            folder,
            dtype=dtype or "auto",
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        raise SalsaError(f"{folder} cannot be loaded as {kind}: {_line(error)}") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(fresh or "\0"))
    if missing:
        hint = " (it has no trained score head)" if "score.weight" in missing else ""
        raise SalsaError(
            f"{folder} cannot be used as {kind}: its files lack {', '.join(missing[:4])}"
            f"{' ...' if len(missing) > 4 else ''}{hint}"
        )
    return model


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
