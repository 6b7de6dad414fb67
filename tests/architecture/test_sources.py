"""Names, sizes and words of the sources."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from sources import ROOT, Source, sources

from niello import backends

BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}
FILE_LINES, FILE_STOP = 600, 800
FUNCTION_LINES, FUNCTION_STOP = 60, 100
GENERIC = ("passes", "schedule", "autodiff", "codegen", "executable", "runtime", "core")
# Spelled in pieces, so that this file does not contain them.
WORDS = (
    "TO" + "DO", "FIX" + "ME", "X" * 3, "NotImplemented" + "Error", "not sure " + "why",
    r"\bA" + r"I\b", r"\bLL" + r"M\b", "/wo" + "rk/", '"/tm' + "p", "py" + "pi",
    "pythonho" + "sted",
)  # fmt: skip
TEXT = (".py", ".md", ".toml", ".css", ".js", ".txt", ".yml", ".yaml", "")


def test_no_banned_module_names() -> None:
    banned = [s.path for s in sources() if BANNED_NAMES & set(Path(s.path).with_suffix("").parts)]
    assert not banned


def test_files_are_small() -> None:
    lines = {s.path: s.text.count("\n") + 1 for s in sources()}
    for path, count in lines.items():
        if FILE_LINES < count <= FILE_STOP:
            warnings.warn(f"{path} has {count} lines, aim for {FILE_LINES}", stacklevel=1)
    assert not {p: c for p, c in lines.items() if c > FILE_STOP}


def test_functions_are_small() -> None:
    lengths = {
        f"{s.path}:{f.lineno} {f.name}": _lines(f)
        for s in sources()
        for f in ast.walk(s.tree)
        if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    for place, count in lengths.items():
        if FUNCTION_LINES < count <= FUNCTION_STOP:
            warnings.warn(f"{place} has {count} lines, aim for {FUNCTION_LINES}", stacklevel=1)
    assert not {p: c for p, c in lengths.items() if c > FUNCTION_STOP}


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body, its documentation not counted."""
    body = function.body
    if ast.get_docstring(function) is not None and len(body) > 1:
        body = body[1:]
    return (body[-1].end_lineno or body[-1].lineno) - body[0].lineno + 1


def test_devices_are_compared_in_back_ends_only() -> None:
    """Nobody else asks which device this is: what differs is in the back end's record."""
    wrong = [
        f"{s.path}:{line} compares with {name!r}"
        for s in sources("niello")
        if s.package != "backends"
        for name, line in _compared(s)
        if name in {*backends.names(), "cuda", "webgpu", "metal"}
    ]
    assert not wrong, "\n".join(wrong)


def test_generic_code_does_not_compare_op_names() -> None:
    from niello.graph.opdef import registry

    names = set(registry())
    wrong = [
        f"{s.path}:{line} compares with {name!r}"
        for s in sources("niello")
        if s.package in GENERIC
        for name, line in _compared(s, op_names=True)
        if name in names
    ]
    assert not wrong, "\n".join(wrong)


def _compared(source: Source, *, op_names: bool = False) -> Iterator[tuple[str, int]]:
    """Strings on either side of a comparison (with `x.op.name` only), with lines."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if not op_names or any(ast.unparse(s).endswith("op.name") for s in sides):
                for side in sides:
                    for part in ast.walk(side):
                        if isinstance(part, ast.Constant) and isinstance(part.value, str):
                            yield part.value, node.lineno
        elif isinstance(node, ast.Match) and (
            not op_names or ast.unparse(node.subject).endswith("op.name")
        ):
            for part in ast.walk(node):
                if isinstance(part, ast.MatchValue) and isinstance(part.value, ast.Constant):
                    yield str(part.value.value), part.value.lineno


def test_forbidden_words() -> None:
    pattern = re.compile("|".join(WORDS))
    found = []
    for path in _texts():
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if match := pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number} has {match.group()!r}")
    assert not found, "\n".join(found)


def _texts() -> Iterator[Path]:
    """All text files of the project, generated and installed ones left out."""
    listed = [ROOT / n for n in ("README.md", "Makefile", "pyproject.toml", ".ci/run")]
    for folder in ("niello", "tests", "bench", "tools", "examples", "docs"):
        listed += sorted((ROOT / folder).rglob("*"))
    for path in listed:
        parts = set(path.relative_to(ROOT).parts)
        if path.is_file() and path.suffix in TEXT and not parts & {"__pycache__", "results"}:
            yield path
