"""The look of a page: one style sheet, for light, for dark and for paper.

The colours of the series are those of Okabe and Ito ("Color Universal Design", 2008), which readers
with any common colour blindness tell apart; darkened on white and lightened on black until each
stands out from the ground by 3:1 (WCAG 2.1, criterion 1.4.11). Text stands out by 4.5:1.
"""

from salsa_cli.pages import svg

LIGHT = {
    "ground": "#ffffff",
    "raised": "#f5f6f8",
    "text": "#1b1f24",
    "muted": "#59626d",
    "line": "#dfe3e8",
    "warning": "#a84300",
    "accent": "#0067a8",
    "c0": "#0072b2",
    "c1": "#d55e00",
    "c2": "#00875f",
    "c3": "#b3588e",
    "c4": "#b07900",
    "c5": "#2a94cf",
    "c6": "#4a4f57",
}
DARK = {
    "ground": "#14171b",
    "raised": "#1d2126",
    "text": "#e7eaee",
    "muted": "#a3acb7",
    "line": "#343a42",
    "warning": "#ffab70",
    "accent": "#6cbcf5",
    "c0": "#56b4e9",
    "c1": "#f08a4b",
    "c2": "#35c79a",
    "c3": "#e39bc6",
    "c4": "#e6b03e",
    "c5": "#4d8fd6",
    "c6": "#c3cad3",
}


MEDIUM_FROM, BROAD_FROM, WIDE_FROM, FULL_FROM = 480, 680, 920, 1290
"""Widths in pixels from which a chart is shown in its larger sizes, each scaled to 92% at least, so
that its text is 11 pixels high or more."""


def _hover_area(size: svg.Size) -> str:
    """Where the plotting area is in a drawing of this size, in shares of it."""
    right, top, bottom = (
        f"{100 * room:.2f}%"
        for room in (svg.RIGHT / size.width, svg.TOP / size.height, svg.BOTTOM / size.height)
    )
    left = f"calc(var(--left) * {100 / size.width:.4f}%)"
    return f"left: {left}; right: {right}; top: {top}; bottom: {bottom};"


def _variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())


_SERIES = "\n".join(f".s{i} {{ --s: var(--c{i}); }}" for i in range(7))

CHOICES = 8
"""Choices of a `Choices` block at most."""

_CHOICES = "\n".join(
    f".choices:has(.choice-{i}:checked) > div > :not(.in-{i}) {{ display: none; }}"
    for i in range(CHOICES)
)

# A shadow at an edge behind which a wide table goes on; a cover that scrolls along hides it there.
_SCROLL_SHADOWS = """background:
  linear-gradient(90deg, var(--ground) 50%, transparent) left / 40px 100% no-repeat local,
  linear-gradient(270deg, var(--ground) 50%, transparent) right / 40px 100% no-repeat local,
  linear-gradient(90deg, var(--line), transparent) left / 14px 100% no-repeat scroll,
  linear-gradient(270deg, var(--line), transparent) right / 14px 100% no-repeat scroll;"""

CSS = f"""\
:root {{ color-scheme: light dark; {_variables(LIGHT)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}
{_SERIES}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }}
main {{ max-width: 2200px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.25rem; margin: 2.4rem 0 .8rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }}
h3 {{ font-size: 1.05rem; margin: 1.6rem 0 .6rem; }}
h4 {{ font-size: .85rem; margin: 0 0 .35rem; color: var(--muted); font-weight: 600; }}
p {{ margin: 0 0 .8rem; max-width: 75ch; white-space: pre-line; overflow-wrap: anywhere; }}
.subtitle, .note {{ color: var(--muted); }}
.note {{ font-size: .85rem; margin: .2rem 0 0; }}
pre {{ background: var(--raised); border-radius: 6px; padding: .8rem 1rem; margin: 0 0 1rem;
  font: .82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }}
.whole {{ white-space: nowrap; }}
details {{ margin: 0 0 1rem; }}
summary {{ cursor: pointer; color: var(--accent); margin-bottom: .6rem; }}
.callout {{ max-width: none; border-left: 4px solid var(--accent); background: var(--raised);
  border-radius: 0 6px 6px 0; padding: .65rem 1rem; }}
.callout.is-warning {{ border-color: var(--warning); }}
.callout.is-warning strong {{ color: var(--warning); }}
.callout strong {{ margin-right: .35em; }}
.figures {{ display: grid; gap: .8rem; margin: 1.2rem 0;
  grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }}
.figures > div {{ background: var(--raised); border-radius: 8px; padding: .75rem 1rem; }}
.figures dt {{ font-size: .85rem; color: var(--muted); overflow-wrap: anywhere; }}
.figures dd {{ margin: 0; font-size: 1.45rem; line-height: 1.25; font-weight: 600;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
.figures dd.note {{ font-size: .82rem; font-weight: 400; }}
.wide {{ overflow-x: auto; margin: 0 0 1.2rem; {_SCROLL_SHADOWS} }}
.texts td {{ overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }}
caption {{ text-align: left; color: var(--muted); font-size: .85rem; padding-bottom: .4rem; }}
th {{ font-weight: 600; color: var(--muted); vertical-align: bottom;
  border-bottom: 1px solid var(--muted); }}
th, td {{ padding: .35rem 1.4rem .35rem 0; text-align: left; }}
td {{ border-bottom: 1px solid var(--line); vertical-align: top; }}
td.name {{ overflow-wrap: break-word; min-width: 7ch; }}
.number {{ text-align: right; white-space: nowrap; }}
@media (max-width: 600px) {{
  table {{ font-size: .85rem; }}
  th, td {{ padding-right: .8rem; }}
}}
.number:last-child {{ padding-right: 0; }}
.grid-of {{ display: grid; gap: 1.2rem 2rem; align-items: start; margin-bottom: 1.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); }}
.grid-of > * {{ min-width: 0; }}
figure {{ margin: 0 0 1.2rem; max-width: 620px; break-inside: avoid;
  container-type: inline-size; }}
figure.spread {{ max-width: 1650px; }}
.size-medium, .size-broad, .size-wide, .size-full {{ display: none; }}
@container (min-width: {MEDIUM_FROM}px) {{
  .size-narrow {{ display: none; }}
  .size-medium {{ display: block; }}
}}
@container (min-width: {BROAD_FROM}px) {{
  .spread .size-medium {{ display: none; }}
  .spread .size-broad {{ display: block; }}
}}
@container (min-width: {WIDE_FROM}px) {{
  .spread .size-broad {{ display: none; }}
  .spread .size-wide {{ display: block; }}
}}
@container (min-width: {FULL_FROM}px) {{
  .alone .size-wide {{ display: none; }}
  .alone .size-full {{ display: block; }}
}}
.drawing {{ position: relative; }}
.hover {{ position: absolute; display: grid; {_hover_area(svg.NARROW)} }}
@container (min-width: {MEDIUM_FROM}px) {{ .hover {{ {_hover_area(svg.MEDIUM)} }} }}
@container (min-width: {BROAD_FROM}px) {{ .hover {{ {_hover_area(svg.BROAD)} }} }}
@container (min-width: {WIDE_FROM}px) {{ .hover {{ {_hover_area(svg.WIDE)} }} }}
@container (min-width: {FULL_FROM}px) {{ .alone .hover {{ {_hover_area(svg.FULL)} }} }}
.hover i:hover {{ background: linear-gradient(90deg, transparent calc(50% - .5px), var(--muted) 0,
  var(--muted) calc(50% + .5px), transparent 0); }}
.hover i:hover::after {{ content: attr(data-values); position: absolute; top: 0; right: 0;
  z-index: 1; max-width: 100%; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem;
  line-height: 1.45; font-style: normal; font-variant-numeric: tabular-nums;
  background: var(--ground); color: var(--text); border: 1px solid var(--muted);
  border-radius: 5px; padding: .3rem .55rem; pointer-events: none; }}
.hover i.late:hover::after {{ right: auto; left: 0; }}
@container (max-width: {MEDIUM_FROM - 1}px) {{
  .hover i:hover::after {{ top: auto; bottom: calc(100% + 4px); }}
}}
p, figcaption, summary {{ max-width: 90ch; }}
.grid-of > figure, .grid-of > .quotes {{ margin: 0; }}
figcaption {{ font-weight: 600; margin-bottom: .15rem; }}
.legend {{ display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; list-style: none; padding: 0;
  margin: 0 0 .25rem; font-size: .85rem; overflow-wrap: anywhere; }}
.legend li {{ display: flex; align-items: center; gap: .4rem; min-width: 0; }}
.swatch {{ width: 24px; height: 12px; flex: none; }}
.chart {{ display: block; width: 100%; height: auto; overflow: visible; }}
svg text {{ font-size: 12px; fill: var(--muted); font-variant-numeric: tabular-nums;
  paint-order: stroke; stroke: var(--ground); stroke-width: 3px; stroke-linejoin: round; }}
svg text.strong {{ fill: var(--text); }}
svg path {{ fill: none; }}
.grid {{ stroke: var(--line); stroke-width: 1; }}
.rule {{ stroke: var(--muted); stroke-width: 1.2; stroke-dasharray: 4 4; }}
.line {{ stroke: var(--s); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }}
.reach {{ stroke: var(--s); stroke-width: 2.5; stroke-linecap: round; }}
.whisker {{ stroke: var(--text); stroke-width: 1.4; }}
.swatch .dot, .chart .dot {{ fill: var(--s); stroke: var(--ground); stroke-width: .8;
  stroke-dasharray: none; }}
.chart .band {{ fill: var(--s); fill-opacity: .18; }}
.chart .level {{ fill: var(--s); fill-opacity: .15; }}
.edge {{ stroke: var(--muted); stroke-width: 1.2; stroke-linejoin: round; }}
.best {{ fill: none; stroke: var(--text); stroke-width: 1.6; }}
.faint {{ fill: var(--s); fill-opacity: .22; }}
.links ul {{ list-style: none; margin: 0 0 1rem; padding: 0; display: flex; flex-wrap: wrap;
  gap: .3rem 1.8rem; }}
.links .note {{ margin-left: .5em; }}
a {{ color: var(--accent); overflow-wrap: anywhere; }}
.choices fieldset {{ border: 0; margin: 0 0 1rem; padding: 0; display: flex; flex-wrap: wrap;
  gap: .4rem .6rem; }}
.choices legend {{ padding: 0; margin-bottom: .4rem; color: var(--muted); font-size: .85rem; }}
.choices label {{ border: 1px solid var(--muted); border-radius: 999px; padding: .2rem .8rem;
  font-size: .88rem; cursor: pointer; }}
.choices label:has(:checked) {{ border-color: var(--accent); box-shadow: inset 0 0 0 1px
  var(--accent); }}
.choices label:has(:focus-visible) {{ outline: 2px solid var(--accent); outline-offset: 2px; }}
.choices input {{ margin: 0 .45em 0 0; accent-color: var(--accent); }}
.choices label span {{ color: var(--muted); margin-left: .45em; }}
.choices .grid-of .quotes {{ margin: 0; }}
.stack details {{ margin-bottom: .2rem; }}
{_CHOICES}
.quotes {{ margin: 0 0 1.6rem; padding: 1rem; border: 1px solid var(--line);
  border-radius: 8px; break-inside: avoid; }}
.side-by-side {{ display: grid; gap: 1rem; margin-top: .9rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr)); }}
article {{ min-width: 0; }}
blockquote {{ margin: 0; padding: .6rem .8rem; background: var(--raised); border-radius: 6px;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .93rem; }}
.prompt {{ background: none; border-left: 3px solid var(--line); border-radius: 0; }}
.empty {{ color: var(--muted); font-style: italic; }}
.facts {{ font-size: .82rem; color: var(--muted); margin: 0 0 .35rem; display: flex;
  flex-wrap: wrap; gap: 0 .9rem; }}
.facts b {{ color: var(--text); font-variant-numeric: tabular-nums; }}
@media screen {{ blockquote {{ max-height: 22rem; overflow-y: auto; }} }}
@media print {{
  body {{ font-size: 11pt; }}
  main {{ max-width: none; padding: 0; }}
  .figures > div, blockquote, pre, .callout {{ border: 1px solid var(--line); }}
  .grid-of {{ grid-template-columns: 1fr 1fr; }}
  h2, h3, h4 {{ break-after: avoid; }}
  tr {{ break-inside: avoid; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
}}
"""
