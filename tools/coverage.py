"""docs/coverage.md: every row of MPSGraph's catalogue with its equivalent, from the registry."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import niello
from niello.graph.opdef import Op, Trait, refusal, registry
from tools.coverage_rows import ROWS

HEAD = """# Coverage of MPSGraph's catalogue

Each row of the catalogue with what does the same in Niello. Element types and gradients are those
of the operation behind a function; *parts* says that a function is made of others, whose types and
gradients it has. Every operation runs on `cpu`, `cuda`, `webgpu` and `numpy`; webgpu has neither
float64 nor complex128. What Niello has beyond this list is in [ops.md](ops.md).
"""


@dataclass(frozen=True)
class Entry:
    """A Niello name, the operation behind it if there is one, and the thing itself."""

    name: str
    operation: type[Op] | None
    thing: Any


def rows() -> list[tuple[str, str, list[Entry], str]]:
    """(section, their name, ours, remark). Raises LookupError for a name that does not exist."""
    found = []
    for line in ROWS.strip().splitlines():
        section, theirs, ours = (part.strip() for part in line.split(" | "))
        remark = re.search(r"\(.*\)$", ours)
        names = ours[: remark.start()] if remark else ours
        listed = [_entry(n.strip()) for n in names.split(",") if n.strip()]
        found.append((section, theirs, listed, remark.group() if remark else ""))
    return found


def _entry(text: str) -> Entry:
    name, _, operation = text.partition("=")
    thing: Any = niello
    for part in name.split("."):
        if not hasattr(thing, part):
            raise LookupError(f"coverage: niello has no {name}")
        thing = getattr(thing, part)
    known = registry()
    if operation and operation not in known:
        raise LookupError(f"coverage: there is no operation {operation}, named for {name}")
    return Entry(name, known.get(operation or name), thing)


def page(types: Callable[[tuple[Any, ...]], str], generated: str) -> str:
    """The whole page; `types` names groups of element types."""
    lines = [generated, HEAD]
    section = ""
    for of, theirs, ours, remark in rows():
        if of != section:
            section = of
            lines += [f"\n## {of}\n", "| MPSGraph | Niello | element types | gradient |"]
            lines.append("| --- | --- | --- | --- |")
        names = ", ".join(f"`{e.name}`" for e in ours)
        cells = [theirs, f"{names} {remark}".strip(), *_facts(ours, types)]
        lines.append(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |")
    return "\n".join(lines) + "\n"


def _facts(ours: list[Entry], types: Callable[[tuple[Any, ...]], str]) -> tuple[str, str]:
    operations = [e.operation for e in ours if e.operation is not None]
    operations = [o for o in operations if Trait.STRUCTURAL not in o.traits]
    if not operations:
        calls = all(callable(e.thing) and not isinstance(e.thing, type) for e in ours) and ours
        plain = calls and all("." not in e.name for e in ours)
        return ("parts", "parts") if plain else ("not a computation", "not a computation")
    kinds = dict.fromkeys(types(o.dtypes) for o in operations)
    gradients = dict.fromkeys(
        "yes" if refusal(o) is None else f"no: {refusal(o)}" for o in operations
    )
    return "; ".join(kinds), "; ".join(gradients)
