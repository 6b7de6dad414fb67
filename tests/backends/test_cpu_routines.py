"""Routines compiled for the CPU against their interpretation."""

from __future__ import annotations

import pytest
from cpu_kernels import check
from routine_cases import Case, cases


@pytest.mark.parametrize("case", cases(), ids=lambda c: c.name)
def test_as_interpreted(case: Case) -> None:
    check(case.routine, case.copies(), tolerance=20)
