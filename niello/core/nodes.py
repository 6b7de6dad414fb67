"""Interned immutable nodes: equal structure is the same object.

Equality is identity, so common subexpressions are shared by construction and facts about a node
can be cached on it. A node class names its fields in order in `fields`; `children` are the fields
that are nodes or tuples of nodes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Self
from weakref import WeakValueDictionary

_table: WeakValueDictionary[tuple[Any, ...], Node] = WeakValueDictionary()
_lock = threading.RLock()


class Node:
    """Base of interned nodes. Construct with the fields in order: `Add(a, b)`."""

    __slots__ = ("__weakref__", "facts")
    fields: ClassVar[tuple[str, ...]] = ()
    facts: dict[Any, Any]

    def __new__(cls, *values: Any) -> Self:
        key = cls.intern_key(*values)
        with _lock:
            found = _table.get(key)
            if found is not None:
                return found  # type: ignore[return-value]
            node = object.__new__(cls)
            for name, value in zip(cls.fields, values, strict=True):
                object.__setattr__(node, name, value)
            object.__setattr__(node, "facts", {})
            _table[key] = node
            return node

    @classmethod
    def intern_key(cls, *values: Any) -> tuple[Any, ...]:
        """What decides that two nodes are the same."""
        return (cls, *values)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.fields)

    @property
    def children(self) -> tuple[Node, ...]:
        """Direct sub-nodes, in field order."""
        cached = self.facts.get("children")
        if cached is None:
            found: list[Node] = []
            for value in self.values():
                if isinstance(value, Node):
                    found.append(value)
                elif isinstance(value, tuple):
                    found.extend(v for v in value if isinstance(v, Node))
            cached = self.facts["children"] = tuple(found)
        return cached  # type: ignore[no-any-return]

    def with_children(self, replace: Callable[[Node], Node]) -> Node:
        """The same node with each child mapped through `replace`."""
        new = []
        changed = False
        for value in self.values():
            if isinstance(value, Node):
                mapped: Any = replace(value)
            elif isinstance(value, tuple) and any(isinstance(v, Node) for v in value):
                mapped = tuple(replace(v) if isinstance(v, Node) else v for v in value)
                if all(a is b for a, b in zip(mapped, value, strict=True)):
                    mapped = value
            else:
                mapped = value
            changed = changed or mapped is not value
            new.append(mapped)
        return type(self)(*new) if changed else self

    def __repr__(self) -> str:
        return _sketch(self, 6)


def _sketch(value: Any, depth: int) -> str:
    """The structure down to a depth: shared sub-nodes would make the full text exponential."""
    if isinstance(value, tuple):
        inner = ", ".join(_sketch(v, depth) for v in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if not isinstance(value, Node):
        return repr(value)
    if depth == 0:
        return "..."
    return f"{type(value).__name__}({', '.join(_sketch(v, depth - 1) for v in value.values())})"


def walk(roots: Iterable[Node]) -> Iterator[Node]:
    """Every node reachable from `roots` once, children before parents."""
    seen: set[int] = set()
    stack: list[tuple[Node, bool]] = [(r, False) for r in reversed(list(roots))]
    while stack:
        node, expanded = stack.pop()
        if expanded:
            yield node
            continue
        if id(node) in seen:
            continue
        seen.add(id(node))
        stack.append((node, True))
        stack.extend((c, False) for c in reversed(node.children) if id(c) not in seen)


def transform(
    root: Node, visit: Callable[[Node], Node], memo: dict[Node, Node] | None = None
) -> Node:
    """Rebuild `root` bottom-up; `visit` sees each node with its children already replaced."""
    done: dict[Node, Node] = {} if memo is None else memo
    for node in walk([root]):
        if node not in done:
            done[node] = visit(node.with_children(lambda c: done[c]))
    return done[root]
