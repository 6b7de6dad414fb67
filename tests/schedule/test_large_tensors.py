"""Tensors of more than 2**31 elements: offsets are 64-bit numbers, found without allocating any."""

from __future__ import annotations

import resource

import numpy as np
import pytest
from networks import plan

import niello as nl
from niello.backends import backend
from niello.core.dtypes import int64
from niello.core.errors import LimitExceeded
from niello.core.nodes import walk
from niello.core.types import TensorType
from niello.executable.compile import check_limits
from niello.kernel import ir
from niello.kernel.interpret import evaluate
from niello.kernel.ir import Kernel, Load, Range

ROWS, COLUMNS = 2, 2**31 + 8


def last_offsets(kernel: Kernel) -> tuple[list[int], list[int]]:
    """Where a kernel reads and writes at the last point of its ranges."""

    def at_last(index: ir.Expr) -> int:
        ranges = {n for n in walk([index]) if isinstance(n, Range)}
        last = {r: ir.const(r.extent - 1, int64) for r in ranges}
        return int(evaluate(ir.substitute(index, last), ()))

    loads = [n for n in walk(kernel.stores) if isinstance(n, Load)]
    for n in (*loads, *kernel.stores):
        assert n.index.dtype is int64
    return [at_last(n.index) for n in loads], [at_last(s.index) for s in kernel.stores]


def large(dtype: nl.DType = nl.uint8) -> tuple[nl.Graph, nl.Tensor, TensorType]:
    graph = nl.Graph()
    type = TensorType((ROWS, COLUMNS), dtype)
    return graph, graph.placeholder(type.shape, dtype), type


def test_elementwise_reaches_the_last_element() -> None:
    graph, x, type = large()
    (kernel,) = plan(graph, {x: type}, [x * 2]).program.kernels
    assert last_offsets(kernel) == ([ROWS * COLUMNS - 1], [ROWS * COLUMNS - 1])
    assert all(p.elements == ROWS * COLUMNS for p in kernel.params)


def test_movements_beyond_32_bits() -> None:
    graph, x, type = large()
    (kernel,) = plan(graph, {x: type}, [x.transpose((1, 0)) + 1]).program.kernels
    reads, writes = last_offsets(kernel)
    assert reads == writes == [ROWS * COLUMNS - 1]
    graph, x, type = large()
    (kernel,) = plan(graph, {x: type}, [x[1:2, 5:] + 1]).program.kernels
    reads, writes = last_offsets(kernel)
    assert reads == [2 * COLUMNS - 1] and writes == [COLUMNS - 6]


def test_reductions_beyond_32_bits() -> None:
    graph, x, type = large(nl.float32)
    found = plan(graph, {x: type}, [x.sum(axes=1)]).program
    reads = [offset for k in found.kernels for offset in last_offsets(k)[0]]
    assert max(reads) == ROWS * COLUMNS - 1


def test_storage_types_are_counted_in_bytes() -> None:
    graph, x, type = large(nl.int4)
    (kernel,) = plan(graph, {x: type}, [x.cast(nl.float16)]).program.kernels
    assert kernel.params[0].dtype is nl.uint8 and kernel.params[0].elements == ROWS * COLUMNS


def test_the_cpu_reads_beyond_32_bits() -> None:
    """Pages that nobody wrote take no memory: of four gigabytes, two pages are touched."""
    graph, x, type = large()
    y = x[1:, -4:] + 1
    executable = graph.compile({x: type}, [y], device="cpu")
    array = np.zeros((ROWS, COLUMNS), np.uint8)
    array[1:, -1] = 41
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = np.asarray(executable.run({x: array})[y])
    assert found.tolist() == [[1, 1, 1, 42]] * (ROWS - 1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_webgpu_refuses_what_its_buffers_cannot_hold() -> None:
    graph, x, type = large(nl.float32)
    program = plan(graph, {x: type}, [x * 2.0], device="webgpu").program
    with pytest.raises(LimitExceeded) as caught:
        check_limits(program, backend("webgpu"))
    assert str(np.prod([ROWS, COLUMNS]) * 4) in str(caught.value.received)
