"""Which loops a kernel becomes: stages, nests, phases, ranges."""

from __future__ import annotations

import math

import pytest

from niello.codegen.collapse import collapsed, divided, rename
from niello.codegen.plan import Nest, Partial, Plan, Split, plan
from niello.core.dtypes import float32, int64
from niello.core.nodes import walk
from niello.kernel.build import ravel
from niello.kernel.ir import Expr, Fn, Kernel, Load, Param, Range, Reduce, Store, const, fn


def store(p: Param, ranges: tuple[Range, ...], index: Expr, value: Expr) -> Store:
    return Store(p, ranges, index, value, None, None)


def shape(found: Plan) -> list[list[str]]:
    """Kind and extents of the nests of each stage."""
    return [
        [f"{type(n).__name__}{[r.extent for r in n.ranges]}" for n in stage]
        for stage in found.stages
    ]


def softmax(rows: int, columns: int) -> Kernel:
    i, j, k, m = Range("i", rows), Range("j", columns), Range("k", columns), Range("m", columns)
    x, y = Param(0, float32, rows * columns, False), Param(1, float32, rows * columns, True)
    top = Reduce("max", (k,), Load(x, i * columns + k, None))
    total = Reduce("add", (m,), fn("exp", Load(x, i * columns + m, None) - top))
    value = fn("exp", Load(x, i * columns + j, None) - top) / total
    return Kernel("softmax", (x, y), (store(y, (i, j), i * columns + j, value),))


def test_contiguous_ranges_become_one() -> None:
    n, h, w, c = (Range(name, e) for name, e in zip("nhwc", (2, 3, 4, 5), strict=True))
    x, y = Param(0, float32, 120, False), Param(1, float32, 120, True)
    index = ravel((n, h, w, c), (2, 3, 4, 5))
    kernel = Kernel("copy", (x, y), (store(y, (n, h, w, c), index, Load(x, index, None)),))
    assert shape(plan(kernel)) == [["Nest[120]"]]


def test_a_bias_keeps_its_range_apart() -> None:
    n, h, c = Range("n", 2), Range("h", 3), Range("c", 5)
    x, b, y = (Param(k, float32, e, k == 2) for k, e in enumerate((30, 5, 30)))
    index = ravel((n, h, c), (2, 3, 5))
    value = Load(x, index, None) + Load(b, c, None)
    kernel = Kernel("bias", (x, b, y), (store(y, (n, h, c), index, value),))
    assert shape(plan(kernel)) == [["Nest[6, 5]"]]


def test_ranges_that_are_compared_do_not_collapse() -> None:
    i, j = Range("i", 4), Range("j", 6)
    index = i * 6 + j
    ranges, mapping = collapsed((i, j), [index, j < 3])
    assert ranges == (i, j)
    assert not mapping
    ranges, mapping = collapsed((i, j), [index, index < 3])
    assert [r.extent for r in ranges] == [24]
    assert rename(index, mapping) is ranges[0]


def test_quotients_and_remainders_cut_a_range() -> None:
    r = Range("r", 24)
    ranges, mapping = divided((r,), [r // 4 * 10 + r % 4])
    assert [d.extent for d in ranges] == [6, 4]
    assert rename(r, mapping) is ravel(ranges, (6, 4))
    same, nothing = divided((r,), [r // 7])
    assert same == (r,)
    assert not nothing


def test_softmax_is_a_row_with_three_phases_that_keeps_the_exponentials() -> None:
    found = plan(softmax(100, 50))
    assert shape(found) == [["Nest[100]"]]
    nest = found.stages[0][0]
    assert isinstance(nest, Nest)
    assert [len(p.reductions) for p in nest.phases] == [1, 1, 0]
    assert [p.ranges for p in nest.phases] == [nest.phases[2].ranges] * 3
    assert len(found.rows) == 1
    quotient = nest.phases[2].stores[0].value
    assert isinstance(quotient, Fn)
    kept = quotient.args[0]
    assert isinstance(kept, Load)
    assert kept.param is found.rows[0]


def test_independent_reductions_share_a_loop() -> None:
    i, k, m = Range("i", 40), Range("k", 30), Range("m", 30)
    x, y = Param(0, float32, 1200, False), Param(1, float32, 40, True)
    mean = Reduce("add", (k,), Load(x, i * 30 + k, None))
    squares = Reduce("add", (m,), Load(x, i * 30 + m, None) * Load(x, i * 30 + m, None))
    kernel = Kernel("moments", (x, y), (store(y, (i,), i, squares - mean * mean),))
    nest = plan(kernel).stages[0][0]
    assert isinstance(nest, Nest)
    assert [len(p.reductions) for p in nest.phases] == [2, 0]


@pytest.mark.parametrize(("rows", "columns", "split"), [(64, 10, False), (100_000, 10, True)])
def test_long_columns_are_split(rows: int, columns: int, split: bool) -> None:
    c, r = Range("c", columns), Range("r", rows)
    x, y = Param(0, float32, rows * columns, False), Param(1, float32, columns, True)
    value = Reduce("add", (r,), Load(x, r * columns + c, None)) * 2.0
    found = plan(Kernel("columns", (x, y), (store(y, (c,), c, value),)))
    expected = [[f"Split[{columns}]"], [f"Nest[{columns}]"]] if split else [[f"Nest[{columns}]"]]
    assert shape(found) == expected
    if split:
        first = found.stages[0][0]
        assert isinstance(first, Split)
        assert first.along is r
        assert [p.elements for p in found.exchange] == [columns]
        last = found.stages[1][0]
        assert isinstance(last, Nest)
        assert any(isinstance(n, Partial) for n in walk([last.stores[0].value]))


def test_statistics_over_outer_axes_come_first_and_join_what_stores_them() -> None:
    points, channels = 5000, 32
    n, c, a = Range("n", points), Range("c", channels), Range("a", points)
    x, y, m = (
        Param(k, float32, e, k > 0)
        for k, e in enumerate((points * channels, points * channels, channels))
    )
    mean = Reduce("add", (a,), Load(x, a * channels + c, None)) * (1.0 / points)
    kernel = Kernel(
        "centre",
        (x, y, m),
        (
            store(m, (c,), c, mean),
            store(y, (n, c), n * channels + c, Load(x, n * channels + c, None) - mean),
        ),
    )
    found = plan(kernel)
    assert shape(found) == [["Split[32]"], ["Nest[32]"], ["Nest[5000, 32]"]]
    assert [p.elements for p in found.shared] == [channels]
    middle = found.stages[1][0]
    assert isinstance(middle, Nest)
    assert len(middle.stores) == 2


def test_small_statistics_stay_in_one_nest() -> None:
    n, c, a = Range("n", 20), Range("c", 32), Range("a", 20)
    x, y = Param(0, float32, 640, False), Param(1, float32, 640, True)
    mean = Reduce("add", (a,), Load(x, a * 32 + c, None))
    value = Load(x, n * 32 + c, None) - mean
    kernel = Kernel("centre", (x, y), (store(y, (n, c), n * 32 + c, value),))
    assert shape(plan(kernel)) == [["Nest[32]"]]


def test_groups_over_unrelated_ranges_are_nests_of_one_stage() -> None:
    params, stores = [], []
    for n, count in enumerate((30, 7)):
        i = Range(f"i{n}", count)
        p = Param(n, float32, count, True)
        params.append(p)
        stores.append(store(p, (i,), i, Load(p, i, None) * 0.5))
    found = plan(Kernel("update", tuple(params), tuple(stores)))
    assert shape(found) == [["Nest[30]", "Nest[7]"]]


def test_bound_ranges_of_the_same_name_are_left_alone() -> None:
    k = Range("k", 9)
    x = Param(0, float32, 9, False)
    total = Reduce("add", (k,), Load(x, k, None))
    both = total + Load(x, k, None)
    renamed = rename(both, {k: const(0, int64)})
    assert renamed is total + Load(x, const(0, int64), None)


def test_a_scatter_that_cannot_collide_is_a_plain_store() -> None:
    i = Range("i", 50)
    x, y = Param(0, float32, 50, False), Param(1, float32, 100, True)
    hit = Store(y, (i,), i * 2, Load(x, i, None), None, "add")
    once = plan(Kernel("slice", (x, y), (hit,))).stages[0][0]
    assert isinstance(once, Nest)
    assert once.stores[0].combine is None
    collide = Store(y, (i,), i // 2, Load(x, i, None), None, "add")
    twice = plan(Kernel("pairs", (x, y), (collide,))).stages[0][0]
    assert isinstance(twice, Nest)
    assert twice.stores[0].combine == "add"
    assert math.prod(r.extent for r in twice.ranges) == 50


def taps(n: Range, c: Range, k: Range, store_ranges: tuple[Range, ...]) -> Kernel:
    """Sums over three rows below each row, times weights of their own."""
    size = (n.extent + 2) * c.extent
    x, w = Param(0, float32, size, False), Param(1, float32, 3 * c.extent, False)
    y = Param(2, float32, n.extent * c.extent, True)
    body = Load(x, (n + k) * c.extent + c, None) * Load(w, k * c.extent + c, None)
    value = Reduce("add", (k,), body)
    return Kernel("taps", (x, w, y), (store(y, store_ranges, n * c.extent + c, value),))


def test_short_windows_are_written_out() -> None:
    n, c, k = Range("n", 20), Range("c", 32), Range("k", 3)
    (nests,) = plan(taps(n, c, k, (n, c))).stages
    (nest,) = nests
    assert isinstance(nest, Nest)
    (phase,) = nest.phases
    assert not phase.reductions
    assert not [x for x in walk([s.value for s in phase.stores]) if isinstance(x, Reduce)]
    fused = [x for x in walk([s.value for s in phase.stores]) if getattr(x, "name", "") == "fma"]
    assert len(fused) == 2


def test_windows_along_lanes_and_long_ones_stay_loops() -> None:
    n, c = Range("n", 20), Range("c", 32)
    long = plan(taps(n, c, Range("k", 3), (c, n)))  # lanes would run over rows
    assert long.stages[0][0].phases[0].reductions  # type: ignore[union-attr]
    x, y = Param(0, float32, 20 * 32 * 40, False), Param(1, float32, 20 * 32, True)
    k = Range("k", 40)
    value = Reduce("add", (k,), Load(x, (k * 20 + n) * 32 + c, None))
    (nest,) = plan(Kernel("sums", (x, y), (store(y, (n, c), n * 32 + c, value),))).stages[0]
    assert nest.phases[0].reductions  # type: ignore[union-attr]
