"""Random routines: text, verifier and the CPU's code agree with the interpreter."""

from __future__ import annotations

import pytest
from cpu_kernels import check
from random_routines import random_case

from niello.kernel.text import parse_kernel, print_kernel
from niello.kernel.verify import verify


@pytest.mark.parametrize("seed", range(60))
def test_random_routine(seed: int) -> None:
    made = random_case(seed)
    verify(made.routine)
    assert parse_kernel(print_kernel(made.routine)) == made.routine
    check(made.routine, made.copies(), threads=(1, 3))
