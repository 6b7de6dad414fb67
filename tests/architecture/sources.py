"""The project's Python files, parsed once, for the tests of this folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("niello", "tests", "bench", "tools", "examples")


@dataclass(frozen=True)
class Source:
    """A file: its path from the root, its text and its syntax tree."""

    path: str
    text: str
    tree: ast.Module

    @property
    def module(self) -> str:
        """The dotted name of the module."""
        parts = list(Path(self.path).with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        """The folder of niello that the module is in, such as "ops"; empty for niello itself."""
        parts = Path(self.path).parts
        return parts[1] if parts[0] == "niello" and len(parts) > 2 else ""


@cache
def sources(*folders: str) -> tuple[Source, ...]:
    """All files of the given folders of the project, or of all."""
    found = []
    for folder in folders or FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text()
            found.append(Source(str(path.relative_to(ROOT)), text, ast.parse(text, str(path))))
    return tuple(found)


def imports(source: Source, *, lazy: bool = True) -> Iterator[tuple[str, int]]:
    """Modules that a file imports, with line numbers; not those for type checkers only.

    Without `lazy`, only those that are imported with the file itself.
    """
    stack: list[ast.AST] = [source.tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack += node.orelse
            continue
        if not lazy and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Import):
            yield from ((a.name, node.lineno) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _from(source, node)
        stack += ast.iter_child_nodes(node)


def _from(source: Source, node: ast.ImportFrom) -> Iterator[tuple[str, int]]:
    base = node.module or ""
    if node.level:
        parts = source.module.split(".")
        inside = parts if source.path.endswith("__init__.py") else parts[:-1]
        kept = inside[: len(inside) - node.level + 1]
        base = ".".join([*kept, base] if base else kept)
    for alias in node.names:
        full = f"{base}.{alias.name}"
        yield (full if full in modules() else base), node.lineno


@cache
def modules() -> frozenset[str]:
    """Dotted names of all modules of niello."""
    return frozenset(
        ".".join(
            p.relative_to(ROOT).with_suffix("").parts
            if p.name != "__init__.py"
            else p.relative_to(ROOT).parent.parts
        )
        for p in (ROOT / "niello").rglob("*.py")
    )
