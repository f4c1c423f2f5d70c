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
from salsa_cli.runs import stops
from salsa_cli.runs.versions import versions

RECORD = {"salsa.json": "settings, inputs with their digests, versions"}
"""The record of a run among its data files."""

_MANY = 8
"""More files of one kind are folded."""


def completed(
    page: pages.Page, command: str, config: Config, folder: Path, files: Mapping[str, str]
) -> pages.Page:
    """The page with how its result was made: version and date at its top, the rest at its end.

    If the run in `folder` has stopped, the reason comes first.

    Args:
        folder: where the page is written.
        files: names or patterns of data files next to it, with what they hold; those that are not
            there are left out.
    """
    found = versions()
    stamp = f"salsa {found['salsa']}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    blocks: list[pages.Block] = [
        *_stopped(stops.read(folder)),
        *page.blocks,
        pages.Heading("How it was made"),
        pages.Code(command_line(command, config)),
    ]
    blocks += _data_files(folder, files)
    blocks += [
        _settings(config),
        pages.Details("All settings", [pages.Code(to_json(record(config), indent=2))]),
        pages.Details("Versions", [pages.DataTable(("", "version"), list(found.items()), 2)]),
    ]
    return replace(page, blocks=blocks, subtitle="\n".join(filter(None, (page.subtitle, stamp))))


def _stopped(stop: stops.Stop | None) -> list[pages.Block]:
    """Why a run has stopped, and the command that goes on."""
    if stop is None:
        return []
    text = f"{stop.reason} ({stop.time}). This folder keeps {stop.kept}. {stop.first}".rstrip()
    return [
        pages.Callout("This run is not finished:", text),
        pages.Prose("To go on:"),
        pages.Code(stop.resume),
    ]


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


def _data_files(folder: Path, files: Mapping[str, str]) -> list[pages.Block]:
    """Links to the files that are there, with their sizes; many of one kind are folded."""
    few: list[pages.Link] = []
    many: list[pages.Block] = []
    for pattern, what in files.items():
        links = [_link(path, folder, what) for path in sorted(folder.glob(pattern))]
        if len(links) > _MANY:
            many.append(pages.Details(f"{len(links)} files: {what}", [pages.Links(links)]))
        else:
            few += links
    return [*([pages.Links(few, "Data files")] if few else []), *many]


def _link(path: Path, folder: Path, what: str) -> pages.Link:
    size = amount(path.stat().st_size, "B")
    return pages.Link(path.relative_to(folder).as_posix(), f"{what}, {size}")


def _shown(value: JSON) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else to_json(value)
