"""Inverses of the error function and of the normal distribution function.

erfinv(x) / x is a smooth function of w = -log((1 - x) * (1 + x)); it is approximated by
polynomials in w near 0 and in sqrt(w) beyond (the form of M. Giles, "Approximating the erfinv
function", 2012). The coefficients are least-squares fits of relative error on Chebyshev nodes.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from niello.core.dtypes import FLOATS, float64
from niello.graph.opdef import real, sample
from niello.ops.define import elementwise
from niello.ops.unary import exp, square

SQRT2 = math.sqrt(2.0)
HALF_SQRT_PI = math.sqrt(math.pi) / 2.0
SQRT_TAU = math.sqrt(2.0 * math.pi)

# (centre, coefficients from the constant up) of each range; the first is in w up to its limit,
# the others in sqrt(w). Relative error below 3e-7 in float32 and 6e-15 in float64.
_LIMITS = {"float32": (5.0, 4.8), "float64": (6.25, 4.0, 6.5, 13.0)}
_FLOAT32 = (
    (
        2.5,
        (
            1.50140936,
            0.2466402785,
            -0.004177388474,
            -0.001252725227,
            0.0002183458868,
            -4.973069671e-06,
            -3.463093069e-06,
            4.682669738e-07,
            2.326480009e-08,
            -8.9414141e-09,
        ),
    ),
    (
        3.5,
        (
            3.335485747,
            1.007369602,
            0.003276005138,
            -0.002072990299,
            0.001097611334,
            -0.0006452782714,
            0.0004228957928,
            -0.0002759644631,
            8.670177336e-05,
            2.882423359e-05,
            -1.939447384e-05,
        ),
    ),
    (
        7.5,
        (
            7.373190422,
            1.008090243,
            -0.0004959427883,
            1.505182711e-05,
            3.020569264e-06,
            -9.23407921e-07,
            1.600524608e-07,
            -2.502678604e-08,
            6.504837425e-09,
            -1.041667988e-09,
        ),
    ),
)
_FLOAT64 = (
    (
        3.125,
        (
            1.6536545626831052,
            0.24015818242562026,
            -0.006033670871425406,
            -0.0007407025343679305,
            0.00018673420804350859,
            -1.3882522923053329e-05,
            -1.3654692345488486e-06,
            4.2347833259406244e-07,
            -2.9070338904951055e-08,
            -4.112385249264768e-09,
            1.0511991285040078e-09,
            -5.423755828121848e-11,
            -1.2972142710768823e-11,
            2.65104894458231e-12,
            -8.188073773438182e-14,
            -4.287359506893073e-14,
            6.654952748365986e-15,
            2.1041772374111853e-16,
            -1.3259431195226283e-16,
            2.528196672532344e-18,
            1.170057737203488e-18,
        ),
    ),
    (
        3.25,
        (
            3.0838856104922243,
            1.0052589676941468,
            0.005370914553583489,
            -0.0037512085074204514,
            0.0024914420978701182,
            -0.0016882755530489538,
            0.0009532893351411218,
            -0.000355037588084288,
            2.403155847004027e-05,
            6.828535920566825e-05,
            -4.732058656705379e-05,
            1.247339719884432e-05,
            2.9305391950329506e-06,
            -4.0099928705083616e-06,
            1.4904598899318174e-06,
            1.4174145268165408e-08,
            -2.638099243055172e-07,
            9.248421656401794e-08,
            -2.135109645411743e-09,
        ),
    ),
    (
        5.25,
        (
            5.102469766505423,
            1.010195177279467,
            -0.00027432268741145764,
            -0.00015004600148283925,
            5.514872291354361e-05,
            -1.402313624050019e-05,
            3.1188222915413656e-06,
            -6.473394864403543e-07,
            1.3084611779720566e-07,
            -2.815954226996139e-08,
            7.943652682594557e-09,
            -3.22013657075634e-09,
            1.5089022177563344e-09,
            -7.932671570682405e-10,
            4.383268886175129e-10,
            -1.688367698465368e-10,
            2.8390217758693035e-11,
        ),
    ),
    (
        9.75,
        (
            9.639094572492631,
            1.0061480469653645,
            -0.0003639942700999843,
            1.9219511715187574e-05,
            -5.91302468046833e-07,
            -5.0811922051282624e-08,
            1.4508148571265229e-08,
            -2.2768215904192944e-09,
            3.0088640176159855e-10,
            -3.6544712327816204e-11,
            4.226125765273497e-12,
            -4.831894764582587e-13,
            5.3505164741058084e-14,
            -4.770350913611046e-15,
            4.666198339486762e-16,
            -1.0079369531376911e-16,
            1.1275884523814394e-17,
        ),
    ),
    (
        19.8,
        (
            19.72758180389284,
            1.0023863722132333,
            -8.852856289687915e-05,
            3.396687246267741e-06,
            -1.3093738176777084e-07,
            4.975207955038427e-09,
            -1.8248123780222665e-10,
            6.2450899487823404e-12,
            -1.8452231084450375e-13,
            3.5074646465335605e-15,
            8.500752595904867e-17,
            -1.7818736903431045e-17,
            1.5060446083280876e-18,
            -6.63718869148352e-20,
            3.772254860397887e-21,
            -6.81763742008369e-22,
            4.158427721767821e-23,
        ),
    ),
)


def _ratio(k: Any, w: Any) -> Any:
    """erfinv(x) / x from w = -log((1 - x) * (1 + x)). Beyond the last range it is the last's."""
    double = w.dtype is float64
    pieces, (first, *further) = (
        (_FLOAT64, _LIMITS["float64"]) if double else (_FLOAT32, _LIMITS["float32"])
    )
    root = k.sqrt(w)
    result = _polynomial(k, root, *pieces[-1])
    for piece, limit in zip(reversed(pieces[1:-1]), reversed(further), strict=True):
        result = k.where(root < limit, _polynomial(k, root, *piece), result)
    return k.where(w < first, _polynomial(k, w, *pieces[0]), result)


def _polynomial(k: Any, x: Any, centre: float, coefficients: tuple[float, ...]) -> Any:
    t = x - centre
    total = k.const(coefficients[-1], x.dtype)
    for c in reversed(coefficients[:-1]):
        total = k.fma(total, t, k.const(c, x.dtype))
    return total


def _erfinv(k: Any, x: Any) -> Any:
    near = x * _ratio(k, -k.log((1.0 - x) * (x + 1.0)))
    return k.where(k.abs(x).eq(1.0), x * math.inf, near)


def _normal_quantile(k: Any, p: Any) -> Any:
    z = p * 2.0 - 1.0
    near = z * _ratio(k, -k.log(p * 4.0 * (1.0 - p))) * SQRT2
    return k.where(p.eq(0.0) | p.eq(1.0), z * math.inf, near)


def _quantile_of(p: float) -> float:
    if 0.0 < p < 1.0:
        return NormalDist().inv_cdf(p)
    return -math.inf if p == 0.0 else math.inf if p == 1.0 else math.nan


def _erfinv_of(x: float) -> float:
    """Through the quantile of the smaller tail, exact near 1; near 0 one Newton step follows."""
    if not abs(x) <= 1.0:
        return math.nan
    found = -_quantile_of((1.0 - abs(x)) / 2.0) / SQRT2
    if abs(x) < 0.5:
        found -= (math.erf(found) - abs(x)) * HALF_SQRT_PI * math.exp(found * found)
    return math.copysign(found, x)


def _each(function: Any) -> Any:
    vectorised = np.vectorize(function, otypes=[np.float64])
    return lambda x: vectorised(x.astype(np.float64)).astype(x.dtype)


erfinv = elementwise(
    "erfinv",
    FLOATS,
    numpy=_each(_erfinv_of),
    scalar=_erfinv,
    grad=lambda g, x, y: g * (exp(square(y)) * HALF_SQRT_PI),
    samples=[
        sample(real(2, 3, low=-0.95, high=0.95)),
        sample(real(4, low=-1e-3, high=1e-3)),
        sample(
            np.array([0.99, -0.999, 0.9999, 1.0, -1.0, 0.0, 1.5, np.nan, 0.3, -0.6]), grad=False
        ),
        sample(real(0, 3)),
    ],
    doc="Inverse of the error function: erf(erfinv(x)) = x; infinite at -1 and 1, NaN beyond.",
)

normal_quantile = elementwise(
    "normal_quantile",
    FLOATS,
    numpy=_each(_quantile_of),
    scalar=_normal_quantile,
    grad=lambda g, p, y: g * (exp(square(y) * 0.5) * SQRT_TAU),
    samples=[
        sample(real(2, 3, low=0.05, high=0.95)),
        sample(np.array([1e-3, 1e-5, 1e-7, 0.5, 0.0, 1.0, -0.5, 1.5, np.nan, 0.999]), grad=False),
        sample(real(0, 3)),
    ],
    doc="Inverse of the standard normal distribution function, for probabilities p from 0 to 1.",
)
