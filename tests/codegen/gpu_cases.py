"""Kernels on which generated GPU code is compared with the interpreter, and their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

import niello as nl
from niello.core import dtypes as d
from niello.core.dtypes import DType, int32, int64
from niello.core.errors import NielloError
from niello.graph.opdef import Spec, Trait, registry
from niello.kernel import ir
from niello.kernel.interpret import interpret
from niello.kernel.ir import (
    REDUCE_OPS,
    SCALAR_FUNCTIONS,
    ArgReduce,
    Expr,
    Kernel,
    Load,
    Param,
    Range,
    Reduce,
    Store,
    cast,
    fn,
)

POINTS = 13  # odd, so that vectors leave a tail
Case = tuple[str, Kernel]
_TOLERANCE = {"float16": 4e-3, "bfloat16": 3e-2, "float32": 2e-5, "float64": 1e-11}


def _kernels(name: str, graph: nl.Graph, feeds: Sequence[nl.Tensor], targets: object) -> list[Case]:
    exe = graph.compile({p: p.type for p in feeds}, targets, device="numpy")
    return [(f"{name}_{n}", k) for n, k in enumerate(exe.program.kernels)]


def _case(
    name: str, build: object, *shapes: tuple[int, ...], dtype: DType = d.float32
) -> list[Case]:
    graph = nl.Graph()
    feeds = [graph.placeholder(s, dtype) for s in shapes]
    made = build(*feeds)  # type: ignore[operator]
    return _kernels(name, graph, feeds, list(made) if isinstance(made, (tuple, list)) else [made])


@cache
def samples(step: int) -> list[Case]:
    """Kernels of every `step`-th sample of the registered ops."""
    found: list[Case] = []
    count = 0
    for name, op in registry().items():
        if Trait.STRUCTURAL in op.traits:
            continue
        for number, sample in enumerate(op.samples()):
            for dtype in sample.dtypes or op.dtypes:
                count += 1
                if count % step:
                    continue
                shapes = [x.shape for x in sample.inputs]
                kinds = [_dtype(x, dtype) for x in sample.inputs]
                graph = nl.Graph()
                try:
                    feeds = [graph.placeholder(s, t) for s, t in zip(shapes, kinds, strict=True)]
                    outputs = list(graph.add(op(**sample.attributes), feeds).outputs)
                    found += _kernels(f"{name}{number}_{dtype.name}", graph, feeds, outputs)
                except NielloError:
                    continue  # inputs have dtypes of their own, or must be constants
    return found


def _dtype(given: object, dtype: DType) -> DType:
    if not isinstance(given, Spec):
        kind = np.asarray(given).dtype
        return dtype if kind == np.float64 and dtype.is_float else d.dtype(kind)
    return {"bool": d.bool_, "index": int32, "float": d.float32}.get(given.kind, dtype)


@cache
def shapes() -> list[Case]:
    """Row, column and full reductions, splits, contractions and point-wise kernels of some size."""
    found: list[Case] = []
    for rows, row in ((64, 1000), (3, 4096), (500, 37), (1, 70000), (2000, 8), (33, 256)):
        tag, shape = f"{rows}x{row}", (rows, row)
        found += _case(f"softmax{tag}", lambda x: nl.softmax(x, axis=-1), shape)
        found += _case(
            f"softmax_half{tag}", lambda x: nl.softmax(x, axis=0), shape, dtype=d.float16
        )
        found += _case(f"columns{tag}", lambda x: nl.sum(x, axes=[0]), shape)
        found += _case(f"all{tag}", lambda x: nl.variance(x, axes=[0, 1]), shape)
        found += _case(f"argmax{tag}", lambda x: nl.argmax(x, axis=1), shape)
        found += _case(f"argmax_columns{tag}", lambda x: nl.argmax(x, axis=0), shape)
        found += _case(
            f"layer_norm{tag}",
            lambda x, g, b: nl.layer_norm(x, g, b, axes=[1]),
            shape,
            (row,),
            (row,),
        )
    found += _case("argmax_long", lambda x: nl.argmax(x, axis=0), (300000,))
    found += _case("gelu", lambda x, y: nl.gelu(x) * y + 1, (333, 77), (77,), dtype=d.float16)
    found += _case("bytes", lambda x, y: x + y, (333, 77), (333, 77), dtype=d.uint8)
    found += _case("less", lambda x, y: x < y, (333, 77), (77,))
    found += _case("transpose", lambda x: nl.transpose(x, (1, 0)), (33, 64), dtype=d.bfloat16)
    found += _case(
        "turned_add",
        lambda x, y: nl.relu(nl.transpose(x, (0, 2, 1)) + y),
        (3, 70, 33), (3, 33, 70),
    )  # fmt: skip
    return found + contractions()


@cache
def contractions() -> list[Case]:
    """Products and convolutions, with operands and epilogues that are more than loads."""
    found: list[Case] = []
    for m, n, k in ((64, 64, 64), (100, 70, 33), (37, 129, 200), (256, 256, 1024), (16, 10, 4000)):
        tag = f"{m}x{n}x{k}"
        found += _case(f"matmul{tag}", nl.matmul, (m, k), (k, n), dtype=d.bfloat16)
        found += _case(f"matmul_int{tag}", nl.matmul, (m, k), (k, n), dtype=int32)
        found += _case(
            f"turned{tag}",
            lambda x, y, z: nl.relu(
                nl.matmul(nl.transpose(x, (1, 0)), nl.transpose(y, (1, 0))) + z
            ),
            (k, m), (n, k), (n,),
        )  # fmt: skip
        found += _case(
            f"batch{tag}",
            lambda x, y, z: nl.matmul(nl.exp(x), y) + z,
            (3, m, k), (3, k, n), (3, m, n),
        )  # fmt: skip
        found += _case(
            f"turned_half{tag}",
            lambda x, y: nl.matmul(nl.transpose(x, (1, 0)), nl.transpose(nl.relu(y), (1, 0))),
            (k, m), (n, k), dtype=d.float16,
        )  # fmt: skip
    found += _case(
        "conv_half",
        lambda x, w: nl.conv2d(
            x, w, padding="same", strides=2, data_layout="NHWC", weights_layout="OHWI"
        ),
        (2, 11, 13, 24), (40, 3, 3, 24), dtype=d.bfloat16,
    )  # fmt: skip
    found += _case(
        "conv_nhwc",
        lambda x, w: nl.relu(
            nl.conv2d(x, w, padding="same", data_layout="NHWC", weights_layout="HWIO")
        ),
        (4, 14, 14, 16), (3, 3, 16, 32),
    )  # fmt: skip
    found += _case(
        "conv_nchw",
        lambda x, w: nl.conv2d(x, w, padding="same", strides=(2, 2)),
        (4, 16, 15, 15), (32, 16, 3, 3),
    )  # fmt: skip
    return found


def _pointwise(name: str, value: object, kinds: Sequence[DType], result: DType) -> Case:
    """A kernel that stores `value` of the elements of its inputs."""
    r = Range("i", POINTS)
    params = [Param(n, t, POINTS, False) for n, t in enumerate(kinds)]
    out = Param(len(kinds), result, POINTS, True)
    expr = value(*(Load(p, r, None) for p in params))  # type: ignore[operator]
    return name, Kernel(name, (*params, out), (Store(out, (r,), r, expr, None, None),))


def _scaled(x: Expr) -> Expr:
    """scalb by whole numbers: it is defined for no others."""
    inside = fn("where", fn("lt", fn("abs", x), 9.0), x, 1.0)
    return fn("scalb", inside, fn("rint", inside * 9.0))


@cache
def functions() -> list[Case]:
    """Every scalar function of every dtype, every cast and bitcast."""
    found: list[Case] = []
    full = [t for t in d.ALL if not t.is_half]
    for t in full:
        for name, spec in SCALAR_FUNCTIONS.items():
            if t.kind not in spec.kinds or (name == "mulhi" and t is not d.uint32):
                continue
            if name == "scalb":
                found.append(_pointwise(f"{name}_{t.name}", _scaled, [t], t))
                continue
            kinds = [d.bool_, t, t] if name == "where" else [t] * spec.arity
            result = d.bool_ if spec.result == "bool" else t
            found.append(
                _pointwise(f"{name}_{t.name}", lambda *a, f=name: fn(f, *a), kinds, result)
            )
            if name in ("shl", "shr", "floordiv", "floormod") and t.is_integer:
                for c in (0, 1, 3, 7, 31, 64, -3):
                    if c >= t.min:
                        found.append(_pointwise(
                            f"{name}_{t.name}_by{c}".replace("-", "minus"),
                            lambda a, f=name, c=c, t=t: fn(f, a, ir.const(c, t)), [t], t,
                        ))  # fmt: skip
    for s in d.ALL:
        for t in d.ALL:
            if s is not t:
                name = f"cast_{s.name}_{t.name}"
                found.append(_pointwise(name, lambda a, t=t: cast(a, t), [s], t))
            if s is not t and s.bits == t.bits and d.bool_ not in (s, t):
                name = f"bits_{s.name}_{t.name}"
                found.append(_pointwise(name, lambda a, t=t: ir.bitcast(a, t), [s], t))
    return found


@cache
def reductions() -> list[Case]:
    """Every reduction of every dtype, along rows and columns, short and long."""
    found: list[Case] = []
    r = Range("i", POINTS)
    for points in (7, 1000):
        q = Range("q", points)
        for t in (t for t in d.ALL if not t.is_half):
            source = Param(0, t, points * POINTS, False)
            for along, index in (("row", r * points + q), ("column", q * POINTS + r)):
                body = Load(source, index, None)
                for op in REDUCE_OPS:
                    if (t.is_float and op in ("and", "or", "xor")) or (
                        t is d.bool_ and op in ("add", "mul")
                    ):
                        continue
                    tag = f"{op}_{along}_{t.name}_{points}"
                    found.append(_reduction(tag, source, Reduce(op, (q,), body), r))
                    if op in ("min", "max"):
                        found.append(_reduction(f"arg{tag}", source, ArgReduce(op, (q,), body), r))
    return found


def _reduction(name: str, source: Param, value: Expr, r: Range) -> Case:
    out = Param(1, value.dtype, POINTS, True)
    return name, Kernel(name, (source, out), (Store(out, (r,), r, value, None, None),))


@cache
def stores() -> list[Case]:
    """Scatters, scattered and gated stores, stores in place, and unrelated stores in one kernel."""
    found: list[Case] = []
    t, e = Range("t", 50), Range("e", 6)
    for dtype in (d.float32, int32, int64, d.uint8, d.float16):
        index = Param(0, int32, 50, False)
        values = Param(1, dtype, 300, False)
        table = Param(2, dtype, 60, True)
        row = fn("floormod", cast(Load(index, t, None), int64), ir.const(10, int64))
        gate = fn("lt", Load(index, t, None), ir.const(3, int32))
        for op in ("add", "min"):
            for tag, g in (("", None), ("_gated", gate)):
                store = Store(table, (t, e), row * 6 + e, Load(values, t * 6 + e, None), g, op)
                name = f"scatter_{op}_{dtype.name}{tag}"
                found.append((name, Kernel(name, (index, values, table), (store,))))
        flat = Param(1, dtype, 50, False)
        small = Param(2, dtype, 10, True)
        store = Store(small, (t,), row, Load(flat, t, None), None, "add")
        found.append((f"points_{dtype.name}", Kernel("points", (index, flat, small), (store,))))
    for dtype in (d.uint8, d.float16, d.bool_):
        a, b = Range("a", 21), Range("b", 11)
        source, out = Param(0, dtype, 231, False), Param(1, dtype, 231, True)
        here = Load(source, a * 11 + b, None)
        turned = Store(out, (a, b), b * 21 + a, here, None, None)
        gated = Store(out, (a, b), a * 11 + b, here, fn("lt", a, b + 5), None)
        found.append((f"turned_{dtype.name}", Kernel("turned", (source, out), (turned,))))
        found.append((f"gated_{dtype.name}", Kernel("gated", (source, out), (gated,))))
    whole = Range("w", 1001)
    place = Param(0, d.float32, 1001, True)
    twice = Store(place, (whole,), whole, Load(place, whole, None) * 2.0, None, None)
    found.append(("in_place", Kernel("in place", (place,), (twice,))))
    found.append(("together", together()))
    return found


def together() -> Kernel:
    """A kernel of unrelated stores: point-wise ones of several sizes, and a sum."""
    params: list[Param] = []
    made: list[Store] = []
    for n, (size, dtype) in enumerate(
        ((100, d.float32), (513, d.float16), (33, d.uint8), (1, int64))
    ):
        source, out = Param(2 * n, dtype, size, False), Param(2 * n + 1, dtype, size, True)
        params += [source, out]
        r = Range(f"s{n}", size)
        x = cast(Load(source, r, None), d.compute_dtype(dtype))
        made.append(Store(out, (r,), r, cast(x + x, dtype), None, None))
    q = Range("q", 300)
    source, out = Param(8, d.float32, 300, False), Param(9, d.float32, 1, True)
    params += [source, out]
    made.append(
        Store(out, (), ir.const(0, int64), Reduce("add", (q,), Load(source, q, None)), None, None)
    )
    return Kernel("together", tuple(params), tuple(made))


# --- inputs and comparison


def inputs(kernel: Kernel, rng: np.random.Generator, *, extreme: bool = False) -> list[np.ndarray]:
    """An array for each parameter; `extreme` begins them with limits, infinities and NaN."""
    found = []
    for p in kernel.params:
        if p.dtype is d.bool_:
            array = rng.integers(0, 2, p.elements).astype(bool)
        elif p.dtype.is_float:
            array = rng.uniform(-3, 3, p.elements).astype(p.dtype.numpy)
        else:
            low = 0 if p.dtype.kind == "uint" else -4
            array = rng.integers(low, 6, p.elements).astype(p.dtype.numpy)
        if extreme and p.elements >= POINTS and p.dtype is not d.bool_:
            with np.errstate(all="ignore"):
                array[:POINTS] = rng.permutation(_extremes(p.dtype)).astype(p.dtype.numpy)
        found.append(array)
    return found


def _extremes(dtype: DType) -> np.ndarray:
    if dtype.is_float:
        return np.array(
            [np.nan, np.inf, -np.inf, 0.0, -0.0, 3e9, -3e9, 1e19, -1e19, 0.5, 1.5, 2.5, -2.5]
        )
    low, high = int(dtype.min), int(dtype.max)
    rest = [-1, -2, -3, -7] if low < 0 else [high // 2, high // 3, 31, 63]
    return np.array([low, high, 0, 1, low + 1, high - 1, 7, 3, 2, *rest], dtype=object)


def expected(kernel: Kernel, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """What the interpreter makes of the inputs."""
    result = [a.copy() for a in arrays]
    interpret(kernel, result)
    return result


def differences(
    kernel: Kernel, got: Sequence[np.ndarray], want: Sequence[np.ndarray]
) -> Iterator[str]:
    """What is wrong with results, one line for each parameter."""
    for p, a, b in zip(kernel.params, got, want, strict=True):
        if not p.written:
            continue
        if p.dtype.is_float:
            x, y = a.astype(np.float64), b.astype(np.float64)
            tolerance = _TOLERANCE[p.dtype.name]
            size = np.max(np.abs(y[np.isfinite(y)]), initial=1.0)
            size = size if size < 1e6 else 1.0  # extremes: relative only
            wrong = ~np.isclose(x, y, rtol=tolerance, atol=tolerance * size, equal_nan=True)
        else:
            wrong = a != b
        if wrong.any():
            n = int(np.argwhere(wrong)[0][0])
            yield f"b{p.slot}[{n}]: {a[n]}, not {b[n]} ({int(wrong.sum())} of {a.size} are wrong)"
