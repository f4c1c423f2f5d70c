"""The page of a probe."""

from pathlib import Path

from salsa_cli.config.soup import SoupConfig
from salsa_cli.evaluation.probe_result import LayerGroup, LinePoint, ProbeResult, StoredDistance
from salsa_cli.evaluation.report import probe_page
from tests.support.html_tree import Tree


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    line = tuple(LinePoint(a, 1 + a, 0.1, 0.2, 3.0, 4.0) for a in (0.0, 0.25, 0.5, 0.75, 1.0))
    groups = (LayerGroup("head", 1234, 0.5, 0.25, 0.75), LayerGroup("all", 99, 0.5, 0.1, None))
    stored = StoredDistance("BF16", 0.5, 0.5, 1.0)
    result = ProbeResult(("x<y", "b"), 7, 70, line, 0.3, 0.25, 0.01, 0.0, 0.0, groups, stored, 1.0)
    config = SoupConfig(models=("a", "b"), probe="p.jsonl", output=Path("out"))
    (tmp_path / "probe.json").write_text("{}")
    probe_page.write(tmp_path, config, result)
    text = (tmp_path / probe_page.FILE).read_text()
    assert "Not connected:" in text and "A staircase." in text
    assert "x&lt;y" in text and "x<y" not in text
    assert (
        Tree(text).text["pre"][0] == "salsa soup a b --probe p.jsonl -o out"
        and 'href="./probe.json"' in text
    )
    assert "1,234" in text and "0.7500" in text and "cosine of changes" in text
