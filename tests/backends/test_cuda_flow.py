"""Branches and loops of CUDA graphs without a GPU: a stand-in for the driver runs the graphs.

It keeps graphs as lists of calls, runs them on host memory, and knows the back end's own kernels.
"""

from __future__ import annotations

import ctypes
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from niello.backends.cuda.program import CudaProgram
from niello.core.dtypes import float32, int32
from niello.core.types import TensorType
from niello.runtime.commands import (
    BufferRef,
    Command,
    Copy,
    Fill,
    If,
    Loop,
    Program,
    SliceCopy,
    Space,
)
from niello.runtime.target import CompileOptions

OK = SimpleNamespace(value=0)


class Graph:
    """Nodes in the order in which they were added, each with those that it comes after."""

    def __init__(self) -> None:
        self.nodes: list[tuple[Any, list[Any]]] = []

    def add(self, run: Any, after: list[Any]) -> Any:
        known = [n for n, _ in self.nodes]
        assert all(n in known for n in after), "a node comes after one of another graph"
        node = object()
        self.nodes.append((node, after))
        self.__dict__[id(node)] = run
        return node

    def play(self) -> None:
        for node, _ in self.nodes:
            self.__dict__[id(node)]()


class Stream:
    graph: Graph | None = None
    last: list[Any] | None = None

    def queue(self, run: Any) -> None:
        if self.graph is None:
            run()
        else:
            self.last = [self.graph.add(run, list(self.last or []))]


class Api:
    """The driver's functions that programs without kernels call."""

    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED=2)
    CUgraphNodeType = SimpleNamespace(CU_GRAPH_NODE_TYPE_CONDITIONAL=13)
    CUgraphConditionalNodeType = SimpleNamespace(
        CU_GRAPH_COND_TYPE_IF=0, CU_GRAPH_COND_TYPE_WHILE=1
    )

    def __init__(self) -> None:
        self.values: dict[int, int] = {}  # behind the handles
        self.owners: dict[int, Graph] = {}
        self.launched = 0

    # --- graphs
    def cuGraphCreate(self, flags: int) -> Any:
        return OK, Graph()

    def cuGraphDestroy(self, graph: Graph) -> Any:
        return (OK,)

    def cuGraphInstantiate(self, graph: Graph, flags: int) -> Any:
        return OK, graph

    def cuGraphLaunch(self, graph: Graph, stream: Stream) -> Any:
        self.launched += 1
        graph.play()
        return (OK,)

    def cuGraphExecDestroy(self, graph: Graph) -> Any:
        return (OK,)

    def cuStreamSynchronize(self, stream: Stream) -> Any:
        return (OK,)

    def cuStreamBeginCaptureToGraph(self, stream, graph, after, data, count, mode) -> Any:
        assert stream.graph is None and count == len(after)
        stream.graph, stream.last = graph, list(after)
        return (OK,)

    def cuStreamGetCaptureInfo(self, stream: Stream) -> Any:
        return OK, 1, 2, stream.graph, stream.last

    def cuStreamEndCapture(self, stream: Stream) -> Any:
        found, stream.graph = stream.graph, None
        return OK, found

    def cuGraphConditionalHandleCreate(self, graph: Graph, context, default, flags) -> Any:
        handle = len(self.values) + 1
        self.values[handle], self.owners[handle] = default, graph
        return OK, handle

    def CUgraphNodeParams(self) -> Any:
        return SimpleNamespace(type=None, conditional=SimpleNamespace(phGraph_out=[None]))

    def cuGraphAddNode(self, graph: Graph, after, data, count, params) -> Any:
        inside = Graph()
        handle, repeats = params.conditional.handle, params.conditional.type == 1
        assert self.owners[handle] is graph, "the handle belongs to another graph"
        params.conditional.phGraph_out = [inside]

        def run() -> None:
            while self.values[handle]:
                inside.play()
                if not repeats:
                    break

        return OK, graph.add(run, list(after))

    # --- memory
    def cuMemcpyDtoDAsync(self, target: int, source: int, size: int, stream: Stream) -> Any:
        stream.queue(lambda: ctypes.memmove(target, source, size))
        return (OK,)

    def cuMemsetD8Async(self, target: int, value: int, count: int, stream: Stream) -> Any:
        stream.queue(lambda: ctypes.memset(target, value, count))
        return (OK,)

    def cuMemsetD32Async(self, target: int, value: int, count: int, stream: Stream) -> Any:
        stream.queue(
            lambda: ctypes.memmove(target, (ctypes.c_uint32 * count)(*[value] * count), 4 * count)
        )
        return (OK,)

    # --- the back end's own kernels
    def cuLaunchKernel(self, function: str, *rest: Any) -> Any:
        stream, arguments = rest[7], rest[8]
        count = {"choose": 2, "refuse": 2, "begin": 4, "advance": 7, "slice": 6}[function]
        pointers = (ctypes.c_void_p * count).from_address(arguments)
        wide = [ctypes.c_int64.from_address(p).value for p in pointers]
        narrow = [ctypes.c_int32.from_address(p).value for p in pointers]
        stream.queue(lambda: getattr(self, f"_{function}")(wide, narrow))
        return (OK,)

    def _choose(self, wide: list[int], narrow: list[int]) -> None:
        self.values[wide[0]] = int(word_at(wide[1]) != 0)

    def _refuse(self, wide: list[int], narrow: list[int]) -> None:
        self.values[wide[0]] = int(word_at(wide[1]) == 0)

    def _begin(self, wide: list[int], narrow: list[int]) -> None:
        counter, count = wide[:2]
        set_word(counter, total(count, narrow[2]) if narrow[3] else -1)

    def _advance(self, wide: list[int], narrow: list[int]) -> None:
        handle, counter, count, condition, iterations = wide[:5]
        trips, reverse = narrow[5:]
        most = total(count, trips)
        following = word_at(counter) + (-1 if reverse else 1)
        more = 0 <= following < most and (not condition or word_at(condition) != 0)
        if more:
            set_word(counter, following)
        elif iterations:
            set_word(iterations, most - word_at(counter) if reverse else word_at(counter) + 1)
        self.values[handle] = int(more)

    def _slice(self, wide: list[int], narrow: list[int]) -> None:
        target, source, index, to, step, size = wide
        i = word_at(index)
        ctypes.memmove(target + to * i, source + step * i, size)


def word_at(address: int) -> int:
    return ctypes.c_int32.from_address(address).value


def set_word(address: int, value: int) -> None:
    ctypes.c_int32.from_address(address).value = value


def total(count: int, trips: int) -> int:
    return trips if not count else min(max(word_at(count), 0), trips)


class Driver:
    context = 0

    def __init__(self) -> None:
        self.api = Api()

    def check(self, name: str, answer: Any) -> Any:
        assert answer[0] is OK
        return answer[1] if len(answer) == 2 else answer[1:]

    def activate(self) -> None:
        pass


class Device:
    arch = "sm_90"

    def __init__(self) -> None:
        self.driver = Driver()
        self.lock = threading.RLock()
        self.stream, self._capture = Stream(), Stream()

    def settle(self) -> None:
        pass

    def capture_stream(self) -> Stream:
        return self._capture

    def function(self, source: str, entry: str) -> str:
        assert f"void {entry}(" in source
        return entry


ROW = 16
KIND = TensorType((8, 4), float32)
WORDS = TensorType((4,), int32)
INPUT = BufferRef(Space.INPUT, 0, 0, KIND.bytes)
OUTPUT = BufferRef(Space.OUTPUT, 0, 0, KIND.bytes)
COUNTER = BufferRef(Space.ARENA, 0, 0, 4)
SLICE = BufferRef(Space.ARENA, 0, 64, ROW)
TAKE = SliceCopy(INPUT, SLICE, COUNTER, ROW, 0)
GIVE = SliceCopy(SLICE, OUTPUT, COUNTER, 0, ROW)


def word(i: int) -> BufferRef:
    return BufferRef(Space.INPUT, 1, 4 * i, 4)


def played(words: list[int], *listed: Command) -> np.ndarray:
    device = Device()
    made = Program((), listed, (KIND, WORDS), (KIND,), (), (), 256)
    program = CudaProgram(device, made, CompileOptions())  # type: ignore[arg-type]
    x = np.arange(32, dtype=np.float32) + 1
    out = np.zeros(32, np.float32)
    buffers = [x, np.array(words, np.int32), out, np.zeros(256, np.uint8)]
    handles = [b.ctypes.data for b in buffers]
    program.play(handles)
    first = out.copy()
    out[:] = 0
    program.play(handles)
    assert device.driver.api.launched == 2
    assert np.array_equal(first, out)
    return out.reshape(8, 4)


ROWS = (np.arange(32, dtype=np.float32) + 1).reshape(8, 4)


@pytest.mark.parametrize("value", [0, 1, -1])
def test_branches(value: int) -> None:
    found = played([value, 0, 0, 0], If(word(0), (Copy(INPUT, OUTPUT),), (Fill(OUTPUT, b"\1"),)))
    expected = ROWS if value else np.full((8, 4), np.frombuffer(b"\1\1\1\1", np.float32)[0])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("trips", "count"), [(0, None), (5, None), (8, 3), (8, -1), (2, 7), (None, 6)]
)
def test_loops(trips: int | None, count: int | None, reverse: bool) -> None:
    ref = None if count is None else word(1)
    found = played([0, count or 0, 0, 0], Loop((TAKE, GIVE), COUNTER, trips, ref, reverse=reverse))
    runs = min(n for n in (trips, None if count is None else max(count, 0)) if n is not None)
    expected = np.where(np.arange(8)[:, None] < runs, ROWS, 0)
    assert np.array_equal(found, expected)


def test_condition_and_iterations() -> None:
    """The condition is a row of words that each iteration looks at: the third is zero."""
    state = BufferRef(Space.ARENA, 0, 128, 4)
    position = BufferRef(Space.ARENA, 0, 192, 4)
    last = BufferRef(Space.OUTPUT, 0, KIND.bytes - 4, 4)
    test = (SliceCopy(BufferRef(Space.INPUT, 1, 0, 16), state, position, 4, 0),)
    body = (TAKE, GIVE, Copy(COUNTER, position))
    # `position` lags by one: zero at first, then the number of the iteration before.
    loop = Loop(body, COUNTER, None, None, state, test, iterations=last)
    found = played([1, 1, 0, 1], Fill(position, bytes(1)), loop)
    assert np.array_equal(found[:3], ROWS[:3]) and not found[3:7].any()
    assert found[-1, -1:].view(np.int32)[0] == 3


def test_nested() -> None:
    """The inner loop runs as often as the outer counter says, except where a word forbids it."""
    inner = Loop((TAKE, GIVE), COUNTER, None, word(3))
    deep = If(word(0), (inner,), (Fill(OUTPUT, b"\0"),))
    other = BufferRef(Space.ARENA, 0, 192, 4)
    assert np.array_equal(played([1, 0, 0, 4], Loop((deep,), other, 2))[:4], ROWS[:4])
    assert not played([0, 0, 0, 4], Loop((deep,), other, 2)).any()


def test_a_run_under_a_predicate() -> None:
    device = Device()
    made = Program((), (Loop((TAKE, GIVE), COUNTER, 8),), (KIND, WORDS), (KIND,), (), (), 256)
    program = CudaProgram(device, made, CompileOptions())  # type: ignore[arg-type]
    out = np.zeros(32, np.float32)
    words = np.array([0, 1, 0, 0], np.int32)
    buffers = [ROWS.reshape(-1).copy(), words, out, np.zeros(256, np.uint8)]
    handles = [b.ctypes.data for b in buffers]
    program.play_if(handles, words.ctypes.data, 0)
    assert not out.any()
    program.play_if(handles, words.ctypes.data, 4)
    assert np.array_equal(out.reshape(8, 4), ROWS)
