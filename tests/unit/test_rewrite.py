"""The rewriting engine on a toy language."""

from __future__ import annotations

import pytest

from niello.core.errors import CompilerBug
from niello.core.nodes import Node
from niello.core.rewrite import RewriteLoop, Rule, RuleSet, rewrite, rule


class Num(Node):
    __slots__ = ("value",)
    fields = ("value",)


class Op(Node):
    __slots__ = ("args", "name")
    fields = ("name", "args")


def op(name: str, *args: Node) -> Op:
    return Op(name, args)


@rule((Op, "neg"))
def twice_negated(e):
    """neg(neg(x)) --> x"""
    x = e.args[0]
    return x.args[0] if isinstance(x, Op) and x.name == "neg" else None


@rule((Op, "add"))
def add_numbers(e):
    """1 + 2 --> 3"""
    a, b = e.args
    return Num(a.value + b.value) if isinstance(a, Num) and isinstance(b, Num) else None


@rule((Op, "double"))
def double(e):
    """double(x) --> x + x"""
    return op("add", e.args[0], e.args[0])


FOLD = RuleSet("fold", [twice_negated, add_numbers])
ALL = FOLD + RuleSet("lower", [double])


def test_rules_apply_until_none_fires() -> None:
    e = op("double", op("neg", op("neg", op("double", Num(3)))))
    assert rewrite(e, ALL) is Num(12)
    assert rewrite(op("pair", e, Num(1)), ALL) is op("pair", Num(12), Num(1))


def test_sets_are_separate() -> None:
    e = op("double", op("add", Num(1), Num(2)))
    assert rewrite(e, FOLD) is op("double", Num(3))
    assert rewrite(e, ALL) is Num(6)
    assert ALL.name == "fold+lower" and len(ALL.rules) == 3


def test_each_node_is_looked_at_once() -> None:
    seen = []

    @rule(Op)
    def spy(e):
        """x --> x"""
        seen.append(e)

    e: Node = Num(7)
    for _ in range(60):  # 2**60 paths
        e = op("pair", e, e)
    assert rewrite(e, RuleSet("spy", [spy])) is e
    assert len(seen) == 60


def test_deep_expressions_need_no_recursion() -> None:
    e: Node = Num(0)
    for _ in range(20_000):
        e = op("add", e, Num(1))
    assert rewrite(e, FOLD) is Num(20_000)


def test_a_memo_of_ones_own() -> None:
    memo: dict[Node, Node] = {}
    e = op("add", Num(20), Num(22))
    assert rewrite(e, FOLD, memo) is Num(42)
    assert memo[e] is Num(42)


@rule((Op, "a"))
def a_to_b(e):
    """a(x) --> b(x)"""
    return op("b", *e.args)


@rule((Op, "b"))
def b_to_a(e):
    """b(x) --> a(x)"""
    return op("a", *e.args)


@rule((Op, "grow"))
def grow(e):
    """grow(x) --> grow(x + 1)"""
    return op("grow", op("pair", e.args[0], Num(1)))


@rule((Op, "wrap"))
def wrap(e):
    """wrap(x) --> other(wrap(x))"""
    return op("other", e)


def test_loops_name_their_rules() -> None:
    with pytest.raises(RewriteLoop) as caught:
        rewrite(op("keep", op("a", Num(1))), RuleSet("loop", [double, a_to_b, b_to_a]))
    assert set(caught.value.rules) == {"a_to_b", "b_to_a"}
    assert "a_to_b" in str(caught.value) and isinstance(caught.value, CompilerBug)
    for growing in (grow, wrap):
        with pytest.raises(RewriteLoop) as caught:
            rewrite(op(growing.name, Num(1)), RuleSet("growing", [growing]))
        assert caught.value.rules == (growing.name,)


def test_fire_serves_subjects_that_are_no_nodes() -> None:
    @rule("dense")
    def dense_to_matmul(subject, context):
        """dense(x) --> matmul(x, context)"""
        return f"matmul({subject}, {context})"

    rules = RuleSet("graph", [dense_to_matmul])
    assert rules.fire(("dense",), "x", "w") == (dense_to_matmul, "matmul(x, w)")
    assert rules.fire(("relu",), "x", "w") is None


def test_a_rule_needs_a_picture() -> None:
    with pytest.raises(CompilerBug, match="picture"):
        Rule("bare", lambda e: None, (Op,), "no picture")


def test_debug_prints_every_rule(monkeypatch, capsys) -> None:
    monkeypatch.setenv("NIELLO_DEBUG", "6")
    rewrite(op("add", Num(100), Num(200)), RuleSet("loud", [add_numbers]))
    assert "loud: add_numbers: " in capsys.readouterr().err
