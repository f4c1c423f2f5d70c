"""How a result was made, on its page: the command, settings, versions, date and data files."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from salsa_cli import pages
from salsa_cli.config.base import Config, declared
from salsa_cli.config.command_line import command_line
from salsa_cli.config.record import origins, record
from salsa_cli.formatting import amount
from salsa_cli.records import JSON, to_json
from salsa_cli.runs.versions import versions

RECORD = {"salsa.json": "settings, inputs with their digests, versions"}
"""The record of a run among its data files."""


def completed(
    page: pages.Page, command: str, config: Config, folder: Path, files: Mapping[str, str]
) -> pages.Page:
    """The page with how its result was made: version and date at its top, the rest at its end.

    Args:
        folder: where the page is written.
        files: names or patterns of data files next to it, with what they hold; those that are not
            there are left out.
    """
    found = versions()
    stamp = f"salsa {found['salsa']}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    blocks: list[pages.Block] = [
        *page.blocks,
        pages.Heading("How it was made"),
        pages.Code(command_line(command, config)),
    ]
    if links := data_files(folder, files):
        blocks.append(pages.Links(links, "Data files"))
    blocks += [
        _settings(config),
        pages.Details("All settings", [pages.Code(to_json(record(config), indent=2))]),
        pages.Details("Versions", [pages.DataTable(("", "version"), list(found.items()), 2)]),
    ]
    return replace(page, blocks=blocks, subtitle="\n".join(filter(None, (page.subtitle, stamp))))


def _settings(config: Config) -> pages.DataTable:
    """The settings that are not left at their defaults, with their origins."""
    values, places = record(config), origins(config)
    changed = [
        one.key
        for one in declared(type(config))
        if one.key in values and (one.required or getattr(config, one.name) != one.default)
    ]
    rows = [(key, _shown(values[key]), str(places[key])) for key in changed]
    return pages.DataTable(("setting", "value", "from"), rows, 3, "Settings that were given")


def data_files(folder: Path, files: Mapping[str, str]) -> list[pages.Link]:
    """Links to the files that are there, with their sizes."""
    found = [
        (path, what)
        for pattern, what in files.items()
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    ]
    return [
        pages.Link(
            path.relative_to(folder).as_posix(), f"{what}, {amount(path.stat().st_size, 'B')}"
        )
        for path, what in found
    ]


def _shown(value: JSON) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else to_json(value)
