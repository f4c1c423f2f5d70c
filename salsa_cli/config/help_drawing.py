"""The help, drawn by rich.

Typer's own drawing imports rich's Markdown, which takes longer than the help itself.
"""

import re
import textwrap
from collections.abc import Iterator, Sequence

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from salsa_cli.config.help import Entry, Page

_STYLES = {r"(?<![\w-])--?[A-Za-z][\w-]*": "cyan", r"\[[^][]*\]$": "dim"}
"""Options and, at its end, the notes of a text (`[default: 1]`)."""

_GAP = 2
"""Blanks between two columns."""

_BORDERS = "│  │"
"""What a panel puts around its content."""

_HELD = "\ue000"
"""Stands for a blank at which a line is not broken; a character for private use."""


def draw(page: Page) -> None:
    """Print the page on stdout; a reader that goes away is no error."""
    console = Console(highlight=False, emoji=False)
    try:
        for part in _parts(page, console):
            console.print(part)
    except SystemExit:  # rich: the pipe is broken, and stdout leads nowhere from now on
        return


def _parts(page: Page, console: Console) -> Iterator[RenderableType]:
    yield Text.assemble("\n ", ("Usage: ", "yellow"), (page.usage, "bold"), "\n")
    yield from _prose(page.paragraphs, console)
    for title, entries in page.panels:
        table = _table(entries, console.width)
        yield Panel(table, title=Text(title), title_align="left", border_style="dim")
    yield Text()
    yield from _prose(page.footer, console)


def _prose(paragraphs: Sequence[str], console: Console) -> Iterator[Text]:
    """Wrapped lines with a blank one after every paragraph, indented by a space."""
    for paragraph in paragraphs:
        for line in _styled(paragraph).wrap(console, console.width - 2):
            line.rstrip()
            yield Text(" ").append_text(line)
        yield Text()


def _table(entries: Sequence[Entry], width: int) -> Table:
    """One row an entry; a column of values that no entry fills is left out."""
    names = [Text.assemble((one.name, "bold cyan"), _short(one)) for one in entries]
    values = [Text("\n".join(_folded(one.value, width // 5)), "yellow") for one in entries]
    columns = [column for column in (names, values) if any(column)]
    taken = sum(
        max(line.cell_len for cell in column for line in cell.split()) for column in columns
    )
    room = width - len(_BORDERS) - taken - _GAP * len(columns)
    table = Table.grid(padding=(0, _GAP, 0, 0), expand=True, pad_edge=False)
    for _ in columns:
        table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for row, one in zip(zip(*columns, strict=True), entries, strict=True):
        table.add_row(*row, _styled(_wrapped(one.text, room)))
    return table


def _short(entry: Entry) -> Text:
    return Text.assemble(", ", (entry.short, "bold green")) if entry.short else Text()


def _wrapped(text: str, width: int) -> str:
    """Lines of words; a note such as `default: 256MB` is never broken."""
    held = re.sub(r"\[[^][]*\]$", lambda notes: _held(notes[0]), text)
    return textwrap.fill(held, max(width, 1), break_on_hyphens=False).replace(_HELD, " ")


def _held(notes: str) -> str:
    return "; ".join(note.replace(" ", _HELD) for note in notes.split("; "))


def _folded(choices: str, width: int) -> Iterator[str]:
    """`a|b|c` in lines of at most `width` characters, as far as the names allow."""
    line = ""
    for choice in re.findall(r"[^|]+\|?", choices):
        if line and len(line) + len(choice) > width:
            yield line
            line = ""
        line += choice
    yield line


def _styled(text: str) -> Text:
    styled = Text(text)
    for pattern, style in _STYLES.items():
        styled.highlight_regex(pattern, style)
    return styled
