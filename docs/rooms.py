"""Rooms of the package and who imports whom: `python docs/rooms.py` rewrites the picture.

The picture and the table in `docs/architecture.md` are drawn from the imports as they stand; a test
(`tests/unit/test_layers.py`) fails where page and code differ.
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BASE = ("errors", "files")  # used everywhere: no arrows are drawn to them
TOP = ("__init__", "__main__", "arguments", "cli")


def room_of(module: str) -> str | None:
    """Return the room of a module of the package, None for a module of another one."""
    parts = module.split(".")
    if parts[0] != "scgpt":
        return None
    name = parts[1] if len(parts) > 1 else "__init__"
    return "cli" if name in TOP else name


def imported(path: Path) -> list[str]:
    """Return every module that a file imports, and every name it imports from one."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [node.module or ""]
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def survey() -> tuple[Counter[str], dict[str, set[str]]]:
    """Return the lines of every room, and the rooms that each imports."""
    lines: Counter[str] = Counter()
    arrows: dict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "scgpt").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        room = room_of(module)
        lines[room] += len(path.read_text(encoding="utf-8").splitlines())
        arrows[room] |= {room_of(name) for name in imported(path)} - {room, None, "__init__", "cli"}
    return lines, arrows


def picture() -> str:
    """Return the generated part of the page: a Mermaid graph and a table of lines."""
    lines, arrows = survey()
    graph = ["```mermaid", "flowchart TD"]
    for room in sorted(arrows):
        for target in sorted(arrows[room] - set(BASE) - _implied(room, arrows)):
            graph.append(f"  {room} --> {target}")
    graph.append("```")
    total = sum(lines.values())
    table = ["| room | lines | share |", "|---|---|---|"]
    table += [f"| `{room}` | {n:,} | {n / total:.0%} |" for room, n in lines.most_common()]
    table.append(f"| all | {total:,} | |")
    return "\n".join([*graph, "", *table])


def _implied(room: str, arrows: dict[str, set[str]]) -> set[str]:
    """Return the rooms that a neighbour of `room` leads to anyhow; their arrows are left out."""
    reached: set[str] = set()
    todo = [target for near in arrows[room] for target in arrows[near]]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += arrows[name]
    return reached


def page(text: str) -> str:
    """Return the page with its generated part made anew."""
    mark = "<!-- drawn by docs/rooms.py -->"
    return re.sub(
        f"{mark}.*{mark}", lambda _: f"{mark}\n{picture()}\n{mark}", text, flags=re.DOTALL
    )


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
