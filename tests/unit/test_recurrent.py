"""Recurrent layers against plain loops in NumPy, and their gradients against differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, ShapeError
from niello.graph.control_flow import Loop
from niello.graph.opdef import Trait
from niello.graph.region import needed

T, N, FEATURES, H = 5, 3, 4, 2
GATES = {"rnn": 1, "lstm": 4, "gru": 3, "mgu": 2}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def weights(kind, directions=1, seed=0):
    rng = np.random.default_rng(seed)
    g = GATES[kind] * H
    shape = (2, g, H) if directions == 2 else (g, H)
    return {
        "source": rng.standard_normal((T, N, FEATURES)),
        "recurrent_weight": rng.standard_normal(shape),
        "input_weight": rng.standard_normal((directions * g, FEATURES)),
        "bias": rng.standard_normal(directions * g),
        "initial_state": rng.standard_normal((N, directions * H)),
        "mask": rng.uniform(0.5, 1.5, (N, directions * H)),
    }


def walk(kind, w, reverse=False, **options):
    """States (and cells) at all times."""
    h = w.get("initial_state", np.zeros((N, H)))
    c = w.get("initial_cell", np.zeros((N, H)))
    mask = w.get("mask", 1.0)
    r, states, cells = w["recurrent_weight"], {}, {}
    for t in reversed(range(T)) if reverse else range(T):
        x = w["source"][t] @ w["input_weight"].T + w["bias"]
        k = h * mask
        p = k @ r.T
        s = [slice(g * H, (g + 1) * H) for g in range(4)]
        if kind == "rnn":
            h = np.tanh(x + p)
        elif kind == "lstm":
            v = w.get("peephole", np.zeros(4 * H))
            a = x + p
            order = (0, 2, 1, 3) if options.get("forget_gate_last") else (0, 1, 2, 3)
            i, f, z = (a[:, s[n]] + c * v[s[n]] for n in order[:3])
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(z)
            h = sigmoid(a[:, s[3]] + c * v[s[3]]) * np.tanh(c)
        elif kind == "gru":
            zs, rs = (1, 0) if options.get("reset_gate_first") else (0, 1)
            z, reset = (sigmoid((x + p)[:, s[n]]) for n in (zs, rs))
            if options.get("reset_after"):
                inner = reset * (p[:, s[2]] + w.get("secondary_bias", 0.0))
            else:
                inner = (reset * k) @ r[s[2]].T
            o = np.tanh(x[:, s[2]] + inner)
            h = (1 - z) * h + z * o if options.get("flip_z") else z * h + (1 - z) * o
        else:
            f = sigmoid((x + p)[:, s[0]])
            o = np.tanh(x[:, s[1]] + (f * k) @ r[s[1]].T)
            h = (1 - f) * h + f * o
        states[t], cells[t] = h, c
    return [np.stack([d[t] for t in range(T)]) for d in (states, cells)]


def run(kind, w, options, device="cpu", unknown=False):
    graph = nl.Graph()
    tensors = {}
    for name, value in w.items():
        shape = (None, None, FEATURES) if unknown and name == "source" else value.shape
        tensors[name] = graph.placeholder(shape, nl.float64, name=name)
    made = getattr(nl, kind)(**tensors, **options)
    listed = list(made) if isinstance(made, tuple) else [made]
    feeds = {tensors[n]: v for n, v in w.items()}
    found = graph.run(feeds, listed, device=device)
    return graph, tensors, listed, feeds, [found[t].numpy() for t in listed]


CASES = [
    *itertools.product(("rnn", "mgu"), ({}, {"reverse": True})),
    *(("lstm", {"forget_gate_last": last, "reverse": last}) for last in (False, True)),
    *(
        ("gru", {"reset_gate_first": a, "reset_after": b, "flip_z": c})
        for a, b, c in itertools.product((False, True), repeat=3)
    ),
]


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_layers_are_their_loops(kind, options, device):
    w = weights(kind)
    if kind == "lstm":
        rng = np.random.default_rng(7)
        w |= {"initial_cell": rng.standard_normal((N, H)), "peephole": rng.standard_normal(4 * H)}
    if options.get("reset_after"):
        w["secondary_bias"] = np.array([0.3, -0.2])
    *_, found = run(kind, w, options, device)
    for got, wanted in zip(found, walk(kind, w, **options), strict=False):
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", GATES)
def test_both_directions(kind):
    w = weights(kind, directions=2)
    *_, found = run(kind, w, {"bidirectional": True}, unknown=True)
    g = GATES[kind] * H
    for direction in (0, 1):
        one = {
            "source": w["source"],
            "recurrent_weight": w["recurrent_weight"][direction],
            "input_weight": w["input_weight"][direction * g : (direction + 1) * g],
            "bias": w["bias"][direction * g : (direction + 1) * g],
            "initial_state": w["initial_state"][:, direction * H : (direction + 1) * H],
            "mask": w["mask"][:, direction * H : (direction + 1) * H],
        }
        wanted = walk(kind, one, reverse=direction == 1)
        for got, w_ in zip(found, wanted, strict=False):
            part = got[..., direction * H : (direction + 1) * H]
            np.testing.assert_allclose(part, w_, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", GATES)
def test_gradients(kind):
    w = weights(kind)
    graph, tensors, listed, feeds, _ = run(kind, w, {})
    seed = np.random.default_rng(3).standard_normal((T, N, H))
    loss = sum((t * seed).sum() for t in listed)
    names = [n for n in tensors if n != "mask"]
    grads = graph.gradients(loss, [tensors[n] for n in names])
    found = graph.run(feeds, list(grads.values()), device="cpu")

    def value(name, moved):
        return float(graph.run(feeds | {tensors[name]: moved}, [loss], device="cpu")[loss].numpy())

    for name in names:
        gradient = found[grads[tensors[name]]].numpy()
        along = np.random.default_rng(4).standard_normal(w[name].shape)
        step = 1e-6
        slope = (value(name, w[name] + step * along) - value(name, w[name] - step * along)) / 2e-6
        assert abs(slope - (gradient * along).sum()) < 1e-5 * (1 + abs(slope)), name


def test_state_gradient_when_only_the_last_state_is_used():
    w = weights("lstm")
    graph, tensors, (states, _), feeds, _ = run("lstm", w, {})
    g = graph.gradients(states[-1].sum(), [tensors["recurrent_weight"]])
    out = graph.run(feeds, list(g.values()), device="cpu")
    assert np.abs(next(iter(out.values())).numpy()).max() > 0


def backward_loop(graph):
    return [o for o in graph.operations if isinstance(o.op, Loop)][-1]


# Products of a step walked back: of the states, and of the gradients of the gates.
@pytest.mark.parametrize(("kind", "products"), [("rnn", 1), ("lstm", 1), ("gru", 2), ("mgu", 2)])
def test_weight_gradients_are_made_after_the_loop_and_products_are_kept(kind, products):
    graph, width = nl.Graph(), GATES[kind] * 16
    x, r = graph.placeholder((T, N, width)), graph.placeholder((width, 16))
    made = getattr(nl, kind)(x, r, mask=graph.placeholder((N, 16)))
    graph.gradients((made[0] if kind == "lstm" else made).sum(), [r, x])
    back = backward_loop(graph)
    assert back.op.reverse
    carried = back.op.parts(back.inputs).carried
    assert {t.shape for t in carried} == {(N, 16)}
    inside = needed(back.op.body)
    assert sum(Trait.CONTRACTION in o.op.traits for o in inside) == products


def test_a_weight_whose_gradient_is_smaller_than_its_operands_is_summed_in_the_loop():
    graph = nl.Graph()
    x, r = graph.placeholder((T, 9, 4)), graph.placeholder((4, 4))
    grads = graph.gradients(nl.rnn(x, r, mask=graph.placeholder((9, 4))).sum(), [r])
    back = backward_loop(graph)
    assert (4, 4) in [t.shape for t in back.op.parts(back.inputs).carried]
    assert grads[r].shape == (4, 4)


@pytest.mark.parametrize("shape", [(None, None), (None, N), (T, None)])
def test_gradients_of_unknown_sizes(shape):
    w = weights("lstm")
    found = []
    for sizes in (shape, (T, N)):
        graph = nl.Graph()
        x = graph.placeholder((*sizes, FEATURES), nl.float64)
        r, v = (
            graph.placeholder(w[n].shape, nl.float64) for n in ("recurrent_weight", "input_weight")
        )
        loss = (nl.lstm(x, r, v)[0] ** 2.0).sum()
        grads = graph.gradients(loss, [r, v, x])
        feeds = {x: w["source"], r: w["recurrent_weight"], v: w["input_weight"]}
        out = graph.run(feeds, list(grads.values()), device="cpu")
        found.append([out[g].numpy() for g in grads.values()])
    for got, wanted in zip(*found, strict=True):
        assert np.abs(wanted).max() > 1e-3
        np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", GATES)
def test_second_derivatives(kind):
    w = weights(kind)
    graph, tensors, listed, feeds, _ = run(kind, w, {})
    names = ["recurrent_weight", "input_weight", "initial_state"]
    first = graph.gradients((listed[0] ** 2.0).sum(), [tensors[n] for n in names])
    loss = sum((g * g).sum() for g in first.values())
    second = graph.gradients(loss, [tensors[n] for n in names])
    found = graph.run(feeds, list(second.values()), device="cpu")
    for name in names:
        along = np.random.default_rng(4).standard_normal(w[name].shape)
        ends = [
            float(
                graph.run(feeds | {tensors[name]: w[name] + step * along}, [loss], device="cpu")[
                    loss
                ].numpy()
            )
            for step in (1e-5, -1e-5)
        ]
        slope = (ends[0] - ends[1]) / 2e-5
        gradient = found[second[tensors[name]]].numpy()
        assert abs(slope - (gradient * along).sum()) < 1e-5 * (1 + abs(slope)), name


@pytest.mark.parametrize("count", [0, 3, 6])
def test_weight_gradient_of_a_loop_that_ends_early(count):
    values = np.random.default_rng(5).standard_normal((2, 3)), np.eye(3) * 0.5 + 0.2
    found = []
    for by_value in (True, False):
        graph = nl.Graph()
        x, w = graph.placeholder((2, 3), nl.float64), graph.placeholder((3, 3), nl.float64)
        n = graph.placeholder((), nl.int32) if by_value else count
        most = {"maximum_iterations": 6} if by_value else {}
        y = nl.for_(n, x, lambda i, a, w=w: (a @ w).tanh(), **most)
        grads = graph.gradients(y.sum() + w.sum() * 0.0, [x, w])
        feeds = dict(zip((x, w), values, strict=True)) | ({n: np.int32(count)} if by_value else {})
        out = graph.run(feeds, list(grads.values()), device="cpu")
        found.append([out[g].numpy() for g in grads.values()])
    for got, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-14)


def test_source_of_gate_width_and_defaults():
    w = weights("gru")
    projected = w["source"] @ w["input_weight"].T + w["bias"]
    given = {"source": projected, "recurrent_weight": w["recurrent_weight"]}
    *_, found = run("gru", given, {})
    plain = {k: v for k, v in w.items() if k not in ("initial_state", "mask")}
    np.testing.assert_allclose(found[0], walk("gru", plain)[0], rtol=1e-10)


def test_what_is_refused():
    graph = nl.Graph()
    x, r = graph.placeholder((T, N, FEATURES)), graph.placeholder((4 * H, H))
    with pytest.raises(ShapeError, match="3 gates"):
        nl.gru(x, r, graph.placeholder((3 * H, FEATURES)))
    with pytest.raises(ShapeError, match="input weight"):
        nl.lstm(x, r, graph.placeholder((H, FEATURES)))
    with pytest.raises(ShapeError, match="without an input weight"):
        nl.lstm(x, r)
    with pytest.raises(ShapeError, match="time, batch"):
        nl.lstm(graph.placeholder((T, FEATURES)), r, graph.placeholder((4 * H, FEATURES)))
    with pytest.raises(AttributeValueError, match="reset_after"):
        nl.gru(
            x, graph.placeholder((3 * H, H)), graph.placeholder((3 * H, FEATURES)), secondary_bias=x
        )
    with pytest.raises(AttributeValueError, match="an activation is one of"):
        nl.rnn(x, graph.placeholder((H, H)), graph.placeholder((H, FEATURES)), activation="swish")
