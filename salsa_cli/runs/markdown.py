"""Results as Markdown, as GitHub and GitLab render it in a pull request."""

from salsa_cli.formatting import plain
from salsa_cli.runs.events import GateFailed, Result, Table, Tabular

LONGEST_TABLE = 40
"""A table of more rows is folded: GitHub takes comments of up to 65,536 characters."""

_LONGEST_CELL, _LONGEST_LINE = 200, 2000


def of_result(result: Result) -> str:
    """Its tables, then what qualifies them as a list, and whether it fails its gate."""
    failed = [f"- **failed** {_literal(result.reason)}"] if isinstance(result, GateFailed) else []
    whole = result.result if isinstance(result, GateFailed) else result
    text, table = whole.summary()
    if isinstance(whole, Tabular):
        tables = list(whole.tables())
    else:
        tables = [] if table is None else [("", table)]
    parts = [_titled(title, one) for title, one in tables]
    lines = [f"- {_literal(plain(line, _LONGEST_LINE))}" for line in text.splitlines() if line]
    parts.append("\n".join([*failed, *lines]))
    return "\n\n".join(part for part in parts if part)


def of_table(table: Table) -> str:
    """A table with its names to the left and its numbers to the right."""
    sides = [":--" if place < table.names else "--:" for place in range(len(table.columns))]
    rows = [table.columns, sides, *table.rows]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in rows)


def _titled(title: str, table: Table) -> str:
    head = f"**{title}**\n\n" if title else ""
    if len(table.rows) <= LONGEST_TABLE:
        return f"{head}{of_table(table)}"
    summary = f"{title or 'Table'}: {len(table.rows):,} rows"
    return f"<details><summary>{summary}</summary>\n\n{of_table(table)}\n\n</details>"


def _cell(text: str) -> str:
    return _literal(plain(text, _LONGEST_CELL)).replace("|", "\\|")


def _literal(text: str) -> str:
    """A text whose marks are no markup."""
    for mark in "\\`*_[]":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("&", "&amp;").replace("<", "&lt;")
