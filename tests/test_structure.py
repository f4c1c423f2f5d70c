"""The structure of the package and of its tests, held by numbers and by names."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests import structure

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "salsa_cli"


def test_the_package_keeps_to_its_numbers() -> None:
    arrows = structure.rooms(PACKAGE)
    heights, upward = structure.floors(arrows)
    assert upward == []
    assert len(arrows) <= 26
    assert max(heights.values()) <= 9
    assert sum(map(len, arrows.values())) <= 125


def test_the_numbers_of_a_small_package_by_hand(tmp_path: Path) -> None:
    """Three rooms; `top` imports both others, `low` and `side` import one another."""
    folder = tmp_path / "small"
    (folder / "low").mkdir(parents=True)
    texts = {
        "__init__.py": "",
        "top.py": "import os\nfrom small import side\nfrom small.low.deep import name\n",
        "side.py": "def late():\n    from small.low import deep\n",
        "low/__init__.py": "",
        "low/deep.py": "from small.low import other\nimport small.side\n",
        "low/other.py": "",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    arrows = structure.rooms(folder)
    assert arrows == {"top": {"side", "low"}, "side": {"low"}, "low": {"side"}}
    heights, upward = structure.floors(arrows)
    assert (max(heights.values()), len(upward)) == (3, 1)


def modules() -> Iterator[Path]:
    """The modules of the package, but for the empty ones that only make a folder a package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        if any(not isinstance(node, ast.Expr) for node in body):
            yield path.relative_to(PACKAGE)


def sibling(module: Path) -> Path:
    """The test file of a module, at the same place in `tests`."""
    if module.name == "__init__.py":
        return TESTS / module.parent / f"test_{module.parent.name or 'package'}.py"
    return TESTS / module.parent / f"test_{module.name}"


def test_every_module_has_its_tests_or_is_listed_with_who_tests_it() -> None:
    text = (TESTS / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Modules without their own test file")[2]
    rows = re.findall(r"^\| `(\S+\.py)` \| (.+) \|$", table, re.M)
    listed = {Path(module): re.findall(r"`(\S+\.py)`", who) for module, who in rows}
    without = {module for module in modules() if not sibling(module).exists()}
    listed_too = "modules that neither have a test file nor are listed in tests/README.md"
    assert without - set(listed) == set(), listed_too
    assert set(listed) - without == set(), "listed in tests/README.md without need"
    for module, who in listed.items():
        assert who, f"{module}: nobody is named"
        for name in who:
            assert (TESTS / name).exists(), f"{module}: no tests/{name}"


def test_tests_import_no_other_tests_and_nothing_by_paths() -> None:
    for path in TESTS.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names: list[str] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names += [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("sys", "path"), path
        parts = {part for name in names for part in name.split(".")}
        found = [part for part in parts if part.startswith("test_") or part == "conftest"]
        assert not found, f"{path} imports {found}"
