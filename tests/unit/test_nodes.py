"""Interned nodes: identity, immutability, walking, rebuilding."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from niello.core.dtypes import bool_, float32, float64, int64
from niello.core.nodes import Node, transform, walk
from niello.kernel import ir
from niello.kernel.ir import Const, Load, Param, Range, Reduce, Store, fn, free_ranges, substitute


class Leaf(Node):
    __slots__ = ("value",)
    fields = ("value",)


class Pair(Node):
    __slots__ = ("left", "rest")
    fields = ("left", "rest")


def test_equal_structure_is_the_same_object() -> None:
    a = Pair(Leaf(1), (Leaf(2), Leaf(3)))
    assert a is Pair(Leaf(1), (Leaf(2), Leaf(3)))
    assert a is not Pair(Leaf(1), (Leaf(3), Leaf(2)))
    assert Leaf(1) is not Pair(1, ())


def test_nodes_are_immutable() -> None:
    with pytest.raises(AttributeError, match="Leaf is immutable"):
        Leaf(1).value = 2


def test_children_are_nodes_and_tuples_of_nodes() -> None:
    assert Pair(Leaf(1), (Leaf(2), 5, Leaf(3))).children == (Leaf(1), Leaf(2), Leaf(3))
    assert Pair(7, ()).children == ()


def test_with_children_keeps_what_does_not_change() -> None:
    a = Pair(Leaf(1), (Leaf(2), "x"))
    assert a.with_children(lambda c: c) is a
    assert a.with_children(lambda c: Leaf(c.value * 10)) is Pair(Leaf(10), (Leaf(20), "x"))


def test_walk_visits_children_first_and_once() -> None:
    shared = Leaf(1)
    root = Pair(Pair(shared, ()), (shared, Leaf(2)))
    found = list(walk([root]))
    assert len(found) == len(set(found)) == 4
    for node in found:
        assert all(found.index(c) < found.index(node) for c in node.children)


def test_transform() -> None:
    root = Pair(Leaf(1), (Leaf(2), Leaf(1)))
    grown = transform(root, lambda n: Leaf(n.value + 1) if isinstance(n, Leaf) else n)
    assert grown is Pair(Leaf(2), (Leaf(3), Leaf(2)))


def test_deep_trees_need_no_recursion() -> None:
    node: Node = Leaf(0)
    for _ in range(20_000):
        node = Pair(node, ())
    assert sum(1 for _ in walk([node])) == 20_001
    assert transform(node, lambda n: n) is node


def test_unused_nodes_are_freed() -> None:
    ref = weakref.ref(Pair(Leaf("only here"), ()))
    gc.collect()
    assert ref() is None


def test_the_text_of_a_node_is_bounded() -> None:
    assert repr(Pair(Leaf(1), (Leaf("a"),))) == "Pair(Leaf(1), (Leaf('a'),))"
    node: Node = Leaf(0)
    for _ in range(5000):  # 2**5000 paths
        node = Pair(node, (node,))
    assert len(repr(node)) < 2000 and "..." in repr(node)


def test_threads_agree_on_identity() -> None:
    made: list[list[Node]] = []

    def make() -> None:
        made.append([Pair(Leaf(i), (Leaf(-i),)) for i in range(500)])

    threads = [threading.Thread(target=make) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(a is b for other in made[1:] for a, b in zip(made[0], other, strict=True))


def test_constants_are_told_apart_by_bits_and_dtype() -> None:
    zero, minus = Const(0.0, float32), Const(-0.0, float32)
    assert zero is not minus and zero is Const(0.0, float32)
    assert Const(float("nan"), float32) is Const(float("nan"), float32)
    assert len({Const(0, int64), Const(False, bool_), zero, Const(0.0, float64)}) == 4


def test_free_ranges() -> None:
    i, r = Range("i", 4), Range("r", 3)
    p, out = Param(0, float32, 12, False), Param(1, float32, 4, True)
    body = Load(p, i * 3 + r, None)
    assert free_ranges(body) == {i, r}
    assert free_ranges(Reduce("add", (r,), body)) == {i}
    assert free_ranges(Store(out, (i,), i, Reduce("add", (r,), body), None, None)) == frozenset()


def test_substitute() -> None:
    i, j = Range("i", 4), Range("j", 2)
    assert substitute(i * 3 + 1, {i: j + 1}) is (j + 1) * 3 + 1


def test_functions_fold_constants_and_trivial_indices() -> None:
    i = Range("i", 4)
    assert fn("add", i, 0) is i and i * 1 is i and i * 0 is ir.const(0, int64)
    assert fn("add", ir.const(2, int64), 3) is ir.const(5, int64)
    assert ir.const(300, ir.dtypes.uint8).value == 44
