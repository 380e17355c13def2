"""CONTRIBUTING.md's table of rooms: every module stands in it, and none imports from a later room."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import exporter

PACKAGE = Path(exporter.__file__).parent
TABLE = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROOMS = {
    name: number
    for number, row in enumerate(re.findall(r"^\| (`.*) \| .* \|$", TABLE, re.MULTILINE))
    for name in re.findall(r"`(\w+)(?:\.py|/)`", row)
}
"""Name of a module or package -> its row."""


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the rooms that a module imports from when it is loaded, and those that its functions do."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    names += [
        f"exporter.{one.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for one in node.names
        if node.module == "exporter"
    ]
    return {name.split(".")[1] for name in names if name.startswith("exporter.")} & {room(one) for one in modules()}


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or not path.stem.startswith("__")]


def test_every_module_has_a_room() -> None:
    assert {room(path) for path in modules()} == set(ROOMS)


def test_no_room_imports_from_a_later_one() -> None:
    later = {
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in modules()
        for name in imported(path)
        if ROOMS[name] > ROOMS[room(path)]
    }
    assert later == set()
