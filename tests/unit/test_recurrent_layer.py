"""Recurrent layers as one operation: what it stands for, and when a library may run it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import niello as nl
from niello.backends import backend
from niello.core.errors import NotDifferentiable
from niello.ops.recurrent_layer import GATES, RecurrentLayer
from niello.passes import pipeline
from niello.passes.computation import Computation
from niello.runtime.commands import Dispatch, LibraryCall, Loop
from niello.runtime.target import OperationClaim
from niello.schedule.claims import Claims
from niello.schedule.program import schedule

CLAIMS = (OperationClaim("recurrent_layer", frozenset((nl.float32,)), "library.layer"),)


def built(kind, targets, *shapes):
    """The program for a device whose library runs layers whose states alone are wanted."""
    graph = nl.Graph()
    places = [graph.placeholder(s) for s in shapes]

    def refusal(command: LibraryCall) -> str:
        wanted = [r[2] for r in dict(command.attributes)["results"]]
        return "cells" if any(wanted[1:]) else ""

    claims = Claims((), refusal, operations=CLAIMS)
    found = targets(graph, places, kind(*places))
    passes = pipeline.optimising([t.type for t in places], keeps=claims.operations.runs)
    source = pipeline.run(passes, Computation(graph, tuple(places), tuple(found)))
    return schedule(source, backend("null").limits, claims=claims).program


LSTM = ((5, 2, 3), (16, 4), (16, 3))


def test_states_alone_are_one_call() -> None:
    program = built(nl.lstm, lambda g, p, y: [y[0]], *LSTM)
    (call,) = program.commands
    assert isinstance(call, LibraryCall) and program.arena_bytes == 0
    settings = dict(call.attributes)
    assert settings["cell"] == "lstm" and settings["expanded"] is False
    assert [r[2] for r in settings["results"]] == [True, False]
    assert len(call.buffers) == 4


def test_the_last_state_is_a_view_of_the_call() -> None:
    program = built(nl.lstm, lambda g, p, y: [y[0][-1] * 2.0], *LSTM)
    assert [type(c) for c in program.commands] == [LibraryCall, Dispatch]


def test_what_the_library_refuses_is_the_loop() -> None:
    program = built(nl.lstm, lambda g, p, y: [*y], *LSTM)
    kinds = [type(c) for c in program.commands]
    assert LibraryCall not in kinds and Loop in kinds


def test_training_keeps_the_loop() -> None:
    def targets(graph, places, y):
        return [y[0], *graph.gradients(nl.sum(y[0] * y[0]), places).values()]

    kinds = [type(c) for c in built(nl.lstm, targets, *LSTM).commands]
    assert LibraryCall not in kinds and Loop in kinds


@pytest.mark.parametrize(
    "options",
    [
        {"reverse": True},
        {"activation": "relu"},
        {"forget_gate_last": True},
        {"mask": np.ones((2, 4), np.float32)},
        {"peephole": np.ones(16, np.float32)},
    ],
    ids=str,
)
def test_layers_that_libraries_do_not_know(options) -> None:
    program = built(lambda *p: nl.lstm(*p, **options), lambda g, p, y: [y[0]], *LSTM)
    assert LibraryCall not in [type(c) for c in program.commands]


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", GATES)
def test_the_layer_alone_is_its_loop(cell, both, more) -> None:
    """`reference` against `decompose`, which is the function that users call."""
    gates, d = GATES[cell], 2 if both else 1
    shapes = {
        "source": (6, 3, 5),
        "recurrent": (2, gates * 4, 4) if both else (gates * 4, 4),
        "weight": (d * gates * 4, 5),
    }
    if more:
        shapes |= {"bias": (d * gates * 4,), "initial_state": (3, d * 4)}
        shapes |= {"initial_cell": (3, d * 4)} if cell == "lstm" else {}
        shapes |= {"secondary_bias": (d * 4,)} if cell == "gru" else {}
    given = tuple(shapes)[3:]
    op = RecurrentLayer(cell, given, both, more, False)
    graph = nl.Graph()
    places = [graph.placeholder(s, nl.float64) for s in shapes.values()]
    made = graph.add(op, places).outputs
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(s) for s in shapes.values()]
    types = {t: t.type for t in places}
    found = graph.compile(types, [*made], device="cpu").run(values)
    for f, w in zip(found, op.reference_all(*values), strict=True):
        assert f.type.shape == w.shape and np.allclose(np.asarray(f), w, atol=1e-12)
    with pytest.raises(NotDifferentiable):
        graph.gradients(nl.sum(made[0]), places)
    assert dataclasses.replace(op, expanded=True).bare() == (op, 2 if cell == "lstm" else 1)
