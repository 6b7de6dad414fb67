"""Operations that a library runs whole: which commands come of them, and what those say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from networks import commands

import niello as nl
from niello.backends import backend
from niello.core.errors import CompilerBug
from niello.core.types import TensorType
from niello.executable.package_values import decode, encode
from niello.passes import pipeline
from niello.passes.computation import Computation
from niello.runtime.commands import Command, Copy, Dispatch, LibraryCall, Loop, Program, walk
from niello.runtime.target import OperationClaim
from niello.schedule.claims import Claims
from niello.schedule.program import schedule

HALVES = frozenset((nl.float16, nl.bfloat16))
CLAIMS = (
    OperationClaim("attention", HALVES, "library.attention", strided=True),
    OperationClaim("attention_gradient", HALVES, "library.attention_gradient"),
)


def plan(
    graph: nl.Graph,
    feeds: Sequence[nl.Tensor],
    targets: Sequence[nl.Tensor],
    refusal: Callable[[LibraryCall], str] = lambda command: "",
) -> Program:
    """The program for a device whose library takes what it does not refuse."""
    claims = Claims((), refusal, operations=CLAIMS)
    types = [TensorType(t.type.static_shape, t.dtype) for t in feeds]
    passes = pipeline.optimising(types, keeps=claims.operations.runs)
    found = pipeline.run(passes, Computation(graph, tuple(feeds), tuple(targets)))
    return schedule(found, backend("null").limits, claims=claims).program


def operands(
    *shapes: tuple[int, ...], dtype: nl.DType = nl.bfloat16
) -> tuple[nl.Graph, list[nl.Tensor]]:
    graph = nl.Graph()
    return graph, [graph.placeholder(s, dtype) for s in shapes]


def only_call(program: Program) -> LibraryCall:
    (call,) = commands(program, LibraryCall)
    assert isinstance(call, LibraryCall)
    return call


def test_attention_is_one_command() -> None:
    graph, (q, k, v) = operands((4, 8, 16), (4, 12, 16), (4, 12, 24))
    y = nl.scaled_dot_product_attention(q, k, v, causal=True)
    program = plan(graph, [q, k, v], [y])
    assert [type(c) for c in program.commands] == [LibraryCall] and program.arena_bytes == 0
    call = only_call(program)
    settings = dict(call.attributes)
    assert settings["causal"] is True and settings["scale"] is None and settings["window"] is None
    assert settings["operands"] == (
        ("bfloat16", (4, 8, 16), (128, 16, 1), 0, None),
        ("bfloat16", (4, 12, 16), (192, 16, 1), 0, None),
        ("bfloat16", (4, 12, 24), (288, 24, 1), 0, None),
    )
    # Nobody reads the logarithms: they are not stored.
    assert settings["results"] == (
        ("bfloat16", (4, 8, 24), True),
        ("float32", (4, 8), False),
    )
    assert call.written == (False, False, False, True)


def test_other_element_types_are_decomposed() -> None:
    graph, (q, k, v) = operands(*[(2, 4, 8)] * 3, dtype=nl.float32)
    program = plan(graph, [q, k, v], [nl.scaled_dot_product_attention(q, k, v)])
    assert not commands(program, LibraryCall) and commands(program, Dispatch)


def test_what_the_library_refuses_is_decomposed() -> None:
    graph, (q, k, v) = operands(*[(2, 4, 8)] * 3)
    y = nl.scaled_dot_product_attention(q, k, v)
    program = plan(graph, [q, k, v], [y], lambda command: "not today")
    assert not commands(program, LibraryCall) and commands(program, Dispatch)


def test_views_are_read_in_place() -> None:
    """[batch, length, 3, heads, width] as a projection gives it."""
    graph, (x,) = operands((2, 8, 3, 4, 16))
    parts = [x[:, :, n].transpose((0, 2, 1, 3)) for n in range(3)]
    program = plan(graph, [x], [nl.scaled_dot_product_attention(*parts)])
    assert [type(c) for c in program.commands] == [LibraryCall]
    call = only_call(program)
    strides = (8 * 3 * 64, 16, 3 * 64, 1)
    assert dict(call.attributes)["operands"] == tuple(
        ("bfloat16", (2, 4, 8, 16), strides, 64 * n, None) for n in range(3)
    )
    assert len(set(call.buffers[:3])) == 1


def test_views_that_the_library_refuses_are_made() -> None:
    def refusal(command: LibraryCall) -> str:
        layouts = [strides for _, _, strides, *_ in dict(command.attributes)["operands"]]  # type: ignore[attr-defined]
        return "rows are contiguous" if any(s[-1] != 1 for s in layouts) else ""

    graph, (q, k, v) = operands((4, 16, 8), (4, 8, 16), (4, 8, 16))
    y = nl.scaled_dot_product_attention(q.swap_axes(-1, -2), k, v)
    program = plan(graph, [q, k, v], [y], refusal)
    assert [type(c) for c in program.commands] == [Dispatch, LibraryCall]
    assert dict(only_call(program).attributes)["operands"][0][2] == (128, 16, 1)  # type: ignore[index]


def test_computed_operands_are_stored_first() -> None:
    graph, (q, k, v) = operands(*[(2, 4, 8)] * 3)
    y = nl.scaled_dot_product_attention(q + 1.0, k, v) * 2.0
    program = plan(graph, [q, k, v], [y])
    assert [type(c) for c in program.commands] == [Dispatch, LibraryCall, Dispatch]


def test_gradients_are_calls_that_get_the_statistics() -> None:
    graph, (q, k, v, g) = operands(*[(2, 4, 8)] * 4)
    y = nl.scaled_dot_product_attention(q, k, v, causal=True)
    by = graph.gradients(nl.sum(y * g), [q, k]).values()
    program = plan(graph, [q, k, v, g], [y, *by])
    first, second = commands(program, LibraryCall)
    assert isinstance(first, LibraryCall) and isinstance(second, LibraryCall)
    assert dict(first.attributes)["results"][1] == ("float32", (2, 4), True)  # type: ignore[index]
    settings = dict(second.attributes)
    # The gradient of the logarithms is a zero that is nowhere; that of the value is not asked for.
    assert settings["operands"][1][4] == 0.0  # type: ignore[index]
    assert [r[2] for r in settings["results"]] == [True, True, False]  # type: ignore[attr-defined]
    assert second.written == (False,) * 6 + (True,) * 2
    assert first.buffers[-1] in second.buffers


def test_calls_inside_loops() -> None:
    graph, (q, k, v) = operands(*[(2, 4, 8)] * 3)
    (last,), _ = nl.scan(
        [], [q], lambda i, xs, c: ([nl.scaled_dot_product_attention(c[0], k, v)], []), length=3
    )
    program = plan(graph, [q, k, v], [last])
    (loop,) = commands(program, Loop)
    assert isinstance(loop, Loop)
    inner = [type(c) for c in loop.body if not isinstance(c, (Copy, Dispatch))]
    assert inner == [LibraryCall]
    assert sum(isinstance(c, LibraryCall) for c in walk(program.commands)) == 1


def test_calls_are_saved_in_packages() -> None:
    graph, (q, k, v) = operands((4, 8, 16), (4, 12, 16), (4, 12, 24))
    y = nl.scaled_dot_product_attention(q, k, v, causal=True, scale=0.25, window=(3, 0))
    program = plan(graph, [q, k, v], [y])
    kind = tuple[Command, ...]
    assert decode(encode(program.commands, kind), kind) == program.commands


def test_a_library_that_changes_its_mind_is_a_bug() -> None:
    graph, (q, k, v) = operands(*[(2, 4, 8)] * 3)
    y = nl.scaled_dot_product_attention(q, k, v)
    asked: list[LibraryCall] = []

    def refusal(command: LibraryCall) -> str:
        asked.append(command)
        return "later" if len(asked) > 6 else ""

    claims = Claims((), refusal, operations=CLAIMS)
    passes = pipeline.optimising([q.type, k.type, v.type], keeps=claims.operations.runs)
    found = pipeline.run(passes, Computation(graph, (q, k, v), (y,)))
    asked.extend(asked[:1] * 7)
    with pytest.raises(CompilerBug, match="promised"):
        schedule(found, backend("null").limits, claims=claims)


def test_the_cpu_decomposes() -> None:
    graph, (q, k, v) = operands(*[(2, 4, 8)] * 3)
    y = nl.scaled_dot_product_attention(q, k, v)
    exe = graph.compile({t: t.type for t in (q, k, v)}, [y], device="cpu")
    assert not commands(exe.program, LibraryCall)
    arrays = [np.ones((2, 4, 8), nl.bfloat16.numpy)] * 3
    assert np.asarray(exe.run(arrays)[0]).astype(np.float32).min() == 1.0


def mixed(policy: nl.precision.Autocast, refusal: str = "") -> Program:
    """A training step of attention in float32 under a policy."""
    graph, places = operands(*[(2, 4, 8)] * 4, dtype=nl.float32)
    y = nl.scaled_dot_product_attention(*places[:3], causal=True)
    by = graph.gradients(nl.sum(y * places[3]), places[:3])
    claims = Claims((), lambda command: refusal, operations=CLAIMS)
    passes = pipeline.optimising(
        [t.type for t in places], autocast=policy, keeps=claims.operations.runs
    )
    found = pipeline.run(passes, Computation(graph, tuple(places), (y, *by.values())))
    return schedule(found, backend("null").limits, claims=claims).program


def test_mixed_precision_runs_attention_whole() -> None:
    program = mixed(nl.precision.Autocast(nl.bfloat16))
    first, second = commands(program, LibraryCall)
    assert isinstance(first, LibraryCall) and isinstance(second, LibraryCall)
    assert [o[0] for o in dict(first.attributes)["operands"]] == ["bfloat16"] * 3  # type: ignore[attr-defined]
    kinds = [o[0] for o in dict(second.attributes)["operands"]]  # type: ignore[attr-defined]
    assert kinds == ["bfloat16", "float32", "bfloat16", "float32", *["bfloat16"] * 3]
    # The gradient reads the result as the first call wrote it, and what that read.
    assert first.buffers[3] in second.buffers and set(first.buffers[:3]) <= set(second.buffers)
    assert all(t.dtype is nl.float32 for t in program.outputs)


def test_mixed_precision_respects_the_policy_and_the_library() -> None:
    kept = mixed(nl.precision.Autocast(nl.bfloat16, ops={"attention": "keep"}))
    assert [c.function for c in commands(kept, LibraryCall)] == ["library.attention_gradient"]  # type: ignore[attr-defined]
    assert not commands(mixed(nl.precision.Autocast(nl.bfloat16), "no"), LibraryCall)


def test_an_operand_put_together_of_a_repeated_value_and_another() -> None:
    """Whether an operand repeats one value is asked while the stack is yet to be decomposed."""
    graph, (x, k, v) = operands((8, 16), (2, 12, 16), (2, 12, 16))
    zeros = graph.constant(0.0, nl.bfloat16).broadcast_to((8, 16))
    q = nl.stack([zeros, x], axis=0)
    program = plan(graph, [x, k, v], [nl.scaled_dot_product_attention(q, k, v)])
    first = dict(only_call(program).attributes)["operands"][0]
    assert first == ("bfloat16", (2, 8, 16), (128, 16, 1), 0, None)
