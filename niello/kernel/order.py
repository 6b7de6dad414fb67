"""A total order of expressions that is the same in every process: for sorting and for names."""

from __future__ import annotations

from hashlib import blake2b

from niello.core.nodes import Node
from niello.kernel.ir import Range

Key = tuple[int, str]


def order_key(node: Node) -> Key:
    """Sorts ranges by name and extent, then everything else by a digest of its structure."""
    known: Key | None = node.facts.get("order")
    if known is not None:
        return known
    stack = [node]
    while stack:
        here = stack[-1]
        if "order" in here.facts:
            stack.pop()
            continue
        missing = [c for c in here.children if "order" not in c.facts]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        here.facts["order"] = _key(here)
    return node.facts["order"]  # type: ignore[no-any-return]


def _key(node: Node) -> Key:
    if isinstance(node, Range):
        return (0, f"{node.name}:{node.extent}")
    parts = [type(node).__name__]
    for value in node.values():
        if isinstance(value, Node):
            parts.append(value.facts["order"][1])
        elif isinstance(value, tuple):
            parts.append("(" + ",".join(v.facts["order"][1] for v in value) + ")")
        else:
            parts.append(repr(value))
    return (1, blake2b("|".join(parts).encode(), digest_size=16).hexdigest())
