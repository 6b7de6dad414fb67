"""The arena: what lives at one time shares no bytes, and small networks need no more than that."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Digits, plan

import niello as nl
from niello.runtime.commands import BufferRef, Copy, Dispatch, Fill, Program, Space
from niello.schedule.memory import ALIGNMENT, Lifetime, Waits, aligned, lower_bound, place


@st.composite
def lifetimes(draw: st.DrawFn) -> list[Lifetime]:
    found = []
    for key in range(draw(st.integers(0, 24))):
        first = draw(st.integers(0, 20))
        last = first + draw(st.integers(0, 12))
        size = draw(st.one_of(st.integers(0, 300), st.sampled_from([64, 4096, 1 << 20])))
        found.append(Lifetime(key, size, first, last))
    return found


@settings(max_examples=300, deadline=None)
@given(lifetimes())
def test_what_lives_at_one_time_never_overlaps(items: list[Lifetime]) -> None:
    offsets, total = place(items)
    assert set(offsets) == {t.key for t in items}
    for n, a in enumerate(items):
        assert offsets[a.key] % ALIGNMENT == 0
        assert offsets[a.key] + aligned(a.bytes) <= total
        for b in items[:n]:
            together = a.first <= b.last and b.first <= a.last
            ends = offsets[a.key] + a.bytes, offsets[b.key] + b.bytes
            if together and a.bytes and b.bytes:
                assert ends[0] <= offsets[b.key] or ends[1] <= offsets[a.key]
    assert total >= lower_bound(items)
    assert total <= sum(aligned(t.bytes) for t in items)


@settings(max_examples=100, deadline=None)
@given(lifetimes())
def test_lower_bound_is_the_fullest_step(items: list[Lifetime]) -> None:
    steps = range(34)
    fullest = max(
        (sum(aligned(t.bytes) for t in items if t.first <= s <= t.last) for s in steps), default=0
    )
    assert lower_bound(items) == fullest


def test_a_chain_needs_two_places() -> None:
    chain = [Lifetime(i, 1000, i, i + 1) for i in range(10)]
    _, total = place(chain)
    assert total == 2 * aligned(1000) == lower_bound(chain)


# --- whole programs
def written_before_read(program: Program) -> None:
    """Every piece of the arena holds what was last written there when it is read."""
    owner: dict[int, int] = {}  # 64-byte line of the arena -> command that wrote it
    for position, command in enumerate(program.commands):
        written = [r for r in command.writes if r.space is Space.ARENA and r.bytes]
        reads = [r for r in command.reads if r.space is Space.ARENA and r.bytes]
        for ref in reads:
            if ref in written:
                continue  # a dispatch lists what it writes among its buffers
            lines = {owner.get(line) for line in cells(ref)}
            assert len(lines) == 1, f"command {position} reads {ref}, part of it overwritten"
            assert None not in lines, f"command {position} reads {ref}, never written"
        for ref in written:
            for line in cells(ref):
                owner[line] = position


def cells(ref: BufferRef) -> range:
    return range(ref.offset // ALIGNMENT, -(-(ref.offset + ref.bytes) // ALIGNMENT))


def commands_do_not_tread_on_themselves(program: Program) -> None:
    """No command writes over another buffer that it reads or writes."""
    for command in program.commands:
        assert isinstance(command, (Dispatch, Copy, Fill))
        for w in command.writes:
            for other in (*command.reads, *command.writes):
                assert other == w or not other.overlaps(w), f"{command}: {other} and {w}"


@pytest.mark.parametrize("fuse", [True, False])
def test_training_step_of_the_digit_network(fuse: bool) -> None:
    network = Digits(side=12, channels=8, hidden=64)
    found = plan(network.graph, network.feeds(16), [network.loss], network.sgd(), fuse=fuse)
    written_before_read(found.program)
    commands_do_not_tread_on_themselves(found.program)
    if fuse:
        assert found.program.arena_bytes == found.arena_lower_bound


def test_arena_of_inference_is_two_activations() -> None:
    network = Digits(side=12, channels=8, hidden=64)
    found = plan(network.graph, {network.image: (16, 12, 12, 1)}, [network.logits])
    largest = 16 * 12 * 12 * 8 * 4 + 16 * 6 * 6 * 8 * 4  # first convolution and its pooling
    assert found.program.arena_bytes == found.arena_lower_bound <= largest


def test_deep_chain_of_matmuls_reuses_two_buffers() -> None:
    graph = nl.Graph()
    x = graph.placeholder((32, 32))
    w = graph.variable(np.eye(32, dtype=np.float32))
    y = x
    for _ in range(20):
        y = nl.matmul(y, w)
    found = plan(graph, {x: (32, 32)}, [y])
    assert found.program.arena_bytes == found.arena_lower_bound == 2 * 32 * 32 * 4


def test_residual_network_keeps_only_what_it_needs() -> None:
    graph = nl.Graph()
    x = graph.placeholder((64, 64))
    w = graph.variable(np.eye(64, dtype=np.float32))
    y = x
    for _ in range(8):
        y = y + nl.matmul(nl.matmul(y, w).relu(), w)
    found = plan(graph, {x: (64, 64)}, [y])
    assert found.program.arena_bytes == found.arena_lower_bound <= 3 * 64 * 64 * 4


def test_results_take_no_arena() -> None:
    graph = nl.Graph()
    x = graph.placeholder((64, 64))
    y = nl.matmul(x, x)
    found = plan(graph, {x: (64, 64)}, [y, nl.matmul(y, y)])
    assert found.program.arena_bytes == 0


def test_compiling_twice_gives_the_same_plan() -> None:
    def text() -> str:
        network = Digits(side=8, channels=4, hidden=16)
        shapes = network.feeds(4)
        executable = network.graph.compile(shapes, [network.loss], network.sgd(), device="null")
        return executable.as_text("schedule") + executable.as_text("kernels")

    assert text() == text()


def test_steps_that_may_run_at_once_share_no_memory() -> None:
    """0 feeds 1 and 2, which do not wait for each other; 3 reads both."""
    waits = Waits(
        [[], [0], [0], [1, 2], [3]],
        {"a": [0, 1, 2], "b": [1, 3], "c": [2, 3], "d": [3, 4], "e": [4]},
    )
    items = [Lifetime(k, 256, n, n + 1) for n, k in enumerate("abcd")] + [Lifetime("e", 256, 4, 4)]
    in_a_row, _ = place(items)
    assert in_a_row["c"] == in_a_row["a"]  # step 1 is over when step 2 begins
    offsets, total = place(items, together=waits.together)
    assert len({offsets[k] for k in "abc"}) == 3 and total == 3 * 256
    assert offsets["d"] == offsets["a"] and offsets["e"] in (offsets["b"], offsets["c"])


def test_independent_steps_of_a_program_have_memory_apart() -> None:
    """Beside a row of products, an optimiser's step: it waits for nothing but what it reads."""
    from dataclasses import replace

    from niello import backends
    from niello.passes.computation import Computation
    from niello.schedule.program import schedule

    graph = nl.Graph()
    x, y = graph.placeholder((64, 64)), graph.placeholder((16, 16))
    found = x
    for _ in range(4):
        found = nl.matmul(found, x)
    beside = nl.matmul(nl.matmul(y, y), y)
    asked = Computation(graph, (x, y), (found, beside), ())
    limits = replace(backends.backend("cuda").limits, apart_bytes=0)
    plain = schedule(asked, limits).program
    apart = schedule(asked, replace(limits, apart_bytes=1 << 20)).program
    tight = schedule(asked, replace(limits, apart_bytes=plain.arena_bytes)).program
    assert plain.arena_bytes < apart.arena_bytes <= plain.arena_bytes + 16 * 16 * 4
    assert tight.arena_bytes == plain.arena_bytes
    small = {r for c in apart.commands for r in c.writes if r.bytes == 16 * 16 * 4}
    large = {r for c in apart.commands for r in c.writes if r.bytes == 64 * 64 * 4}
    assert small and large and not any(a.overlaps(b) for a in small for b in large)
