"""Operations that NVIDIA's libraries run whole, on a GPU. Skipped without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import niello as nl
from niello import backends
from niello.core.errors import BackendUnavailable
from niello.runtime.commands import Dispatch, LibraryCall, walk


@pytest.fixture(scope="module")
def cuda():
    try:
        return backends.device("cuda")
    except BackendUnavailable as error:
        pytest.skip(str(error))


def calls(exe: nl.Executable) -> list[str]:
    return [c.function for c in walk(exe.program.commands) if isinstance(c, LibraryCall)]


@dataclass(frozen=True)
class Case:
    """Shapes of query, key, value and mask, settings, and whether the library takes them."""

    shapes: tuple[tuple[int, ...], ...]
    settings: dict[str, Any] = field(default_factory=dict)
    forward: bool = True
    backward: bool = True


CASES = {
    "plain": Case(((2, 4, 128, 64),) * 3),
    "causal": Case(((2, 4, 200, 64),) * 3, {"causal": True}),
    "rank 3": Case(((6, 128, 64),) * 3, {"causal": True}),
    "rank 5": Case(((2, 3, 4, 64, 32),) * 3, {"causal": True, "scale": 0.3}),
    "width 128": Case(((1, 2, 192, 128),) * 3, {"causal": True}),
    "more keys": Case(((2, 4, 100, 64), (2, 4, 260, 64), (2, 4, 260, 64)), {"causal": True}),
    "more queries": Case(((2, 4, 260, 64), (2, 4, 100, 64), (2, 4, 100, 64)), {"causal": True}),
    "grouped": Case(((2, 8, 128, 64), (2, 2, 128, 64), (2, 2, 128, 64)), {"causal": True}),
    "one key head": Case(((2, 8, 96, 64), (2, 1, 96, 64), (2, 1, 96, 64))),
    "other value width": Case(((2, 4, 128, 64), (2, 4, 128, 64), (2, 4, 128, 128))),
    "window": Case(((2, 4, 256, 64),) * 3, {"causal": True, "window": (30, 0)}),
    "window of both sides": Case(((2, 4, 256, 64),) * 3, {"window": (30, 17)}),
    "one query": Case(((2, 4, 1, 64), (2, 4, 300, 64), (2, 4, 300, 64))),
    "odd sizes": Case(((3, 5, 77, 40), (3, 5, 91, 40), (3, 5, 91, 40))),
    "mask": Case(((2, 4, 128, 64),) * 3 + ((2, 4, 128, 128),)),
    "one mask for all": Case(((2, 4, 128, 64),) * 3 + ((128, 128),)),
    "mask of keys": Case(((2, 4, 128, 64),) * 3 + ((2, 1, 1, 128),), {}, False),
    "width that is refused": Case(((2, 4, 64, 20),) * 3, {}, False, False),
}


def attention(case: Case, dtype: nl.DType) -> tuple[nl.Graph, list[nl.Tensor], nl.Tensor]:
    graph = nl.Graph()
    places = [graph.placeholder(s, dtype) for s in case.shapes]
    y = nl.scaled_dot_product_attention(*places, **case.settings)
    return graph, places, y


def random(shapes: Sequence[tuple[int, ...]], dtype: nl.DType) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal(s).astype(dtype.numpy) for s in shapes]


def error(found: Any, wanted: Any) -> float:
    """The largest difference over the root mean square."""
    one, other = (np.asarray(a).astype(np.float64) for a in (found, wanted))
    assert np.isfinite(one).all()
    return float(np.abs(one - other).max() / max(np.sqrt(np.mean(other**2)), 1e-6))


# Sums are in float32: what is left is the rounding of results and, between the products, of
# probabilities.
LIMITS = {"float16": 5e-3, "bfloat16": 6e-2}


@pytest.mark.parametrize("dtype", [nl.bfloat16, nl.float16], ids=lambda d: d.name)
@pytest.mark.parametrize("name", CASES)
def test_attention(cuda, name, dtype):
    case = CASES[name]
    graph, places, y = attention(case, dtype)
    values = random(case.shapes, dtype)
    exe = graph.compile({t: t.type for t in places}, [y], device="cuda")
    assert (calls(exe) == ["cudnn.attention"]) == case.forward, exe.scheduled.refusals
    exact, there, z = attention(case, nl.float64)
    reference = exact.compile({t: t.type for t in there}, [z], device="numpy")
    (wanted,) = reference.run([v.astype(np.float64) for v in values])
    for _ in range(3):  # queued, recorded, played
        assert error(exe.run(values)[0], wanted) <= LIMITS[dtype.name]


@pytest.mark.parametrize("dtype", [nl.bfloat16, nl.float16], ids=lambda d: d.name)
@pytest.mark.parametrize("name", [n for n in CASES if "mask" not in n])
def test_gradients_of_attention(cuda, name, dtype):
    case = CASES[name]

    def built(kind: nl.DType) -> tuple[nl.Graph, list[nl.Tensor], list[nl.Tensor]]:
        graph, places, y = attention(case, kind)
        g = graph.placeholder(y.type.static_shape, kind)
        by = graph.gradients(nl.sum(y * g), places)
        return graph, [*places, g], [y, *by.values()]

    graph, places, targets = built(dtype)
    values = random([t.type.static_shape for t in places], dtype)
    exe = graph.compile({t: t.type for t in places}, targets, device="cuda")
    assert ("cudnn.attention_gradient" in calls(exe)) == case.backward, exe.scheduled.refusals
    exact, there, aims = built(nl.float64)
    reference = exact.compile({t: t.type for t in there}, aims, device="numpy")
    wanted = reference.run([v.astype(np.float64) for v in values])
    for _ in range(2):
        for f, w in zip(exe.run(values), wanted, strict=True):
            assert error(f, w) <= 3 * LIMITS[dtype.name]


def test_float32_attention_is_generated(cuda):
    case = CASES["causal"]
    graph, places, y = attention(case, nl.float32)
    exe = graph.compile({t: t.type for t in places}, [y], device="cuda")
    assert not any("attention" in name for name in calls(exe))
    values = random(case.shapes, nl.float32)
    exact, there, z = attention(case, nl.float64)
    reference = exact.compile({t: t.type for t in there}, [z], device="numpy")
    (wanted,) = reference.run([v.astype(np.float64) for v in values])
    assert error(exe.run(values)[0], wanted) <= 1e-4


def test_attention_of_mixed_precision(cuda):
    """A training step in float32 whose contractions may run in half."""
    case = CASES["causal"]
    graph, places, y = attention(case, nl.float32)
    by = graph.gradients(nl.sum(y * y), places)
    targets = [y, *by.values()]
    types = {t: t.type for t in places}
    options = nl.CompileOptions(autocast=nl.bfloat16)
    exe = graph.compile(types, targets, device="cuda", options=options)
    assert calls(exe) == ["cudnn.attention", "cudnn.attention_gradient"], exe.scheduled.refusals
    values = random(case.shapes, nl.float32)
    for f, w in zip(
        exe.run(values), graph.compile(types, targets, device="cpu").run(values), strict=True
    ):
        assert f.type.dtype is nl.float32
        assert error(f, w) <= 3 * LIMITS["bfloat16"]


def test_attention_reads_a_projection_in_place(cuda):
    graph = nl.Graph()
    x = graph.placeholder((2, 96, 3, 4, 64), nl.bfloat16)
    parts = [x[:, :, n].transpose((0, 2, 1, 3)) for n in range(3)]
    y = nl.scaled_dot_product_attention(*parts, causal=True)
    exe = graph.compile({x: x.type}, [y], device="cuda")
    assert [type(c) for c in exe.program.commands] == [LibraryCall]
    (value,) = random([x.type.static_shape], nl.bfloat16)
    reference = graph.compile({x: x.type}, [y], device="numpy")
    assert error(exe.run([value])[0], reference.run([value])[0]) <= LIMITS["bfloat16"]


def test_hidden_keys(cuda):
    """A query that sees no key gives zeros, whoever computes it."""
    graph = nl.Graph()
    q, k, v = (graph.placeholder((2, 64, 64), nl.bfloat16) for _ in range(3))
    seen = np.ones((64, 64), np.bool_)
    seen[5] = False
    added = np.where(seen, 0, -np.inf).astype(nl.bfloat16.numpy)
    masks = [graph.placeholder((64, 64), d) for d in (nl.bool_, nl.bfloat16)]
    targets = [nl.scaled_dot_product_attention(q, k, v, m) for m in masks]
    feeds = [q, k, v, *masks]
    values = [*random([(2, 64, 64)] * 3, nl.bfloat16), seen, added]
    exe = graph.compile({t: t.type for t in feeds}, targets, device="cuda")
    for found in exe.run(values):
        array = np.asarray(found).astype(np.float32)
        assert (array[:, 5] == 0).all() and np.isfinite(array).all()


def test_attention_in_a_loop_under_a_predicate(cuda):
    graph = nl.Graph()
    q, k, v = (graph.placeholder((2, 64, 64), nl.bfloat16) for _ in range(3))
    (last,), _ = nl.scan(
        [], [q], lambda i, xs, c: ([nl.scaled_dot_product_attention(c[0], k, v)], []), length=3
    )
    exe = graph.compile({t: t.type for t in (q, k, v)}, [last], device="cuda")
    assert calls(exe) == ["cudnn.attention"]
    values = random([(2, 64, 64)] * 3, nl.bfloat16)
    reference = graph.compile({t: t.type for t in (q, k, v)}, [last], device="numpy")
    (wanted,) = reference.run(values)
    for _ in range(2):
        assert error(exe.run(values)[0], wanted) <= 2 * LIMITS["bfloat16"]


def test_packages_of_calls(cuda, tmp_path):
    case = CASES["grouped"]
    graph, places, y = attention(case, nl.bfloat16)
    exe = graph.compile({t: t.type for t in places}, [y], device="cuda")
    exe.save(tmp_path / "attention.niello")
    loaded = nl.load(tmp_path / "attention.niello", device="cuda")
    assert calls(loaded) == ["cudnn.attention"]
    values = random(case.shapes, nl.bfloat16)
    found, wanted = (np.asarray(e.run(values)[0]) for e in (loaded, exe))
    assert np.array_equal(found, wanted)
    assert not any(isinstance(c, Dispatch) for c in loaded.program.commands)


def test_gradients_of_attention_can_be_repeated_to_the_bit(cuda, monkeypatch):
    monkeypatch.setenv("NIELLO_DETERMINISTIC", "1")
    graph, places, y = attention(Case(((4, 8, 512, 64),) * 3, {"scale": 0.2}), nl.bfloat16)
    by = graph.gradients(nl.sum(y * places[0]), places)
    exe = graph.compile({t: t.type for t in places}, [*by.values()], device="cuda")
    assert "cudnn.attention_gradient" in calls(exe)
    values = random([t.type.static_shape for t in places], nl.bfloat16)
    first = [np.asarray(t) for t in exe.run(values)]
    for _ in range(3):
        for a, b in zip(first, exe.run(values), strict=True):
            assert np.array_equal(a, np.asarray(b))


@pytest.mark.parametrize("shape", [(128, 128), (2, 4, 128, 128), (1, 4, 128, 128), (2, 1, 1, 128)])
def test_gradients_of_masks(cuda, shape):
    """With the gradient of the mask, whoever computes it."""

    def built(kind: nl.DType) -> tuple[nl.Graph, list[nl.Tensor], list[nl.Tensor]]:
        graph = nl.Graph()
        shapes = [*[(2, 4, 128, 64)] * 3, shape, (2, 4, 128, 64)]
        places = [graph.placeholder(s, kind) for s in shapes]
        y = nl.scaled_dot_product_attention(*places[:4])
        return graph, places, [*graph.gradients(nl.sum(y * places[4]), places[:4]).values()]

    graph, places, targets = built(nl.bfloat16)
    values = random([t.type.static_shape for t in places], nl.bfloat16)
    exe = graph.compile({t: t.type for t in places}, targets, device="cuda")
    exact, there, aims = built(nl.float64)
    reference = exact.compile({t: t.type for t in there}, aims, device="numpy")
    wanted = reference.run([v.astype(np.float64) for v in values])
    for f, w in zip(exe.run(values), wanted, strict=True):
        assert error(f, w) <= 3 * LIMITS["bfloat16"]


# --- Fourier transforms

TRANSFORMS = {
    "rows": ((64, 1024), lambda x: nl.fft(x), ["fourier"]),
    "inverse rows": ((64, 1024), lambda x: nl.ifft(x), ["fourier"]),
    "columns": ((1024, 64), lambda x: nl.fft(x, axes=0), ["fourier"]),
    "columns of each": ((8, 128, 256), lambda x: nl.ifft(x, axes=1, norm="ortho"), ["fourier"]),
    "two axes": ((5, 64, 96), lambda x: nl.fft(x, axes=(1, 2)), ["fourier"]),
    "first two axes": ((64, 96, 5), lambda x: nl.ifft(x, axes=(0, 1)), ["fourier"]),
    "three axes": ((3, 16, 18, 20), lambda x: nl.fft(x, axes=(1, 2, 3)), ["fourier"]),
    "axes apart": ((64, 3, 64), lambda x: nl.fft(x, axes=(0, 2)), ["fourier", "fourier"]),
    "prime": ((7, 1021), lambda x: nl.fft(x), ["fourier"]),
    "one": ((1, 100003), lambda x: nl.fft(x), ["fourier"]),
    "many small": ((30000, 6, 5), lambda x: nl.fft(x, axes=1), []),
    "there and back": ((40, 60), lambda x: nl.ifft(nl.fft(x) * 3.0), ["fourier", "fourier"]),
    "real": ((50, 1000), lambda x: nl.rfft(nl.real(x)), ["real"]),
    "real, odd": ((50, 1001), lambda x: nl.rfft(nl.real(x), norm="ortho"), ["real"]),
    "real columns": ((1000, 50), lambda x: nl.rfft(nl.real(x), axes=0), ["real"]),
    "real, two axes": (
        (9, 64, 48),
        lambda x: nl.rfft(nl.real(x), axes=(1, 2)),
        ["real"],
    ),
    "real, last axis first": (
        (40, 2048, 9),
        lambda x: nl.rfft(nl.real(x), axes=(1, 0), norm="ortho"),
        ["fourier", "real"],
    ),
    "to real, two axes": (
        (9, 64, 33),
        lambda x: nl.irfft(x, axes=(1, 2)),
        ["hermitian"],
    ),
    "to real": ((50, 501), lambda x: nl.irfft(x), ["hermitian"]),
    "to real, odd": ((50, 501), lambda x: nl.irfft(x, odd=True), ["hermitian"]),
    "to real, columns": ((501, 50), lambda x: nl.irfft(x, axes=0), ["hermitian"]),
    "filtered": (
        (20, 400),
        lambda x: nl.irfft(nl.rfft(nl.real(x)) * nl.rfft(nl.imag(x))),
        ["real", "real", "hermitian"],
    ),
}


@pytest.mark.parametrize("dtype", [nl.complex64, nl.complex128], ids=lambda d: d.name)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(cuda, name, dtype):
    shape, build, expected = TRANSFORMS[name]
    graph = nl.Graph()
    x = graph.placeholder(shape, dtype)
    exe = graph.compile({x: x.type}, [build(x), nl.real(x) + nl.imag(x)], device="cuda")
    assert sorted(calls(exe)) == sorted(f"cufft.{n}_pairs" for n in expected), (
        exe.scheduled.refusals
    )
    rng = np.random.default_rng(4)
    value = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype.numpy)
    exact = nl.Graph()
    z = exact.placeholder(shape, nl.complex128)
    reference = exact.compile({z: z.type}, [build(z), nl.real(z) + nl.imag(z)], device="numpy")
    wanted, untouched = (np.asarray(t) for t in reference.run([value.astype(np.complex128)]))
    limit = 2e-5 if dtype is nl.complex64 else 1e-12
    given = nl.TensorData.from_numpy(value).to(cuda)
    for _ in range(3):
        found, after = (np.asarray(t) for t in exe.run([given]))
        scale = np.sqrt(np.mean(np.abs(wanted) ** 2))
        assert np.abs(found - wanted).max() <= limit * scale
        assert np.allclose(after, untouched, atol=1e-4)  # the input is as it was


def test_gradients_of_transforms(cuda):
    graph = nl.Graph()
    x = graph.placeholder((6, 256), nl.float32)
    spectrum = nl.rfft(x, norm="ortho")
    loss = nl.sum(nl.absolute_square(spectrum) * 0.5)
    by = graph.gradients(loss, [x])[x]
    exe = graph.compile({x: x.type}, [by], device="cuda")
    assert "cufft.real_pairs" in calls(exe)
    value = np.random.default_rng(8).standard_normal((6, 256)).astype(np.float32)
    reference = graph.compile({x: x.type}, [by], device="cpu")
    assert np.allclose(exe.run([value])[0], reference.run([value])[0], atol=1e-4)


def test_transforms_in_packages_and_loops(cuda, tmp_path):
    graph = nl.Graph()
    x = graph.placeholder((16, 64), nl.complex64)
    (last,), _ = nl.scan([], [x], lambda i, xs, c: ([nl.fft(c[0], norm="ortho")], []), length=4)
    exe = graph.compile({x: x.type}, [last], device="cuda")
    assert calls(exe) == ["cufft.fourier_pairs"]
    exe.save(tmp_path / "fourier.niello")
    loaded = nl.load(tmp_path / "fourier.niello", device="cuda")
    rng = np.random.default_rng(6)
    value = (rng.standard_normal((16, 64)) + 1j).astype(np.complex64)
    for each in (exe, loaded, loaded):  # four transforms are one: x, reversed, x
        assert np.allclose(np.asarray(each.run([value])[0]), value, atol=1e-4)


# --- recurrent layers

TIME, FEATURES, HIDDEN = 12, 24, 40
LAYERS = {
    "lstm": ("lstm", {}, ()),
    "lstm with all": ("lstm", {}, ("bias", "initial_state", "initial_cell")),
    "lstm, both directions": ("lstm", {"bidirectional": True}, ("bias",)),
    "gru": ("gru", {"reset_after": True}, ("bias",)),
    "gru with all": (
        "gru",
        {"reset_after": True, "reset_gate_first": True},
        ("bias", "secondary_bias", "initial_state"),
    ),
    "gru, both directions": (
        "gru",
        {"reset_after": True, "bidirectional": True},
        ("bias", "secondary_bias"),
    ),
    "tanh": ("rnn", {}, ("bias", "initial_state")),
    "relu": ("rnn", {"activation": "relu"}, ()),
}


def layer(
    name: str, dtype: nl.DType, batch: int = 3
) -> tuple[nl.Graph, list[nl.Tensor], nl.Tensor, list[np.ndarray]]:
    """The layer's states, its placeholders and values for them."""
    kind, options, given = LAYERS[name]
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind] * HIDDEN
    both = bool(options.get("bidirectional"))
    wide = gates * (1 + both)
    shapes = {
        "source": (TIME, batch, FEATURES),
        "recurrent_weight": (2, gates, HIDDEN) if both else (gates, HIDDEN),
        "input_weight": (wide, FEATURES),
        "bias": (wide,),
        "secondary_bias": (HIDDEN * (1 + both),),
        "initial_state": (batch, HIDDEN),
        "initial_cell": (batch, HIDDEN),
    }
    names = ("source", "recurrent_weight", "input_weight", *given)
    graph = nl.Graph()
    places = {n: graph.placeholder(shapes[n], dtype) for n in names}
    found = getattr(nl, kind)(**places, **options)
    states = found[0] if kind == "lstm" else found
    values = random([shapes[n] for n in names], nl.float64)
    values = [v if n in ("source", "bias") else v / 7 for n, v in zip(names, values, strict=True)]
    return graph, list(places.values()), states, [v.astype(dtype.numpy) for v in values]


@pytest.mark.parametrize("dtype", [nl.float16, nl.float32, nl.float64], ids=lambda d: d.name)
@pytest.mark.parametrize("name", LAYERS)
def test_recurrent_layers(cuda, name, dtype):
    graph, places, states, values = layer(name, dtype)
    exe = graph.compile({t: t.type for t in places}, [states], device="cuda")
    assert calls(exe) == ["cudnnrnn.layer"], exe.scheduled.refusals
    exact, there, wanted, _ = layer(name, nl.float64)
    reference = exact.compile({t: t.type for t in there}, [wanted], device="numpy")
    (right,) = reference.run([v.astype(np.float64) for v in values])
    limit = {"float16": 1e-2, "float32": 1e-5, "float64": 1e-12}[dtype.name]
    for _ in range(3):
        assert error(exe.run(values)[0], right) <= limit


@pytest.mark.parametrize("batch", [17, 37, 64])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_batches_in_parts(cuda, name, batch):
    graph, places, states, values = layer(name, nl.float32, batch)
    exe = graph.compile({t: t.type for t in places}, [states], device="cuda")
    assert calls(exe) == ["cudnnrnn.layer"], exe.scheduled.refusals
    exact, there, wanted, _ = layer(name, nl.float64, batch)
    reference = exact.compile({t: t.type for t in there}, [wanted], device="numpy")
    (right,) = reference.run([v.astype(np.float64) for v in values])
    for _ in range(3):
        assert error(exe.run(values)[0], right) <= 1e-5


def test_layers_that_are_loops(cuda):
    """Large batches in float32, unless TF32 is allowed; cells at all times; training."""
    graph, places, states, values = layer("lstm", nl.float32, 100)
    types = {t: t.type for t in places}
    plain = graph.compile(types, [states], device="cuda")
    assert "cudnnrnn.layer" not in calls(plain)
    options = nl.CompileOptions(tf32=True)
    fast = graph.compile(types, [states], device="cuda", options=options)
    assert calls(fast) == ["cudnnrnn.layer"]
    assert error(fast.run(values)[0], np.asarray(plain.run(values)[0])) <= 1e-2

    graph, places, states, values = layer("lstm", nl.float32)
    types = {t: t.type for t in places}
    by = graph.gradients(nl.sum(states * states), places)
    exe = graph.compile(types, [states, *by.values()], device="cuda")
    assert "cudnnrnn.layer" not in calls(exe)
    wanted = graph.compile(types, [states, *by.values()], device="cpu").run(values)
    for f, w in zip(exe.run(values), wanted, strict=True):
        assert error(f, w) <= 1e-4

    graph = nl.Graph()
    x, r, w = (graph.placeholder(s) for s in ((5, 2, 8), (64, 16), (64, 8)))
    exe = graph.compile({t: t.type for t in (x, r, w)}, [*nl.lstm(x, r, w)], device="cuda")
    assert "cudnnrnn.layer" not in calls(exe)


@pytest.mark.parametrize("batch", [2, 37])
def test_layers_inside_branches(cuda, batch):
    graph, places, _, values = layer("lstm", nl.float32, batch)
    asked = graph.placeholder((), nl.bool_)
    zeros = graph.constant(0.0, shape=(TIME, batch, HIDDEN))
    y = nl.if_(asked, lambda: nl.lstm(*places)[0] * 1.0, lambda: zeros)
    found = y[0] if isinstance(y, (list, tuple)) else y
    types = {t: t.type for t in (*places, asked)}
    exe = graph.compile(types, [found], device="cuda")
    assert calls(exe) == ["cudnnrnn.layer"], exe.scheduled.refusals
    (wanted,) = graph.compile(types, [found], device="cpu").run([*values, np.array(True)])
    for _ in range(2):
        assert error(exe.run([*values, np.array(True)])[0], wanted) <= 1e-5
        assert not np.asarray(exe.run([*values, np.array(False)])[0]).any()
