"""No text uses wording that readers stumbled over: the list below says what to write instead.

Covered: every string literal, docstring and comment of the package; README, CHANGELOG, the guides,
the README files of tests and benchmarks; the text of the example scripts. Prompts for LLM judges
are left as their publishers wrote them.
"""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

STILTED = {
    r"stands? against": "this run cannot start",
    r"held against": "compared with",
    r"set beside": "compared with",
    r"by the proxy": "by the trained reward",
    r"so much as": "even",
    r"the most that": "at most",
    r"(?:is|are) told (?!apart)": "the message says; pass it; report",
    r"says of itself": "declares",
    r"mend(?:s|ed|ing)?": "fix",
    r"hand(?:s|ed|ing)? (?:over|back)": "pass, return",
    r"sees? to (?:it|the)": "check; make sure",
    r"or not at all": "only when it is complete",
    r"(?:made |begin |is shuffled )?anew": "again",
    r"lies? (?:in|beside)": "is in, is next to",
    r"at hand": "available",
    r"of one's own": "your own",
    r"goes on (?:where|to the)": "resumes",
    r"go on where": "resume",
    r"all the same": "anyway",
    r"teach(?:es)? nothing": "give no gradient; are not used",
    r"(?:models|adapters|fine-tunes) of one base": "of the same base",
    r"mak(?:e|es) up for": "correct for",
    r"whoever": "anyone who",
    r"nothing is proven|proves? nothing": "not significant",
    r"no sensible": "malformed",
    r"takes? over the": "load",
    r"lest": "so that ... not",
    r"is no (?:valid |file|folder|model|adapter|soup|number|reward model|text)": "is not a",
    r"leave it out": "remove it",
    r"give (?:a|one|at least) (?:larger|smaller|of them)": "use a larger",
    r"(?:nats|tokens) an? (?:answer|token)": "per answer, per token",
    r"to say nothing saves": "an empty answer would save",
}
PATTERN = re.compile("|".join(rf"\b(?:{one})\b" for one in STILTED), re.IGNORECASE)

PAGES = [
    "README.md",
    "CHANGELOG.md",
    "tests/README.md",
    "tests/benchmarks/README.md",
    "tests/manners.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "examples").rglob("*.md")),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "examples").glob("*.sh")),
]


def stilted(text: str) -> list[str]:
    """The stilted phrases of a text, whose lines may be wrapped anywhere."""
    return [match[0] for match in PATTERN.finditer(" ".join(text.split()))]


def unwrapped(source: str) -> str:
    """Python code in which string literals and comments go on without quotes and line ends."""
    return re.sub(r"""["']\s*\n\s*[rbf]*["']|\n[ \t]*#""", "", source)


@pytest.mark.parametrize("page", PAGES)
def test_pages_read_as_plain_english(page: str) -> None:
    assert stilted((ROOT / page).read_text()) == []


@pytest.mark.parametrize("folder", ["salsa_cli", "examples"])
def test_messages_docstrings_and_comments_read_as_plain_english(folder: str) -> None:
    found = {
        str(path.relative_to(ROOT)): phrases
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (phrases := stilted(unwrapped(path.read_text())))
    }
    assert found == {}


def test_wrapped_and_split_texts_are_read_whole() -> None:
    source = 'x = (\n    "the run is handed "\n    f"over to {y}"\n)  # it lies\n# in a\n'
    assert stilted(unwrapped(source)) == ["handed over", "lies in"]
    assert stilted("Nothing\n    is proven; it is told apart.") == ["Nothing is proven"]


COUNTED = "prompt update answer judgement call text pair block tensor verdict comparison".split()
MANY = {"cautions.py", "frontier_blocks.py", "many_models.py"}  # shown only where there are many


def test_a_number_and_its_noun_agree() -> None:
    """`within 1 updates`: `formatting.counted` writes a number with its noun."""
    plural = re.compile(rf"^ (?:[a-z-]+ )?({'|'.join(COUNTED)})s\b")
    found = [
        (path.name, node.lineno, after.value[:40])
        for path in sorted((ROOT / "salsa_cli").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr) and path.name not in MANY
        for number, after in pairwise(node.values)
        if isinstance(after, ast.Constant) and plural.match(after.value)
        if isinstance(number, ast.FormattedValue)
        if ast.unparse(number.value).startswith("len(") or number.format_spec is not None
    ]
    assert found == []


# Names that are filled in later, by `format` or by rich; a user's own template; subscripts.
TEMPLATES = {"question", "answer", "answer_a", "answer_b", "reference", "text", "limit"}
TEMPLATES |= {"task.description", "task.fields[detail]", "t+1", "j != i"}


def test_no_text_shows_the_name_of_a_variable() -> None:
    """A string that lost its f shows {NAME} to the reader."""
    found = [
        (path.name, node.lineno, name)
        for path in sorted((ROOT / "salsa_cli").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for name in re.findall(r"\{([A-Za-z_'][^{}:;]*)\}", node.value)
        if name not in TEMPLATES
    ]
    assert found == []
