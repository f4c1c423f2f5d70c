"""What a configuration means to transformers: every key with the default of its class."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MOST = 1_000_000  # labels or layers; more is damage that would fill the memory


@dataclass(frozen=True)
class FullConfig:
    """A configuration with all defaults filled in, and the defaults of its class alone."""

    values: Mapping[str, Any]
    defaults: Mapping[str, Any]


def complete(config: Mapping[str, Any]) -> FullConfig | None:
    """Fill in the defaults of the configuration's class.

    None if the installed transformers has no class for its `model_type`, or cannot read it.
    Importing transformers takes seconds and imports torch, so ask only if configurations differ.
    """
    try:
        from transformers import CONFIG_MAPPING
        from transformers.utils import logging
    except ImportError:
        return None
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return None
    if any(_is_a_count(key) and _is_too_large(value) for key, value in config.items()):
        return None
    kind = CONFIG_MAPPING[model_type]
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # it warns of keys that it does not know
    try:
        values = kind.from_dict(copy.deepcopy(dict(config))).to_dict()
    except Exception:  # each of the classes has rules and errors of its own
        return None
    else:
        return FullConfig(values, _defaults(kind))
    finally:
        logging.set_verbosity(verbosity)


def _is_a_count(key: object) -> bool:
    """Whether a class makes a list of that length: of labels, of kinds of layers."""
    return isinstance(key, str) and re.search(r"labels|layers?$|experts", key) is not None


def _is_too_large(value: object) -> bool:
    return isinstance(value, int | float) and not 0 <= value <= _MOST


def _defaults(kind: Any) -> Mapping[str, Any]:
    """What the class has without arguments; nothing where it needs to be told something."""
    try:
        found: Mapping[str, Any] = kind().to_dict()
    except Exception:
        return {}
    return found
