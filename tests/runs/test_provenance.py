"""How a result was made, on its page."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from salsa_cli import VERSION, pages
from salsa_cli.config.soup import SoupConfig
from salsa_cli.pages import DataTable, Details, Links
from salsa_cli.runs import provenance
from salsa_cli.runs.versions import versions

CONFIG = SoupConfig(
    models=("a", "b"),
    alpha=0.5,
    memory=16_000_000,
    output=Path("out"),
    origins={"alpha": "SALSA_SOUP_ALPHA", "memory": "salsa.toml [soup]", "models": "MODELS"},
)
FILES = {"b.json": "figures", "missing.json": "nothing", "answers/*.jsonl": "answers"}


def completed(folder: Path, subtitle: str = "about") -> pages.Page:
    page = pages.Page("t", (pages.Prose("found"),), subtitle)
    return provenance.completed(page, "soup", CONFIG, folder, FILES)


def test_command_settings_and_versions_follow_what_was_found(tmp_path: Path) -> None:
    blocks = completed(tmp_path).blocks
    assert blocks[:2] == [pages.Prose("found"), pages.Heading("How it was made")]
    assert blocks[2] == pages.Code("salsa soup a b --alpha 0.5 --memory 16000000 -o out")
    settings, every, libraries = blocks[3:]
    assert isinstance(settings, DataTable) and isinstance(every, Details)
    assert sorted(settings.rows) == [
        ("alpha", "0.5", "SALSA_SOUP_ALPHA"),
        ("memory", "16000000", "salsa.toml [soup]"),
        ("models", "a, b", "MODELS"),
        ("output", "out", "default"),
    ]
    (code,) = every.blocks
    assert isinstance(code, pages.Code)
    assert json.loads(code.text)["dtype"] == "auto" and "force" not in code.text
    assert isinstance(libraries, Details)
    (table,) = libraries.blocks
    assert isinstance(table, DataTable) and dict(table.rows) == versions()  # type: ignore[arg-type]


def test_version_and_date_stand_at_the_top(tmp_path: Path) -> None:
    for subtitle, start in (("about", "about\n"), ("", "")):
        found = completed(tmp_path, subtitle).subtitle
        match = re.fullmatch(rf"{start}salsa {VERSION}, (.* UTC)", found)
        assert match is not None
        date = datetime.strptime(match[1], "%Y-%m-%d %H:%M UTC").replace(tzinfo=UTC)
        assert timedelta(0) <= datetime.now(UTC) - date < timedelta(minutes=2)


def test_links_lead_to_the_files_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("x" * 1234)
    (tmp_path / "answers").mkdir()
    for name in ("y z.jsonl", "x.jsonl", "x.txt"):
        (tmp_path / "answers" / name).write_text("")
    (links,) = [block for block in completed(tmp_path).blocks if isinstance(block, Links)]
    assert [(one.path, one.note) for one in links.links] == [
        ("b.json", "figures, 1.23kB"),
        ("answers/x.jsonl", "answers, 0B"),
        ("answers/y z.jsonl", "answers, 0B"),
    ]


def test_many_files_of_one_kind_are_folded(tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    for number in range(9):
        (tmp_path / "answers" / f"{number}.jsonl").write_text("")
    blocks = completed(tmp_path).blocks
    (folded,) = [one for one in blocks if isinstance(one, Details) and "9 files" in one.summary]
    (links,) = folded.blocks
    assert isinstance(links, Links) and len(links.links) == 9
    assert not [one for one in blocks if isinstance(one, Links)]
