"""What the commands import, for a server whose forks need not import it again."""

import contextlib

import accelerate  # noqa: F401
from transformers import (  # noqa: F401
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from salsa_cli import cli, evaluate, ppo, soup, train_rm  # noqa: F401

with contextlib.suppress(ImportError):
    import peft  # noqa: F401
