"""A small world: two language models, their soup, a reward model, prompts and preferences."""

from dataclasses import dataclass
from pathlib import Path

from salsa_cli import soup
from salsa_cli.config.soup import SoupConfig
from salsa_cli.runs.events import silent
from tests.support import tiny


@dataclass(frozen=True)
class World:
    """Folders and files that the tests read and never change."""

    a: Path
    b: Path
    soup: Path
    rm: Path
    prompts: Path
    preferences: Path


def make(root: Path) -> World:
    """Two language models of one base, their soup, a reward model, prompts and preferences."""
    made = World(
        a=tiny.save_language_model(root / "a", seed=1, scale=0.1),
        b=tiny.save_language_model(root / "b", seed=2, scale=0.1),
        soup=root / "soup",
        rm=tiny.save_reward_model(root / "rm"),
        prompts=tiny.prompts(root / "prompts.jsonl"),
        preferences=tiny.preferences(root / "preferences.jsonl"),
    )
    models = (str(made.a), str(made.b))
    soup.run(SoupConfig(models=models, alpha=0.5, output=made.soup), silent)
    return made
