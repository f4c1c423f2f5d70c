"""The structure of a package in four numbers, from its imports alone.

    python tests/structure.py [FOLDER]

A room is a package with all that it holds, or a module that lies loose in FOLDER (`salsa_cli` by
default). An arrow is a room that imports another. The floor of a room is the number of rooms in the
longest chain of imports that begins there. An arrow that closes a circle is an upward import.
"""

import argparse
import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Print the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "salsa_cli")
    folder = parser.parse_args().folder.resolve()
    arrows = rooms(folder)
    heights, upward = floors(arrows)
    loose = [name for name in arrows if (folder / name).with_suffix(".py").is_file()]
    figures = {
        "rooms": len(arrows),
        "packages": len(arrows) - len(loose),
        "loose modules": len(loose),
        "floors": max(heights.values(), default=0),
        "arrows": sum(map(len, arrows.values())),
        "upward": [f"{room} -> {target}" for room, target in upward],
    }
    print(json.dumps(figures, indent=2))


def rooms(folder: Path) -> dict[str, set[str]]:
    """Every room, and the rooms that its modules import."""
    paths = [path for path in sorted(folder.rglob("*.py")) if path != folder / "__init__.py"]
    modules = {_dotted(path, folder): path.relative_to(folder).parts[0] for path in paths}
    modules = {name: room.removesuffix(".py") for name, room in modules.items()}
    arrows: dict[str, set[str]] = {room: set() for room in modules.values()}
    for path in paths:
        room = modules[_dotted(path, folder)]
        for names in _imported(path):
            target = next((modules[name] for name in names if name in modules), room)
            if target != room:
                arrows[room].add(target)
    return arrows


def floors(
    arrows: Mapping[str, set[str]],
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The floor of each room, the lowest being 1, and the arrows that close a circle."""
    heights: dict[str, int] = {}
    upward: list[tuple[str, str]] = []
    path: list[str] = []

    def height(room: str) -> int:
        if room not in heights:
            path.append(room)
            below = [0]
            for target in sorted(arrows[room]):
                if target in path:
                    upward.append((room, target))
                else:
                    below.append(height(target))
            path.pop()
            heights[room] = 1 + max(below)
        return heights[room]

    for room in sorted(arrows):
        height(room)
    return heights, upward


def _dotted(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path) -> Iterator[tuple[str, ...]]:
    """For each import, the dotted names that it may mean, the likeliest first."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name,) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from a import b` names the module a.b, or the name b in the module a.
            yield from ((f"{node.module}.{alias.name}", node.module) for alias in node.names)


if __name__ == "__main__":
    main()
