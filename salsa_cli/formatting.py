"""Numbers, sizes, durations and lines as people read them."""

import re
import textwrap


def plain(text: str, length: int) -> str:
    """Untrusted text in one line of at most `length` characters, without control codes."""
    text = " ".join(text.split())
    line = "".join(ch if ch.isprintable() else "\N{REPLACEMENT CHARACTER}" for ch in text)
    return line if len(line) <= length else line[: length - 3] + "..."


def amount(count: float, unit: str) -> str:
    """A number of units; bytes are written as 13.5GB."""
    if unit != "B":
        return f"{count:,.0f}"
    for suffix, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.3g}{suffix}"
    return f"{count:.0f}B"


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 pair, 1,700 pairs, 2 losses."""
    if count == 1:
        return f"1 {noun}"
    return f"{count:,} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def verb(count: int, plural: str) -> str:
    """A verb that agrees with a number: 1 pair is, 2 pairs are; 1 leaves, 2 leave."""
    if count != 1:
        return plural
    return {"are": "is", "have": "has"}.get(plural, f"{plural}s")


def figure(value: float) -> str:
    """A number with three or four significant digits."""
    if isinstance(value, int):
        return f"{value:,}"
    if 1000 <= abs(value) < 10**6:
        return f"{value:,.0f}"
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds for a person: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 0.1:
        return "less than 0.1 s"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def fitted(text: str, width: int, hanging: str = "") -> str:
    """Lines of at most `width` characters, broken between words.

    What follows a break begins with `hanging`, or below the text of an item (`  - `). Words that
    are longer stay whole, and so do other lines that begin with a blank: they are commands to copy.
    """
    return "\n".join(_broken(line, width, hanging) for line in text.split("\n"))


def _broken(line: str, width: int, hanging: str) -> str:
    item = re.match(r" *- ", line)
    if len(line) <= width or (item is None and line.startswith(" ")):
        return line
    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * len(item[0]) if item else hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
