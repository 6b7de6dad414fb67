"""Mixed precision: the autocast pass, loss scaling, accumulation and measuring."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello import precision
from niello.core.errors import AttributeValueError, DTypeError, GraphError
from niello.graph.evaluate import evaluate
from niello.graph.opdef import Trait, registry
from niello.passes.autocast import Autocast
from niello.passes.computation import Computation

HALVES = (nl.bfloat16, nl.float16)
RNG = np.random.default_rng(7)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def cast(policy: Autocast, *targets: nl.Tensor, inputs: tuple[nl.Tensor, ...] = ()) -> Computation:
    return policy(Computation(targets[0].graph, inputs, targets))


def types_of(computation: Computation, op: str) -> list[str]:
    """Element types of the results of every operation of this kind."""
    found = [o for o in computation.reachable() if o.op.name == op]
    return [o.outputs[0].dtype.name for o in found]


def casts(computation: Computation) -> int:
    return len(types_of(computation, "cast"))


# --- which operations
@pytest.mark.parametrize("half", HALVES, ids=lambda d: d.name)
def test_contractions_run_in_half_and_the_rest_in_float32(half):
    graph = nl.Graph()
    x, w = graph.placeholder((4, 8), name="x"), graph.variable(normal(8, 3), name="w")
    y = nl.softmax(nl.exp(nl.matmul(x, w)) + 1.0, axis=-1)
    found = cast(Autocast(half), y, nl.sum(x), inputs=(x,))
    assert types_of(found, "matmul") == [half.name]
    for op in ("exp", "add", "softmax", "reduce_sum"):
        assert types_of(found, op) == ["float32"], op
    assert [t.dtype for t in (*found.targets, *found.inputs)] == [nl.float32] * 3
    assert types_of(found, "variable") == ["float32"] and casts(found) == 3


def test_gradients_of_contractions_run_in_half_too():
    graph = nl.Graph()
    x = graph.placeholder((2, 6, 6, 3), name="x")
    w = graph.variable(normal(3, 3, 3, 4), name="w")
    y = nl.conv2d(x, w, padding="same", data_layout="NHWC", weights_layout="HWIO").relu()
    grads = graph.gradients(nl.square(y).sum(), [x, w])
    found = cast(Autocast(nl.bfloat16), *grads.values(), inputs=(x,))
    contractions = [o for o in found.reachable() if Trait.CONTRACTION in o.op.traits]
    assert len(contractions) == 3
    assert {t.dtype for o in contractions for t in (*o.inputs, *o.outputs)} == {nl.bfloat16}
    assert all(t.dtype is nl.float32 for t in found.targets)


def test_what_is_half_already_is_not_cast_back_and_forth():
    graph = nl.Graph()
    a, b = graph.placeholder((4, 4), name="a"), graph.placeholder((4, 4), name="b")
    y = nl.matmul(nl.matmul(a, b), nl.transpose(nl.matmul(a, a)))
    found = cast(Autocast(nl.float16), y, inputs=(a, b))
    assert types_of(found, "matmul") == ["float16"] * 3
    assert types_of(found, "transpose") == ["float16"], "a movement follows its input"
    alive = found.reachable()
    assert sum(o.op.name == "cast" for o in alive) == 3, "a, b and the result: each once"


def test_a_movement_with_a_value_that_half_cannot_hold_stays():
    graph = nl.Graph()
    a = graph.placeholder((4, 4), name="a")
    for value, kind in ((0.5, "float16"), (1e9, "float32"), (0.1, "float32")):
        y = nl.pad(nl.matmul(a, a), ((1, 1), (0, 0)), value=value)
        found = cast(Autocast(nl.float16), y, inputs=(a,))
        assert types_of(found, "pad") == [kind], value
        x = np.eye(4, dtype=np.float32)
        (padded,) = evaluate(found.targets, {found.inputs[0]: x})
        assert padded[0, 0] == np.float32(value)


def test_other_dtypes_are_left_alone():
    graph = nl.Graph()
    a, n = graph.placeholder((4, 4), nl.float64), graph.placeholder((4, 4), nl.int32)
    found = cast(Autocast(nl.float16), nl.matmul(a, a), nl.matmul(n, n), inputs=(a, n))
    assert types_of(found, "matmul") == ["float64", "int32"] and casts(found) == 0


# --- policies
def test_choices_by_op_and_by_operation():
    graph = nl.Graph()
    a = graph.placeholder((4, 4), name="a")
    first = nl.matmul(a, a, name="first")
    y = nl.matmul(nl.exp(first), a, name="second")
    assert types_of(cast(Autocast("float16", ops={"matmul": "keep"}), y), "matmul") == [
        "float32",
        "float32",
    ]
    some = Autocast("float16", ops={"matmul": "keep", "exp": "half"}, operations={"first": "half"})
    found = cast(some, y)
    assert types_of(found, "matmul") == ["float16", "float32"]
    assert types_of(found, "exp") == ["float16"]
    assert some == Autocast(nl.float16, (("exp", "half"), ("matmul", "keep")), {"first": "half"})
    assert hash(some) != hash(Autocast(nl.float16))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Autocast(nl.float32), DTypeError, "must be a half type; received float32"),
        (lambda: Autocast("float8"), DTypeError, "no such element type"),
        (lambda: Autocast("float16", ops={"matmull": "keep"}), AttributeValueError, "'matmull'"),
        (lambda: Autocast("float16", ops={"matmul": "low"}), AttributeValueError, "'low'"),
    ],
)
def test_policies_that_make_no_sense(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_an_operation_that_the_graph_does_not_have():
    graph = nl.Graph()
    y = nl.matmul(graph.variable(normal(2, 2)), np.eye(2, dtype=np.float32))
    graph.autocast = Autocast("float16", operations={"gone": "keep"})
    with pytest.raises(GraphError, match="'gone'"):
        graph.run(targets=[y])


def test_an_op_that_takes_no_half(monkeypatch):
    monkeypatch.setattr(registry()["exp"], "dtypes", (nl.float32,))
    graph = nl.Graph()
    y = nl.exp(graph.placeholder((2,), name="x"), name="growth")
    with pytest.raises(DTypeError) as error:
        cast(Autocast("float16", ops={"exp": "half"}), y)
    assert "autocast of growth: exp does not take float16" in str(error.value)
    assert 'Say "keep" for it' in error.value.advice


def test_results_of_other_dtypes_stay_what_they_are():
    graph = nl.Graph()
    x = graph.placeholder((2,), name="x")
    policy = Autocast("bfloat16", ops={"cast": "half", "less": "half", "argmax": "half"})
    found = cast(policy, nl.cast(x, nl.int32), x < 1.0, nl.argmax(x, axis=0), inputs=(x,))
    assert [t.dtype for t in found.targets] == [nl.int32, nl.bool_, nl.int32]
    assert all(o.inputs[0].dtype is nl.bfloat16 for o in found.reachable() if o.op.name == "less")


# --- running
@pytest.mark.parametrize("half", HALVES, ids=lambda d: d.name)
@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("optimise", ["0", "1"])
def test_results_are_those_of_rounded_operands(half, device, optimise, monkeypatch):
    monkeypatch.setenv("NIELLO_VERIFY", "2")
    monkeypatch.setenv("NIELLO_OPTIMISE", optimise)
    graph = nl.Graph()
    x, w = graph.placeholder((None, 40), name="x"), graph.variable(normal(40, 12), name="w")
    y = nl.matmul(x, w) * 3.0
    value = normal(9, 40)
    exact = graph.run({x: value}, [y], device=device)[y].numpy()
    graph.autocast = half
    mixed = graph.run({x: value}, [y], device=device)[y].numpy()
    kind = half.numpy
    rounded = value.astype(kind).astype(np.float64) @ w.value.astype(kind).astype(np.float64)
    size = np.abs(exact).max()
    # The result itself may be rounded to half, where it is stored.
    step = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[half.name]
    assert np.abs(mixed - rounded * 3).max() <= 1.01 * step * size
    assert 0 < np.abs(mixed - exact).max() <= 4 * step * size


def test_run_compiles_once_for_each_policy():
    graph = nl.Graph()
    x = graph.placeholder((2, 2), name="x")
    y, feed = nl.matmul(x, x), {x: np.eye(2, dtype=np.float32)}
    assert graph.autocast is None
    for policy in (None, "float16", nl.float16, Autocast("bfloat16"), None):
        graph.autocast = policy
        assert np.asarray(graph.run(feed, [y], device="cpu")[y]).dtype == np.float32
    assert (graph.cache_info().misses, graph.cache_info().hits) == (3, 2)


def test_compile_takes_the_graphs_policy_or_the_options():
    graph = nl.Graph()
    x = graph.placeholder((2, 2), name="x")
    graph.autocast = "bfloat16"
    own = graph.compile({x: (2, 2)}, [nl.matmul(x, x)], device="cpu")
    none = graph.compile({x: (2, 2)}, [nl.matmul(x, x)], device="cpu", options=nl.CompileOptions())
    asked = graph.compile(
        {x: (2, 2)}, [nl.matmul(x, x)], device="cpu",
        options=nl.CompileOptions(autocast=nl.float16),
    )  # fmt: skip
    kinds = [e.as_text("graph").count(f"dtype: {d}") for e, d in
             ((own, "bfloat16"), (none, "bfloat16"), (asked, "float16"))]  # fmt: skip
    assert kinds == [1, 0, 1]


def test_a_contraction_reads_half_operands_from_memory():
    """The casts of its inputs are kernels (or ends of kernels), never part of the contraction."""
    graph = nl.Graph()
    x, w = graph.placeholder((64, 64), name="x"), graph.variable(normal(64, 64), name="w")
    graph.autocast = "bfloat16"
    y = nl.matmul(nl.relu(nl.matmul(x, w, name="first")), w)
    executable = graph.compile({x: (64, 64)}, [y], device="cpu")
    text = executable.as_text("schedule")
    assert executable.kernel_count == 4, text
    stitched = {"first", "relu"}
    assert any(stitched <= set(line.split()) for line in text.splitlines()), text


def test_a_cast_rounds_wherever_it_is_stitched():
    graph = nl.Graph()
    x = graph.placeholder((50,), name="x")
    for half in HALVES:
        value = normal(50)
        y = nl.cast(nl.cast(x, half), nl.float32) - 1.0
        for device in ("cpu", "numpy"):
            found = graph.run({x: value}, [y], device=device)[y].numpy()
            assert (found == value.astype(half.numpy).astype(np.float32) - 1).all()


# --- training
def network(graph: nl.Graph):
    rng = np.random.default_rng(3)
    x = graph.placeholder((None, 16), name="x")
    label = graph.placeholder((None, 4), name="label")
    shapes = {"a": (16, 32), "b": (32, 4)}
    w = {
        n: graph.variable((rng.standard_normal(s) / np.sqrt(s[0])).astype(np.float32), name=n)
        for n, s in shapes.items()
    }
    logits = nl.matmul(nl.relu(nl.matmul(x, w["a"])), w["b"])
    loss = nl.softmax_cross_entropy(logits, label, axis=-1, reduction="mean")
    return x, label, list(w.values()), loss


def batches(count: int):
    rng = np.random.default_rng(4)
    centres = rng.standard_normal((4, 16)).astype(np.float32) * 2
    for _ in range(count):
        chosen = rng.integers(0, 4, 32)
        noise = rng.standard_normal((32, 16)).astype(np.float32)
        yield centres[chosen] + noise, np.eye(4, dtype=np.float32)[chosen]


@pytest.mark.parametrize("half", HALVES, ids=lambda d: d.name)
def test_training_in_mixed_precision_follows_float32(half):
    losses = {}
    for policy in (None, half):
        graph = nl.Graph()
        x, label, weights, loss = network(graph)
        graph.autocast = policy
        scaler = precision.LossScaler(graph, initial=1024.0, growth_interval=20)
        grads, finite = scaler.unscale(graph.gradients(scaler.scale(loss), weights))
        steps = [scaler.assign(w, nl.sgd(0.05, w, g), finite) for w, g in grads.items()]
        steps += scaler.update(finite)
        losses[policy] = [
            float(graph.run({x: a, label: b}, [loss], steps, device="cpu")[loss])
            for a, b in batches(60)
        ]
        assert all(w.value.dtype == np.float32 for w in weights)
        assert scaler.factor.value == 1024.0 * 2**3
    exact, mixed = losses[None], losses[half]
    assert mixed[-1] < exact[0] / 10
    assert np.allclose(exact, mixed, rtol=0.05, atol=0.01) and exact != mixed


def test_scaling_saves_gradients_that_float16_flushes_to_zero():
    graph = nl.Graph()
    x = graph.placeholder((4, 8), name="x")
    w = graph.variable(normal(8, 2), name="w")
    loss = nl.matmul(x, w).sum() * 1e-9
    graph.autocast = "float16"
    scaler = precision.LossScaler(graph)
    plain = graph.gradients(loss, [w])[w]
    (scaled,), finite = scaler.unscale([graph.gradients(scaler.scale(loss), [w])[w]])
    value = np.abs(normal(4, 8)) + 1
    found = graph.run({x: value}, [plain, scaled, finite], device="cpu")
    assert not found[plain].numpy().any() and bool(found[finite])
    wanted = np.repeat(value.sum(0)[:, None], 2, 1) * 1e-9
    assert np.allclose(found[scaled], wanted, rtol=2e-3, atol=0)


def test_a_step_that_overflows_is_skipped():
    graph = nl.Graph()
    g = graph.placeholder((3,), name="g")
    w = graph.variable(np.ones(3, np.float32), name="w")
    scaler = precision.LossScaler(graph, 16.0, growth_interval=2, growth=4.0, backoff=0.25)
    (unscaled,), finite = scaler.unscale([g])
    steps = [scaler.assign(w, w - unscaled, finite), *scaler.update(finite)]

    def step(*values: float) -> tuple[bool, float, int]:
        feed = {g: np.array(values, np.float32)}
        done = graph.run(feed, [finite], steps, device="cpu")[finite]
        return bool(done), float(scaler.factor.value), int(scaler.good_steps.value)

    assert step(16, 16, 16) == (True, 16.0, 1) and (w.value == 0).all()
    for bad in (np.inf, -np.inf, np.nan):
        before = float(scaler.factor.value)
        assert step(1, bad, 1) == (False, before / 4, 0) and (w.value == 0).all()
    assert step(0, 0, 0) == (True, 0.25, 1)
    assert step(0.25, 0, 0) == (True, 1.0, 0), "the second good step in a row"
    assert w.value.tolist() == [-1, 0, 0]


def test_the_scale_stays_within_bounds():
    graph = nl.Graph()
    g = graph.placeholder((1,), name="g")
    scaler = precision.LossScaler(graph, 2.0**100, growth_interval=1)
    _, finite = scaler.unscale({"g": g})
    for value, wanted in ((1.0, 2.0**100), (np.nan, 2.0**99)):
        graph.run({g: [value]}, [], scaler.update(finite), device="cpu")
        assert scaler.factor.value == wanted
    scaler.factor.value = np.float32(2.0**-24)
    graph.run({g: [np.nan]}, [], scaler.update(finite), device="cpu")
    assert scaler.factor.value == 2.0**-24


@pytest.mark.parametrize(
    "options",
    [{"initial": 0.0}, {"growth_interval": 0}, {"growth": 0.5}, {"backoff": 1.0}],
    ids=lambda o: next(iter(o)),
)
def test_scaler_options(options):
    with pytest.raises(AttributeValueError, match=next(iter(options))):
        precision.LossScaler(nl.Graph(), **options)


def test_scaler_refuses_a_half_loss_and_no_gradients():
    graph = nl.Graph()
    scaler = precision.LossScaler(graph)
    with pytest.raises(DTypeError, match="must be float32"):
        scaler.scale(graph.placeholder((), nl.float16))
    with pytest.raises(AttributeValueError, match="at least one"):
        scaler.unscale({})


# --- accumulation
def test_a_wider_accumulator_is_more_exact():
    graph = nl.Graph()
    a, b = graph.placeholder((32, 4096)), graph.placeholder((4096, 1))
    narrow, wide = nl.matmul(a, b), nl.matmul(a, b, accumulate=nl.float64)
    left, right = normal(32, 4096), normal(4096, 1)
    exact = (left.astype(np.float64) @ right.astype(np.float64)).astype(np.float32)
    for device in ("cpu", "numpy"):
        found = graph.run({a: left, b: right}, [narrow, wide], device=device)
        assert (found[wide].numpy() == exact).all() and (found[narrow].numpy() != exact).any()


def test_gradients_accumulate_alike_and_the_text_says_so():
    graph = nl.Graph()
    a, b = graph.placeholder((2, 3)), graph.placeholder((3, 4))
    x, w = graph.placeholder((1, 1, 5, 5)), graph.placeholder((2, 1, 3, 3))
    y = nl.matmul(a, b, accumulate="float64").sum() + nl.conv2d(x, w, accumulate="float64").sum()
    graph.gradients(y, [a, b, x, w])
    text = nl.print_graph(graph)
    contractions = [o for o in graph.operations if Trait.CONTRACTION in o.op.traits]
    assert len(contractions) == 6 and text.count("accumulate: float64") == 6
    assert nl.print_graph(nl.parse_graph(text)) == text


@pytest.mark.parametrize(
    ("kind", "accumulate"),
    [(nl.float16, nl.float16), (nl.float64, nl.float32), (nl.int8, nl.int16), (nl.int8, "float32")],
)
def test_accumulators_that_hold_too_little(kind, accumulate):
    graph = nl.Graph()
    a, x = graph.placeholder((4, 4), kind), graph.placeholder((1, 1, 4, 4), kind)
    for make in (
        lambda: nl.matmul(a, a, accumulate=accumulate),
        lambda: nl.conv2d(x, x, accumulate=accumulate),
    ):
        with pytest.raises(DTypeError, match=r"are accumulated in .* or a wider type"):
            make()


# --- measuring
def measured(monkeypatch, times, tolerance=0.01, scale=1.0):
    monkeypatch.setattr(precision, "_best_times", lambda *_: times)
    graph = nl.Graph()
    x = graph.placeholder((8, 16), name="x")
    w = graph.variable(normal(16, 8), name="w")
    y = nl.matmul(nl.relu(nl.matmul(x, w, name="one")), x * scale, name="two")
    feeds = {x: normal(8, 16) * scale}
    found = precision.measure(graph, feeds, [y], "float16", tolerance, device="cpu")
    return graph, feeds, y, found


def test_the_faster_precision_within_tolerance_is_kept(monkeypatch):
    graph, feeds, y, found = measured(monkeypatch, [2.0, 1.0])
    assert [(r.operation, r.op, r.choice) for r in found.rows] == [
        ("one", "matmul", "half"),
        ("two", "matmul", "half"),
    ]
    assert all(0 < r.error < 2e-3 for r in found.rows)
    assert found.policy == Autocast("float16", operations={"one": "half", "two": "half"})
    graph.autocast = found.policy
    assert graph.run(feeds, [y], device="cpu")[y].shape == (8, 16)
    assert len(found.as_text().splitlines()) == 3 and "one (matmul)" in found.as_text()


def test_a_slower_half_is_not_taken(monkeypatch):
    found = measured(monkeypatch, [1.0, 1.0])[-1]
    assert [r.choice for r in found.rows] == ["keep", "keep"]


def test_an_error_beyond_the_tolerance_is_not_taken(monkeypatch):
    assert {r.choice for r in measured(monkeypatch, [2.0, 1.0], tolerance=0.0)[-1].rows} == {"keep"}
    rows = measured(monkeypatch, [2.0, 1.0], tolerance=1.0, scale=1e4)[-1].rows
    assert [r.choice for r in rows] == ["half", "keep"], "the second one overflows float16"
    assert rows[1].error == float("inf")


def test_measuring_a_training_step_leaves_the_variables():
    graph = nl.Graph()
    x, label, weights, loss = network(graph)
    grads = graph.gradients(loss, weights)
    steps = [w.assign(nl.sgd(0.1, w, g)) for w, g in grads.items()]
    before = [w.value for w in weights]
    feed = next(batches(1))
    found = precision.measure(
        graph, dict(zip((x, label), feed, strict=True)), [loss], "bfloat16", 0.05,
        device="cpu", target_operations=steps, repeats=2,
    )  # fmt: skip
    assert len(found.rows) == 5 and all(r.seconds > 0 < r.half_seconds for r in found.rows)
    assert all((a == w.value).all() for a, w in zip(before, weights, strict=True))


def test_measuring_without_contractions_or_sense():
    graph = nl.Graph()
    x = graph.placeholder((2,), name="x")
    found = precision.measure(graph, {x: [1.0, 2.0]}, [x + 1.0], "float16", 0.1)
    assert found.rows == () and found.policy == Autocast("float16")
    for options in ({"tolerance": -1.0}, {"tolerance": float("nan")}, {"repeats": 0}):
        with pytest.raises(AttributeValueError):
            precision.measure(graph, {}, [x], "float16", **{"tolerance": 0.1, **options})
