"""One self-contained HTML page: a title and typed blocks, rendered to a text.

    from salsa_cli import pages
    from salsa_cli.pages.charts import Line, LineChart, Rule
    from salsa_cli.pages.scales import Axis

    page = pages.Page(
        title="salsa ppo: policy/",
        blocks=(
            pages.KeyFigures((pages.KeyFigure("reward", "1.52", "0.03 at the start"),)),
            pages.Callout("length collapse", "3.1 tokens per answer. Lower --kl-coef."),
            pages.Heading("Curves"),
            pages.Grid((
                LineChart(
                    "Reward",
                    Axis("update", unit="count"),
                    Axis("mean reward"),
                    (Line("proxy", [1, 2], [0.1, 0.4], low=[0.0, 0.3], high=[0.2, 0.5]),),
                    rules=(Rule("y", 0.1, "start"),),
                ),
            )),
            pages.DataTable(("model", "rate"), (("salsa", "59.1%"),), caption="Who wins"),
            pages.Quotes("a prompt", (pages.Quote("update 1", "words", (("reward", "0.1"),)),)),
        ),
    )
    path.write_text(pages.render(page), encoding="utf-8")

The page needs neither network nor scripts, follows the reader's light or dark scheme, and prints.
All text is escaped: the output of a model cannot become markup. Charts (`charts`: LineChart,
ScatterChart, IntervalChart, ReliabilityChart, Histogram, TriangleChart) are blocks like the others;
they tell their values on hover.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from salsa_cli.pages import charts, hover, marks, styles, svg
from salsa_cli.pages.charts import Chart
from salsa_cli.pages.marks import escaped

_OPTION = re.compile(r"(?<![\w-])--[a-z]+(-[a-z]+)*")
"""The name of an option of the command line."""


@dataclass(frozen=True)
class Heading:
    """The title of a section (level 2) or of a part of it (level 3)."""

    text: str
    level: Literal[2, 3] = 2


@dataclass(frozen=True)
class Prose:
    """Text; an empty line begins a new paragraph."""

    text: str


@dataclass(frozen=True)
class Callout:
    """A highlighted warning or note."""

    title: str
    text: str
    kind: Literal["warning", "note"] = "warning"


@dataclass(frozen=True)
class KeyFigure:
    """One important number as text, with a short note."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class KeyFigures:
    """Key figures, side by side."""

    figures: Sequence[KeyFigure]


@dataclass(frozen=True)
class DataTable:
    """Rows of text; the first `names` columns are left-aligned, the numbers right-aligned."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    caption: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {number} has {len(row)} cells for {len(self.columns)} columns"
                )


@dataclass(frozen=True)
class Quote:
    """A verbatim text with facts about it as (name, value)."""

    title: str
    text: str
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Quotes:
    """Answers to one prompt, side by side."""

    prompt: str
    quotes: Sequence[Quote]
    title: str = "Prompt"


@dataclass(frozen=True)
class Code:
    """Text in a fixed pitch: a command, settings."""

    text: str


@dataclass(frozen=True)
class Link:
    """A file next to the page, by its relative path with `/`, and what it holds."""

    path: str
    note: str = ""


@dataclass(frozen=True)
class Links:
    """Files next to the page."""

    links: Sequence[Link]
    title: str = ""


@dataclass(frozen=True)
class Grid:
    """Blocks side by side if they fit."""

    blocks: Sequence["Block"]


@dataclass(frozen=True)
class Details:
    """Blocks that a reader unfolds."""

    summary: str
    blocks: Sequence["Block"]


@dataclass(frozen=True)
class Choice:
    """A choice of blocks by their indices."""

    name: str
    shown: Collection[int]


@dataclass(frozen=True)
class Choices:
    """Blocks of which the reader chooses some; the first choice is made already.

    Single quotes stand side by side, other blocks below one another. It works without a script, by
    radio buttons; a browser that does not know `:has()` shows all.

    name: what is chosen from; unique on the page.
    """

    name: str
    choices: Sequence[Choice]
    blocks: Sequence["Block"]

    def __post_init__(self) -> None:
        if len(self.choices) > styles.CHOICES:
            raise ValueError(f"{len(self.choices)} choices; expected at most {styles.CHOICES}")


Block = (
    Heading | Prose | Callout | KeyFigures | DataTable | Quotes | Code | Links | Grid | Choices
    | Details | Chart
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """A title, a subtitle, and the blocks of the page."""

    title: str
    blocks: Sequence[Block]
    subtitle: str = ""


def render(page: Page) -> str:
    """The page as HTML; write it as UTF-8."""
    subtitle = f'<p class="subtitle">{escaped(page.subtitle)}</p>' if page.subtitle else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        # Defence in depth: even unescaped markup could load and run nothing.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(page.title)}</title>\n<style>\n{styles.CSS}</style>\n</head>\n<body>\n"
        f"<main>\n<h1>{escaped(page.title)}</h1>\n{subtitle}\n"
        f"{_all(page.blocks)}\n</main>\n</body>\n</html>\n"
    )


def _all(blocks: Sequence[Block]) -> str:
    return "\n".join(map(_block, blocks))


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escaped(text)}</h{level}>"
        case Prose(text):
            return "\n".join(f"<p>{_text(part)}</p>" for part in text.split("\n\n") if part)
        case Callout(title, text, kind):
            body = f"<strong>{escaped(title)}</strong> {_text(text)}"
            return f'<p class="callout is-{kind}">{body}</p>'
        case KeyFigures(figures):
            return f'<dl class="figures">{"".join(map(_key_figure, figures))}</dl>'
        case DataTable():
            return _table(block)
        case Quotes():
            return _quotes(block)
        case Code(text):
            return f"<pre>{_options_whole(escaped(text))}</pre>"
        case Grid((lone,)):
            return _block(lone)
        case Grid(blocks):
            beside = "\n".join(map(_in_grid, blocks))
            return f'<div class="grid-of">{beside}</div>'
        case Links():
            return _links(block)
        case Choices():
            return _choices(block)
        case Details(summary, blocks):
            head = f"<summary>{escaped(summary)}</summary>"
            return f"<details>{head}\n{_all(blocks)}</details>"
        case _:
            return _chart(block, svg.sizes(block))


def _options_whole(code: str) -> str:
    """Options of a command line, which browsers would otherwise break at their hyphens."""
    return re.sub(r"(?<!\S)--?[a-z][a-z-]*(?!\S)", r'<span class="whole">\g<0></span>', code)


def _text(text: str) -> str:
    """Running text, whose names of options are not broken at their hyphens."""
    return _OPTION.sub(r'<span class="whole">\g<0></span>', escaped(text))


def _in_grid(block: Block) -> str:
    """A block with others next to it."""
    if isinstance(block, Chart):
        return _chart(block, svg.sizes(block, alone=False))
    return _block(block)


def _key_figure(figure: KeyFigure) -> str:
    note = f'<dd class="note">{escaped(figure.note)}</dd>' if figure.note else ""
    return f"<div><dt>{escaped(figure.name)}</dt><dd>{escaped(figure.value)}</dd>{note}</div>"


def _table(table: DataTable) -> str:
    sides = ["name" if place < table.names else "number" for place in range(len(table.columns))]
    head = "".join(
        f'<th scope="col" class="{side}">{escaped(name)}</th>'
        for side, name in zip(sides, table.columns, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(
            f'<td class="{side}">{escaped(cell)}</td>'
            for side, cell in zip(sides, row, strict=True)
        )
        + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{escaped(table.caption)}</caption>" if table.caption else ""
    kind = ' class="texts"' if table.names >= len(table.columns) else ""
    return (
        f'<div class="wide" tabindex="0"><table{kind}>{caption}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _quotes(block: Quotes) -> str:
    # dir="auto" keeps the writing direction of a text within it.
    prompt = f'<blockquote class="prompt" dir="auto">{escaped(block.prompt)}</blockquote>'
    quotes = "\n".join(map(_quote, block.quotes))
    return (
        f'<section class="quotes"><h4>{escaped(block.title)}</h4>{prompt}\n'
        f'<div class="side-by-side">{quotes}</div></section>'
    )


def _quote(quote: Quote) -> str:
    facts = "".join(
        f"<span>{escaped(name)} <b>{escaped(value)}</b></span>" for name, value in quote.facts
    )
    text = f'<blockquote dir="auto">{escaped(quote.text)}</blockquote>'
    if not quote.text:
        text = '<blockquote class="empty">an empty answer</blockquote>'
    facts = f'<p class="facts">{facts}</p>' if facts else ""
    return f"<article><h4>{escaped(quote.title)}</h4>{facts}{text}</article>"


def _links(block: Links) -> str:
    title = f"<h4>{escaped(block.title)}</h4>" if block.title else ""
    # Behind "./", nothing in a name is read as a scheme or as a host.
    entries = "".join(
        f'<li><a href="./{quote(link.path, errors="replace")}">{escaped(link.path)}</a>'
        f'<span class="note">{escaped(link.note)}</span></li>'
        for link in block.links
    )
    return f'<div class="links">{title}<ul>{entries}</ul></div>'


def _choices(block: Choices) -> str:
    key = quote(block.name, errors="replace")
    buttons = "".join(
        f'<label><input type="radio" name="{key}" class="choice-{number}"'
        f"{' checked' if not number else ''} />{escaped(one.name)}"
        f"<span>{len(one.shown):,}</span></label>"
        for number, one in enumerate(block.choices)
    )
    parts = "\n".join(
        f'<div class="{_chosen_by(block, index)}">{_block(part)}</div>'
        for index, part in enumerate(block.blocks)
    )
    small = all(isinstance(part, Quotes) and len(part.quotes) == 1 for part in block.blocks)
    layout = "grid-of" if small else "stack"
    return (
        f'<section class="choices"><fieldset><legend>{escaped(block.name)}</legend>'
        f'{buttons}</fieldset>\n<div class="{layout}">{parts}</div></section>'
    )


def _chosen_by(block: Choices, index: int) -> str:
    return " ".join(f"in-{n}" for n, one in enumerate(block.choices) if index in one.shown)


def _chart(chart: Chart, sizes: Sequence[svg.Size]) -> str:
    names = charts.legend(chart)
    entries = "".join(
        f"<li>{marks.swatch(series)}{escaped(name)}</li>"
        for series, name in enumerate(names)
        if name
    )
    named = f'<ul class="legend">{entries}</ul>' if entries else ""
    note = f'<p class="note">{escaped(chart.note)}</p>' if chart.note else ""
    title = f"<figcaption>{escaped(chart.title)}</figcaption>"
    drawn = "".join(
        f'<div class="size-{size.name}">{svg.draw(chart, size)}</div>' for size in sizes
    )
    kind = {svg.FULL: ' class="spread alone"', svg.WIDE: ' class="spread"'}.get(sizes[-1], "")
    drawing = f'<div class="drawing">{drawn}{hover.html(chart)}</div>'
    return f"<figure{kind}>{title}{named}{drawing}{note}</figure>"
