"""Linear algebra: agreement with NumPy, residuals of hard matrices, gradients, errors."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, ShapeError

RNG = np.random.default_rng(0)


def run(build, *arrays, device="cpu"):
    graph = nl.Graph()
    inputs = [graph.placeholder(a.shape, a.dtype) for a in arrays]
    made = build(*inputs)
    listed = list(made) if isinstance(made, tuple) else [made]
    found = graph.run(dict(zip(inputs, arrays, strict=True)), listed, device=device)
    values = [found[t].numpy() for t in listed]
    return values if isinstance(made, tuple) else values[0]


def ill_conditioned(m: int, n: int, exponent: float) -> np.ndarray:
    """Singular values from 1 down to 10**-exponent."""
    k = min(m, n)
    u, _ = np.linalg.qr(RNG.standard_normal((m, k)))
    v, _ = np.linalg.qr(RNG.standard_normal((n, k)))
    return (u * np.logspace(0, -exponent, k)) @ v.T


def hilbert(n: int) -> np.ndarray:
    i = np.arange(n)
    return 1.0 / (i[:, None] + i[None, :] + 1.0)


HARD = {
    "ill-conditioned": ill_conditioned(12, 12, 12),
    "rank deficient": ill_conditioned(10, 6, 3) @ ill_conditioned(6, 10, 1),
    "hilbert": hilbert(9),
    "zero": np.zeros((5, 5)),
    "equal columns": np.ones((6, 6)),
    "huge": 1e150 * RNG.standard_normal((5, 5)),
    "tiny": 1e-150 * RNG.standard_normal((5, 5)),
    "graded": np.diag(10.0 ** -np.arange(0, 40, 5)) @ RNG.standard_normal((8, 8)),
}


def small(residual: np.ndarray, scale: float) -> bool:
    return float(np.abs(residual).max(initial=0.0)) <= 200 * 2.0**-52 * max(scale, 1e-300)


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("rows", ["all", "tall", "wide"])
def test_residuals_of_hard_matrices(name, rows):
    a = HARD[name]
    a = {"all": a, "tall": a[:, :-2], "wide": a[:-2]}[rows]
    size = np.abs(a).max(initial=0.0) * max(a.shape)
    u, s, v = run(nl.svd, a)
    k = min(a.shape)
    assert small((u * s) @ v - a, size), "svd"
    assert small(u.T @ u - np.eye(k), k) and small(v @ v.T - np.eye(k), k), "svd is orthogonal"
    assert np.all(np.diff(s) <= 0) and np.all(s >= 0)
    assert small(s - np.linalg.svd(a, compute_uv=False), size)
    q, r = run(nl.qr, a)
    assert small(q @ r - a, size) and small(q.T @ q - np.eye(k), k), "qr"
    assert np.all(np.diagonal(r) >= 0) and small(np.tril(r, -1), 0)
    if rows == "all":
        order, lower, upper = run(nl.lu, a)
        assert small(lower @ upper - a[order], size * 8), "lu"
        assert np.abs(lower).max() <= 1.0
        symmetric = a + a.T
        w, x = run(nl.eigh, symmetric)
        assert small(symmetric @ x - x * w, 2 * size), "eigh"
        assert small(x.T @ x - np.eye(len(a)), len(a)) and np.all(np.diff(w) >= 0)


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_agrees_with_numpy(device, kind):
    a = (RNG.standard_normal((3, 5, 5)) + 3 * np.eye(5)).astype(kind)
    b = RNG.standard_normal((3, 5, 2)).astype(kind)
    tall = RNG.standard_normal((7, 4)).astype(kind)
    side = RNG.standard_normal((7, 2)).astype(kind)
    close = {"rtol": 2e-4, "atol": 2e-4} if kind is np.float32 else {"rtol": 1e-9, "atol": 1e-11}
    pairs = [
        (run(nl.solve, a, b, device=device), np.linalg.solve(a, b)),
        (run(nl.inverse, a, device=device), np.linalg.inv(a)),
        (run(nl.det, a, device=device), np.linalg.det(a)),
        (run(nl.pinv, tall, device=device), np.linalg.pinv(tall)),
        (run(nl.lstsq, tall, side, device=device), np.linalg.lstsq(tall, side, rcond=None)[0]),
        (run(lambda x: nl.matrix_power(x, 5), a, device=device), np.linalg.matrix_power(a, 5)),
        (run(lambda x: nl.matrix_power(x, -2), a, device=device), np.linalg.matrix_power(a, -2)),
        (run(nl.matrix_rank, np.outer(tall[:, 0], tall[0])), 1),
    ]
    for found, wanted in zip(run(nl.slogdet, a, device=device), np.linalg.slogdet(a), strict=True):
        pairs.append((found, wanted))
    positive = a @ np.swapaxes(a, -1, -2)
    factor = run(nl.cholesky, positive, device=device)
    pairs.append((factor, np.linalg.cholesky(positive)))
    pairs.append(
        (run(lambda x, y: nl.cholesky_solve(y, x), factor, b), np.linalg.solve(positive, b))
    )
    for found, wanted in pairs:
        np.testing.assert_allclose(found, wanted, **close)


def test_singular_systems():
    a = np.array([[1.0, 2.0], [2.0, 4.0]])
    assert not np.isfinite(run(nl.solve, a, np.ones((2, 1)))).all()
    assert run(nl.det, a) == 0
    sign, log = run(nl.slogdet, a)
    assert sign == 0 and log == -np.inf
    np.testing.assert_allclose(run(nl.lstsq, a, np.array([1.0, 2.0])), [0.2, 0.4], rtol=1e-12)
    assert np.isnan(run(nl.cholesky, np.array([[1.0, 2.0], [2.0, 1.0]]))[1, 1])


ORDERS = [None, "fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf]


@pytest.mark.parametrize(
    ("order", "axes", "keepdims"),
    [
        *itertools.product(ORDERS, [(0, 1), (2, 0)], [False, True]),
        *itertools.product([None, 0, 1, 2, 3, -1.5, np.inf, -np.inf], [1], [False, True]),
    ],
)
def test_norms(order, axes, keepdims):
    x = RNG.standard_normal((3, 4, 5))
    found = run(lambda t: nl.norm(t, order, axes, keepdims), x)
    wanted = np.linalg.norm(x, order, axes, keepdims)
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
    assert found.shape == wanted.shape


EQUATIONS = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("bij,bkj->bik", (2, 3, 4), (2, 5, 4)),
    ("ij,ij->", (2, 3), (2, 3)),
    ("i,j->ij", (2,), (3,)),
    ("ii->i", (3, 3)),
    ("ii", (3, 3)),
    ("ijk->kji", (2, 3, 4)),
    ("ij->j", (2, 3)),
    ("abc,cd,de->abe", (2, 3, 4), (4, 5), (5, 2)),
    ("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5)),
    ("...ij,jk->...ik", (2, 3, 4), (4, 5)),
    ("bhqd,bhkd->bhqk", (2, 2, 3, 4), (2, 2, 5, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("abcd,cdef->abef", (2, 3, 2, 2), (2, 2, 3, 2)),
    ("a,ab,b->", (2,), (2, 3), (3,)),
    ("iij,jk->ik", (3, 3, 2), (2, 4)),
]


@pytest.mark.parametrize(("equation", "shapes"), [(e, s) for e, *s in EQUATIONS])
def test_einsum(equation, shapes):
    arrays = [RNG.standard_normal(s) for s in shapes]
    found = run(lambda *t: nl.einsum(equation, *t), *arrays)
    np.testing.assert_allclose(found, np.einsum(equation, *arrays), rtol=1e-10, atol=1e-12)


def test_gradient_through_a_chain():
    graph = nl.Graph()
    x = graph.placeholder((3, 3), nl.float64)
    a = x.matmul(x.transpose((1, 0))) + graph.constant(np.eye(3))
    loss = nl.slogdet(a)[1] + nl.solve(a, x).sum() + nl.norm(nl.cholesky(a)) + nl.svdvals(x).sum()
    g = graph.gradients(loss, [x])[x]
    at = RNG.standard_normal((3, 3))
    found = graph.run({x: at}, [g])[g].numpy()
    for i, j in itertools.product(range(3), repeat=2):
        step = np.zeros((3, 3))
        step[i, j] = 1e-6
        up, down = (float(graph.run({x: at + s * step}, [loss])[loss].numpy()) for s in (1, -1))
        assert abs((up - down) / 2e-6 - found[i, j]) < 1e-5 * (1 + abs(found[i, j]))


def test_what_is_refused():
    graph = nl.Graph()
    x = graph.placeholder((2, 3))
    with pytest.raises(ShapeError, match="square"):
        nl.inverse(x)
    with pytest.raises(ShapeError, match="do not fit"):
        nl.solve(graph.placeholder((3, 3)), graph.placeholder((4, 1)))
    with pytest.raises(AttributeValueError, match="mode"):
        nl.qr(x, mode="raw")
    with pytest.raises(AttributeValueError, match="matrix norm"):
        nl.norm(x, 3, (0, 1))
    with pytest.raises(AttributeValueError, match="names 2 operands"):
        nl.einsum("ij,jk", x)
    with pytest.raises(ShapeError, match="two sizes"):
        nl.einsum("ij,jk", x, x)


@pytest.mark.parametrize("n", [3, 70, 150])
def test_complex_matrices(n):
    a, b = (RNG.standard_normal((n, k)) + 1j * RNG.standard_normal((n, k)) for k in (n, 2))
    h = a @ a.conj().T + np.eye(n)
    np.testing.assert_allclose(a @ run(nl.solve, a, b), b, atol=1e-10)
    sign, log = run(nl.slogdet, a)
    np.testing.assert_allclose([sign, log], [*np.linalg.slogdet(a)], rtol=1e-10)
    order, lower, upper = run(nl.lu, a)
    np.testing.assert_allclose(lower @ upper, a[order], atol=1e-11)
    factor = run(nl.cholesky, h)
    np.testing.assert_allclose(factor @ factor.conj().T, h, atol=1e-10)
    q, r = run(nl.qr, a)
    np.testing.assert_allclose(q @ r, a, atol=1e-11)
    np.testing.assert_allclose(q.conj().T @ q, np.eye(n), atol=1e-11)
    values, vectors = run(nl.eigh, h)
    np.testing.assert_allclose(h @ vectors, vectors * values, atol=1e-9)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(h), rtol=1e-10, atol=1e-10)
    u, s, v = run(nl.svd, a)
    np.testing.assert_allclose(u * s @ v, a, atol=1e-10)
    np.testing.assert_allclose(s, np.linalg.svd(a)[1], atol=1e-10)


def test_equal_eigenvalues_of_a_hermitian_matrix():
    a = np.kron(np.eye(3), np.array([[2, 1j], [-1j, 2]]))
    values, vectors = run(nl.eigh, a)
    np.testing.assert_allclose(values, [1, 1, 1, 3, 3, 3], atol=1e-13)
    np.testing.assert_allclose(vectors.conj().T @ vectors, np.eye(6), atol=1e-13)


@pytest.mark.parametrize("n", [129, 200, 321])
def test_large_matrices_go_by_blocks(n):
    a, b = RNG.standard_normal((n, n)), RNG.standard_normal((n, 5))
    order, lower, upper = run(nl.lu, a)
    np.testing.assert_allclose(lower @ upper, a[order], atol=1e-11)
    assert np.abs(lower).max() <= 1.0
    np.testing.assert_allclose(a @ run(nl.solve, a, b), b, atol=1e-8)
    np.testing.assert_allclose(run(nl.det, a / 10), np.linalg.det(a / 10), rtol=1e-8)
    q, r = run(nl.qr, a)
    np.testing.assert_allclose(q @ r, a, atol=1e-11)
    h = a @ a.T / n + np.eye(n)
    factor = run(nl.cholesky, h)
    np.testing.assert_allclose(factor @ factor.T, h, atol=1e-12)
    stack = np.stack([h, h * 2])
    np.testing.assert_allclose(run(nl.cholesky, stack)[1], np.linalg.cholesky(h * 2), atol=1e-11)
