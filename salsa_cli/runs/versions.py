"""Versions of salsa and of the libraries that a result depends on."""

import platform
from importlib import metadata

from salsa_cli import VERSION

_FOUNDATIONS = ("torch", "transformers", "safetensors", "accelerate", "datasets", "numpy")


def versions() -> dict[str, str]:
    """Versions of salsa, Python and the main libraries, found without importing them."""
    found = {"salsa": VERSION, "python": platform.python_version()}
    for name in _FOUNDATIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
