"""What is particular to the reference device; the conformance tests hold the rest."""

from __future__ import annotations

import pytest

from niello import backends
from niello.core.errors import UnsupportedOp
from niello.runtime.commands import LibraryCall, Program
from niello.runtime.target import CompileOptions


def test_library_calls_are_refused() -> None:
    call = LibraryCall("vendor.gemm", (), (), ())
    program = Program((), (call,), (), (), (), (), 0)
    device = backends.device("numpy")
    arena = device.allocate(0)
    with pytest.raises(UnsupportedOp, match=r"vendor\.gemm"):
        device.compile(program, CompileOptions()).play([arena.handle])
