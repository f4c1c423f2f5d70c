"""How a command is called and reports its result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from salsa_cli.config.base import Setting


@dataclass(frozen=True)
class Manners:
    """How a command is called and reports its result; the same for every command."""

    config: Annotated[
        Path | None,
        Setting(
            "Read settings from a TOML, YAML or JSON file, or from the record of a result, instead "
            "of salsa.toml. Flags override it.",
            metavar="FILE",
            panel="Run",
        ),
    ] = None
    json: Annotated[
        bool, Setting("Print the result as one JSON object on stdout.", panel="Run")
    ] = False
    markdown: Annotated[
        bool,
        Setting("Print the tables of the result as Markdown, for a pull request.", panel="Run"),
    ] = False
    quiet: Annotated[
        bool, Setting("Print nothing but errors.", flags=("-q", "--quiet"), panel="Run")
    ] = False
