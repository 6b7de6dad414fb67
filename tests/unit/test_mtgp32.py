"""MTGP32 against its published characteristic polynomial, and against another implementation."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import niello as nl
from niello.core.errors import AttributeValueError, ShapeError
from niello.graph.evaluate import evaluate
from niello.ops.mtgp32 import RECURSION, TEMPERING, numpy_mtgp32

EXPONENT = 11213
# Published with the parameters: SHA-1 of the characteristic polynomial, and its weight.
DIGEST = "cbb03faa650dbd1c8cc2910087257ff86f23f218"
WEIGHT = 665
# cuRAND 10.4, CURAND_RNG_PSEUDO_MTGP32: words of the first of its 192 generators, which is seeded
# with the library's seed plus one, and has each first 256 of 49152 words.
KNOWN = {
    1: (
        [360948779, 1200908298, 2313932395, 2218157478, 3754595429, 1713953624],
        [139140420, 3773455999, 355385026, 39615257],
        [1798968667, 2724165592, 1281702601, 2058958331],
    ),
    1337: (
        [2293061381, 933094847, 1256768860, 3418070905, 3005582032, 3214659103],
        [1007057838, 245618247, 1841871006, 1047610003],
        [436008431, 3280771094, 2442426942, 1054210724],
    ),
    1234: (
        [3718281237, 3910281712, 3795307444, 2426638236, 3228534545, 3392361404],
        [2283106773, 1770879569, 880630546, 3216882986],
        [1679908977, 215714162, 1567202439, 4197846634],
    ),
}


def minimal_polynomial(bits: list[int]) -> tuple[int, int]:
    """Berlekamp and Massey over GF(2): the connection polynomial as bits, and its length."""
    found, before, length, gap, seen = 1, 1, 0, 1, 0
    for n, bit in enumerate(bits):
        seen = seen << 1 | bit
        if (found & seen).bit_count() & 1:
            old = found
            found ^= before << gap
            if 2 * length <= n:
                length, before, gap = n + 1 - length, old, 0
        gap += 1
    return found, length


def test_characteristic_polynomial() -> None:
    words, _ = numpy_mtgp32(nl.mtgp32_state(1), 2 * EXPONENT)
    polynomial, degree = minimal_polynomial([int(b) for b in words & 1])
    assert degree == EXPONENT
    assert polynomial.bit_count() == WEIGHT
    # The connection polynomial is the characteristic one reversed: lowest degree first.
    printed = f"{polynomial:0{EXPONENT + 1}b}"
    assert hashlib.sha1(printed.encode()).hexdigest() == DIGEST


@pytest.mark.parametrize("seed", KNOWN)
def test_known_words(seed: int) -> None:
    first, later, second = KNOWN[seed]
    graph = nl.Graph()
    words, _ = nl.random_bits((512,), graph.constant(nl.mtgp32_state(seed)))
    for found in (evaluate([words])[0], graph.run(targets=[words])[words].numpy()):
        assert found[:6].tolist() == first
        assert found[252:256].tolist() == later
        assert found[256:260].tolist() == second


def test_published_tables() -> None:
    """Some of the sixteen entries that the authors list are sums of the four images."""
    assert RECURSION[0] ^ RECURSION[1] ^ RECURSION[2] ^ RECURSION[3] == 0x32A32C11
    assert TEMPERING[0] ^ TEMPERING[1] ^ TEMPERING[2] ^ TEMPERING[3] == 0x38E6DE00
    assert 0x3F800000 | (TEMPERING[3] ^ TEMPERING[2]) >> 9 == 0x3F8D976F


def test_state_continues_the_stream() -> None:
    graph = nl.Graph()
    state = graph.variable(nl.mtgp32_state(11))
    first, middle = nl.random_bits((300,), state)
    second, _ = nl.random_bits((5000,), middle)
    whole, _ = nl.random_bits((5300,), state)
    a, b, both = (t.numpy() for t in graph.run(targets=[first, second, whole]).values())
    assert np.concatenate([a, b]).tolist() == both.tolist()


def test_distributions_take_the_state() -> None:
    graph = nl.Graph()
    state = graph.constant(nl.mtgp32_state(5))
    words, _ = nl.random_bits((1000,), state)
    unit, after = nl.random_uniform((1000,), state)
    normal, _ = nl.random_normal((20000,), state, mean=2.0)
    whole, _ = nl.random_integers((1000,), state, high=2**32, dtype=nl.uint32)
    like = graph.placeholder((None,))
    same, _ = nl.random_uniform(like, state)
    bits, u, z, i, s = evaluate(
        [words, unit, normal, whole, same], {like: np.zeros(1000, np.float32)}
    )
    assert u.tolist() == ((bits >> 8) * np.float32(2.0**-24)).tolist() == s.tolist()
    assert i.tolist() == bits.tolist() and after.shape == (351,)
    assert abs(z.mean() - 2.0) < 4 / np.sqrt(20000) and abs(z.std() - 1) < 0.03


def test_refusals() -> None:
    with pytest.raises(AttributeValueError, match="32 bits"):
        nl.mtgp32_state(2**32)
    graph = nl.Graph()
    with pytest.raises(ShapeError, match="six words"):
        nl.random_bits((2,), graph.constant(np.zeros(350, np.uint32)))
