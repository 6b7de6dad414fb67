"""Random kernels compiled for the CPU against the interpreter, with guards around every buffer."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_kernels import TARGETS, Compiled, aligned
from cpu_random_kernels import RandomKernel

from niello.kernel.interpret import interpret
from niello.kernel.simplify import simplify

GUARD = 0xEE
LIMITS = {"float32": 3e-4, "float16": 4e-3, "bfloat16": 2e-2}


@pytest.mark.parametrize("seed", range(150))
def test_random_kernel(seed: int) -> None:
    made = RandomKernel(seed)
    kernel = made.kernel()
    if seed % 3:
        kernel = simplify(kernel)
    arrays = made.arrays()
    expected = [a.copy() for a in arrays]
    with np.errstate(all="ignore"):
        interpret(kernel, expected)
    for target in TARGETS if seed % 5 == 0 else ("host",):
        compiled = Compiled(kernel, target)
        for threads in (1, 3):
            rooms = []
            for a in arrays:
                room = aligned(a.size + 64, a.dtype)
                room[: a.size] = a
                room.view(np.uint8)[a.nbytes :] = GUARD
                rooms.append(room)
            compiled(rooms, threads)
            for room, e, p in zip(rooms, expected, kernel.params, strict=True):
                assert (room.view(np.uint8)[e.nbytes :] == GUARD).all()
                limit = LIMITS.get(p.dtype.name)
                found, wanted = room[: e.size].astype(np.float64), e.astype(np.float64)
                np.testing.assert_allclose(
                    found, wanted, rtol=limit or 0, atol=limit or 0, err_msg=f"{target} {p.slot}"
                )
