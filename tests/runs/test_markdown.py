"""Results as Markdown: literal text in, tables that render out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from salsa_cli.runs import markdown
from salsa_cli.runs.events import DryRun, GateFailed, Table

PAIRS = Table(("a", "b", "a wins"), [("x|y", "<b>_z_", "59.1%")], names=2)


@dataclass(frozen=True)
class Compared:
    """A result with two tables."""

    rows: int = 1

    def record(self) -> Mapping[str, object]:
        return {}

    def summary(self) -> tuple[str, Table | None]:
        return "one *line*\n\nanother", PAIRS

    def tables(self) -> Sequence[tuple[str, Table]]:
        many = Table(("model", "score"), [(f"m{n}", "1.0") for n in range(self.rows)])
        return [("Scores", many), ("Win rates", PAIRS)]


def test_a_table() -> None:
    assert markdown.of_table(PAIRS).splitlines() == [
        "| a | b | a wins |",
        "| :-- | :-- | --: |",
        r"| x\|y | &lt;b>\_z\_ | 59.1% |",
    ]
    assert r"| a\\b |" in markdown.of_table(Table(("n",), [("a\\b",)]))
    assert "| two lines |" in markdown.of_table(Table(("n",), [("two\nlines",)]))


def test_the_tables_come_first_and_then_the_lines() -> None:
    text = markdown.of_result(Compared())
    assert text.startswith("**Scores**\n\n| model | score |\n| :-- | --: |\n| m0 | 1.0 |\n\n**Win")
    assert text.endswith("59.1% |\n\n- one \\*line\\*\n- another")


def test_a_result_without_tables_of_its_own() -> None:
    text = markdown.of_result(DryRun({"models": "a", "prompts": 3}, PAIRS))
    assert text.startswith("| a | b |") and text.endswith("- models: a\n- prompts: 3")
    assert markdown.of_result(DryRun({"models": "a"})) == "- models: a"


def test_a_long_table_is_folded() -> None:
    short, long = (markdown.of_result(Compared(rows)) for rows in (40, 41))
    assert "<details>" not in short and "| m39 | 1.0 |" in short
    assert "<details><summary>Scores: 41 rows</summary>\n\n| model |" in long
    assert long.count("</details>") == 1


def test_a_failed_gate_is_named_first() -> None:
    text = markdown.of_result(GateFailed(Compared(), "--fail-under 0.5: a_b wins 40%"))
    assert "\n\n- **failed** --fail-under 0.5: a\\_b wins 40%\n- one" in text
    assert text.startswith("**Scores**")
