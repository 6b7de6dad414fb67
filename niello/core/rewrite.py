"""The rewriting engine of both languages: small named rules, applied until none fires.

A rule looks at one subject (a node of a kernel, an operation of a graph) and returns what to put in
its place, or None. Rules are found by the key of the subject, such as the class of a node or the
name of its function, so a table may hold hundreds. For interned nodes, `rewrite` does the walk:
children first, the results of a rule again, each node once for a table.

    DOUBLE = rule(Neg)(lambda node: node.x.x if isinstance(node.x, Neg) else None)
    rewrite(expression, RuleSet("demo", [DOUBLE]))
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from niello.core.config import DEBUG
from niello.core.errors import CompilerBug
from niello.core.nodes import Node

MAX_CHAIN = 2000  # replacements of replacements before the rules count as a loop


class RewriteLoop(CompilerBug):
    """Rules that undo each other. `rules` names them in the order in which they fired."""

    rules: tuple[str, ...]


class Rule:
    """A named rewrite. `keys` say which subjects it can apply to; `doc` shows before --> after."""

    __slots__ = ("doc", "function", "keys", "name")

    def __init__(
        self, name: str, function: Callable[..., Any], keys: tuple[Hashable, ...], doc: str
    ) -> None:
        if "-->" not in doc:
            raise CompilerBug(
                f"rule {name}", "its docstring needs a picture: before --> after", received=doc
            )
        self.name = name
        self.function = function
        self.keys = keys
        self.doc = doc

    def __repr__(self) -> str:
        return f"Rule({self.name})"


def rule(*keys: Hashable) -> Callable[[Callable[..., Any]], Rule]:
    """Makes a function a Rule for subjects with one of `keys`; its docstring is the picture.

    A key of a node is its class, or (class, name) for nodes with a field `name`.
    """

    def make(function: Callable[..., Any]) -> Rule:
        return Rule(function.__name__, function, keys, function.__doc__ or "")

    return make


class RuleSet:
    """Rules in the order in which they are tried. Add two sets with `+`."""

    __slots__ = ("_tables", "name", "rules")

    def __init__(self, name: str, rules: Iterable[Rule]) -> None:
        self.name = name
        self.rules = tuple(rules)
        self._tables: dict[Hashable, tuple[Rule, ...]] = {}

    def __add__(self, other: RuleSet) -> RuleSet:
        return RuleSet(f"{self.name}+{other.name}", (*self.rules, *other.rules))

    def select(self, *keys: Hashable) -> tuple[Rule, ...]:
        """The rules that list any of `keys`, in order."""
        found = self._tables.get(keys)
        if found is None:
            found = tuple(r for r in self.rules if any(k in r.keys for k in keys))
            self._tables[keys] = found
        return found

    def fire(
        self, keys: tuple[Hashable, ...], subject: Any, *context: Any
    ) -> tuple[Rule, Any] | None:
        """The first rule that has an answer for `subject`, and the answer. For level-1 passes,
        which walk their graph themselves; `context` goes to the rule as it is."""
        for candidate in self.select(*keys):
            result = candidate.function(subject, *context)
            if result is not None and result is not subject:
                return candidate, result
        return None


def node_keys(node: Node) -> tuple[Any, ...]:
    """What a node is found by: its class and, where it has a name, (class, name)."""
    cls = type(node)
    if "name" not in cls.fields:
        return (cls,)
    return (cls, (cls, getattr(node, "name")))  # noqa: B009


def rewrite(root: Node, rules: RuleSet, memo: dict[Node, Node] | None = None) -> Node:
    """Apply `rules` in and under `root` until none fires, children before parents.

    `memo` keeps results between calls with the same rules; without it the results are kept on the
    nodes themselves, as rules may look at nothing but their node. Raises RewriteLoop when a
    replacement leads back to a node that is being replaced.
    """
    return _Rewriter(rules, memo).run(root)


class _Rewriter:
    """One call of `rewrite`. `waiting` maps a node to the replacement that must settle first."""

    __slots__ = ("debug", "fired", "memo", "rules", "waiting")

    def __init__(self, rules: RuleSet, memo: dict[Node, Node] | None) -> None:
        self.rules = rules
        self.memo = memo
        self.waiting: dict[Node, Node] = {}
        self.fired: dict[Node, str] = {}
        self.debug = DEBUG.integer(0, 6) >= 6

    def settled(self, node: Node) -> Node | None:
        found: Node | None
        found = node.facts.get(self.rules) if self.memo is None else self.memo.get(node)
        return found

    def settle(self, node: Node, result: Node) -> None:
        if self.memo is None:
            node.facts[self.rules] = result
        else:
            self.memo[node] = result

    def run(self, root: Node) -> Node:
        stack = [root]
        waiting = self.waiting
        while stack:
            node = stack[-1]
            if self.settled(node) is not None:
                stack.pop()
                continue
            target = waiting.get(node)
            if target is None:
                target = self.step(node, stack)
                if target is None:
                    continue
                if target is node:
                    stack.pop()
                    self.settle(node, node)
                    continue
                closed = target in waiting
                waiting[node] = target
                if closed or len(waiting) > MAX_CHAIN:
                    self.loop(target)
            result = self.settled(target)
            if result is None:
                stack.append(target)
                continue
            self.settle(node, result)
            del waiting[node]
            stack.pop()
        result = self.settled(root)
        assert result is not None
        return result

    def step(self, node: Node, stack: list[Node]) -> Node | None:
        """What replaces `node` once its children are settled: itself when no rule fires; None when
        children had to be pushed first."""
        changed, ready = False, True
        for child in node.children:
            new = self.settled(child)
            if new is None:
                if child in self.waiting:
                    self.loop(child)
                stack.append(child)
                ready = False
            elif new is not child:
                changed = True
        if not ready:
            return None
        if changed:
            return node.with_children(self.settled)  # type: ignore[arg-type]
        found = self.rules.fire(node_keys(node), node)
        if found is None:
            return node
        self.fired[node] = found[0].name
        if self.debug:
            print(
                f"rewrite {self.rules.name}: {found[0].name}: {node!r} --> {found[1]!r}",
                file=sys.stderr,
            )
        return found[1]  # type: ignore[no-any-return]

    def loop(self, node: Node) -> None:
        """Report the rules that fired on nodes still waiting."""
        active = list(self.waiting)
        start = active.index(node) if node in self.waiting else max(0, len(active) - 20)
        names = tuple(dict.fromkeys(self.fired[n] for n in active[start:] if n in self.fired))
        raise RewriteLoop(
            f"rewrite with the rules {self.rules.name}",
            f"the rules {', '.join(names)} undo each other",
            received=repr(node)[:2000],
            rules=names,
        )
