"""The page: its structure, what a hostile text can do to it, and whether its colours are seen."""

import re
from pathlib import Path

import pytest

from salsa_cli import pages
from salsa_cli.pages import styles
from salsa_cli.pages.charts import Line, LineChart, ReliabilityChart
from salsa_cli.pages.scales import Axis
from tests.support.html_tree import Tree

HOSTILE = (
    "</blockquote></title></style><script>alert(1)</script><img src=x onerror='a'>\" & \u202ex"
)


def render(*blocks: pages.Block) -> Tree:
    return Tree(pages.render(pages.Page("title", blocks, "subtitle")))


CHART = LineChart("Reward", Axis("update"), Axis("nats"), (Line("proxy", [1, 2], [1, 2]),))


def every_block(text: str) -> tuple[pages.Block, ...]:
    chart = LineChart(text, Axis(text), Axis(text), (Line(text, [1, 2], [1, 2]),), note=text)
    return (
        pages.Heading(text),
        pages.Heading(text, 3),
        pages.Prose(text),
        pages.Callout(text, text),
        pages.KeyFigures((pages.KeyFigure(text, text, text),)),
        pages.DataTable((text, text), ((text, text),), caption=text),
        pages.Quotes(text, (pages.Quote(text, text, ((text, text),)),), text),
        pages.Code(text),
        pages.Links((pages.Link(text, text),), text),
        pages.Choices(text, (pages.Choice(text, {0}),), (pages.Prose(text),)),
        pages.Grid((chart, chart)),
        pages.Details(text, (pages.Prose(text),)),
        chart,
    )


def test_an_option_is_not_broken_at_its_hyphens() -> None:
    page = pages.render(
        pages.Page("t", (pages.Code("salsa ppo --kl-coef 0.1 x--y -o sft-a/ <b>"),))
    )
    assert (
        '<pre>salsa ppo <span class="whole">--kl-coef</span> 0.1 x--y '
        '<span class="whole">-o</span> sft-a/ &lt;b&gt;</pre>'
    ) in page
    assert ".whole { white-space: nowrap; }" in page


def test_the_structure_of_a_page() -> None:
    tree = render(
        pages.Heading("Curves"),
        pages.Prose("one\n\ntwo"),
        CHART,
        pages.DataTable(("a", "n"), (("x", "1"), ("y", "2")), caption="rates"),
        pages.Quotes("why?", (pages.Quote("start", "because"), pages.Quote("end", ""))),
    )
    assert tree.text["h1"] == ["title"] and tree.text["title"][0] == "title"
    assert tree.text["h2"] == ["Curves"]
    assert tree.text["p"] == ["subtitle", "one", "two"]
    assert tree.text["figcaption"] == ["Reward"] and tree.text["li"] == ["proxy"]
    assert tree.text["caption"] == ["rates"]
    assert tree.text["th"] == ["a", "n"] and tree.text["td"] == ["x", "1", "y", "2"]
    assert tree.text["blockquote"] == ["why?", "because", "an empty answer"]


def test_the_example_of_the_module(tmp_path: Path) -> None:
    text = pages.__doc__ or ""
    lines = [line[4:] for line in text.splitlines() if line.startswith("    ")]
    exec("\n".join(lines), {"path": tmp_path / "page.html"})
    tree = Tree((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert tree.text["h1"] == ["salsa ppo: policy/"] and "svg" in tree.tags


def test_hostile_text_stays_text_in_every_block() -> None:
    tree = Tree(pages.render(pages.Page(HOSTILE, every_block(HOSTILE), HOSTILE)))
    assert not {"script", "img"} & set(tree.tags)
    assert not [name for name, _ in tree.attributes if name.startswith("on")]
    told = HOSTILE.replace("\u202e", "\ufffd")
    assert tree.text["blockquote"] == [told, told]
    assert tree.text["h2"] == tree.text["pre"] == [told]


def test_a_page_needs_nothing_from_elsewhere() -> None:
    html = pages.render(pages.Page("t", every_block("x")))
    tree = Tree(html)
    assert not {"script", "link", "iframe", "object", "img"} & set(tree.tags)
    links = [value for name, value in tree.attributes if name in ("src", "href")]
    assert links == ["./x"]
    assert "url(" not in html and "@import" not in html
    assert "default-src 'none'" in html


def test_a_link_stays_next_to_the_page() -> None:
    names = ("answers/a b.jsonl", "javascript:alert(1)", "//host/x", '"><script>')
    tree = render(pages.Links([pages.Link(name, "note") for name in names], "Data files"))
    links = [value for name, value in tree.attributes if name == "href"]
    assert links == [
        "./answers/a%20b.jsonl",
        "./javascript%3Aalert%281%29",
        ".///host/x",
        "./%22%3E%3Cscript%3E",
    ]
    assert tree.text["a"] == list(names) and tree.text["span"] == ["note"] * 4


def test_blocks_are_chosen_without_a_script() -> None:
    choices = (pages.Choice("best", [1]), pages.Choice("all", [0, 1]), pages.Choice("none", []))
    html = pages.render(
        pages.Page("t", (pages.Choices("Samples", choices, list(map(pages.Prose, "ab"))),))
    )
    tree = Tree(html)
    assert tree.text["legend"] == ["Samples"] and tree.text["label"] == ["best", "all", "none"]
    assert tree.text["span"] == ["1", "2", "0"]
    body = html.split("</style>")[1]
    assert body.count("<input") == 3 and body.count(" checked") == 1
    assert 'class="choice-0" checked' in body
    assert '<div class="in-1"><p>a</p>' in body and '<div class="in-0 in-1"><p>b</p>' in body
    # What is not in the choice that is made is hidden; one rule for each number.
    for number in range(3):
        rule = f".choices:has(.choice-{number}:checked) > div > :not(.in-{number})"
        assert f"{rule} {{ display: none; }}" in styles.CSS
    assert '<div class="stack">' in body
    quotes = [pages.Quotes(text, (pages.Quote("a", text),)) for text in "ab"]
    quoted = pages.render(pages.Page("t", (pages.Choices("Quotes", choices, quotes),)))
    assert '<div class="grid-of">' in quoted.split("</style>")[1]
    with pytest.raises(ValueError, match="9 choices; expected at most 8"):
        pages.Choices("", [pages.Choice("", [])] * 9, ())


def test_what_utf8_cannot_hold_is_replaced() -> None:
    html = pages.render(pages.Page("t", every_block("a\x00b\ud83dc\x1b[31m\x85\r\nd\te")))
    html.encode("utf-8")
    assert "a\ufffdb\ufffdc\ufffd[31m\ufffd\nd\te" in html


def test_a_table_with_a_short_row_is_refused() -> None:
    with pytest.raises(ValueError, match="row 2 has 1 cells for 2 columns"):
        pages.DataTable(("a", "b"), (("1", "2"), ("1",)))


def test_a_chart_is_drawn_for_narrow_and_wide_windows() -> None:
    names = ("narrow", "medium", "broad", "wide", "full")

    def counts(block: pages.Block) -> list[int]:
        html = pages.render(pages.Page("t", (block,)))
        return [html.count(f'<div class="size-{name}">') for name in names]

    alone = pages.render(pages.Page("t", (CHART,)))
    assert 'viewBox="0 0 360 260"' in alone and 'viewBox="0 0 1400 400"' in alone
    assert '<figure class="spread alone">' in alone
    assert counts(CHART) == [1, 1, 1, 1, 1]
    # Next to another one it has not the whole width; a grid of one is no grid.
    assert counts(pages.Grid((CHART, CHART))) == [2, 2, 2, 2, 0]
    assert counts(pages.Grid((CHART,))) == [1, 1, 1, 1, 1]
    # A square is not made wider than a column.
    assert counts(ReliabilityChart("t", ())) == [1, 1, 0, 0, 0]


def test_only_drawings_of_another_size_are_hidden() -> None:
    hidden = re.findall(r"([^{}]+)\{[^{}]*display: none", styles.CSS)
    names = {name.strip() for rule in hidden for name in rule.split(",")}
    sizes = {name for name in names if "size-" in name}
    assert sizes and all(name.startswith(".choices:has(") for name in names - sizes)
    whole = pages.render(pages.Page("t", every_block("x")))
    body = whole.split("</style>")[1]
    assert body.count("<table") == 1 and not re.search(r'class="size-\w+"><table', body)


def test_the_name_of_an_option_is_not_broken_at_its_hyphens() -> None:
    text = "Lower --learning-rate; 5-10 a--b <--kl-coef>"
    html = pages.render(pages.Page("t", [pages.Callout("c", text), pages.Prose(text)]))
    whole = '<span class="whole">--learning-rate</span>'
    assert html.count(whole) == 2 and html.count('<span class="whole">--kl-coef</span>') == 2
    assert html.count('class="whole"') == 4
