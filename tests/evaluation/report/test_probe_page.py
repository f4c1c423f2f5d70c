"""The page of a probe."""

from pathlib import Path

from salsa_cli.evaluation.probe_result import LayerGroup, LinePoint, ProbeResult, StoredDistance
from salsa_cli.evaluation.report import probe_page


def test_the_page_says_what_was_found(tmp_path: Path) -> None:
    line = tuple(LinePoint(a, 1 + a, 0.1, 0.2, 3.0, 4.0) for a in (0.0, 0.25, 0.5, 0.75, 1.0))
    groups = (LayerGroup("head", 1234, 0.5, 0.25, 0.75), LayerGroup("all", 99, 0.5, 0.1, None))
    stored = StoredDistance("BF16", 0.5, 0.5, 1.0)
    result = ProbeResult(("x<y", "b"), 7, 70, line, 0.3, 0.25, 0.01, groups, stored, 1.0)
    probe_page.write(tmp_path, result)
    text = (tmp_path / probe_page.FILE).read_text()
    assert "Not connected:" in text and "A staircase." in text
    assert "x&lt;y" in text and "x<y" not in text
    assert "1,234" in text and "0.7500" in text and "cosine of changes" in text
