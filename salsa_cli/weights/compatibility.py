"""Whether models can be combined: every way in which their folders differ, all at once."""

from collections.abc import Sequence
from pathlib import Path

from salsa_cli.weights import tokenizer_files
from salsa_cli.weights.config_differences import compare_configs, config_keys
from salsa_cli.weights.difference import Difference, Mismatches, sort_out


def compare(folders: Sequence[Path]) -> Mismatches:
    """Compare the configuration and the tokenizer of every folder with those of the first."""
    return sort_out(differences(folders))


def differences(folders: Sequence[Path]) -> list[Difference]:
    """All differences of configuration and tokenizer from the first folder."""
    first, *others = folders
    configs = [one for other in others for one in compare_configs(first, other)]
    return [*configs, *tokenizer_differences(folders)]


def tokenizer_differences(folders: Sequence[Path]) -> list[Difference]:
    """All differences of tokenizer and chat template from the first folder."""
    first, *others = folders
    return [
        *(one for other in others for one in tokenizer_files.compare_tokenizers(first, other)),
        *(one for other in others for one in tokenizer_files.compare_chat_templates(first, other)),
    ]


def known_keys(folders: Sequence[Path]) -> set[str]:
    """The keys in which models can differ: of their configurations, and of any tokenizer."""
    return {*tokenizer_files.KEYS, *(key for one in folders for key in config_keys(one))}


def tokenizers(first: Path, other: Path) -> list[str]:
    """Why two tokenizers do not go together; none if a folder has no tokenizer."""
    return [one.text for one in tokenizer_files.compare_tokenizers(first, other) if one.fatal]


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer of any kind."""
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.*", "*.tiktoken")
    return any(any(folder.glob(name)) for name in names)
