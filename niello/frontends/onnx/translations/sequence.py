"""Sequences and optionals: lists that exist while the model is imported."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.onnx.call import Call
from niello.frontends.onnx.registry import translates
from niello.frontends.onnx.values import EMPTY, EmptyOptional, Value


@translates("SequenceConstruct", fold=False)
def construct(at: Call) -> Value:
    """A sequence of the inputs."""
    return list(at.inputs)


@translates("SequenceEmpty", fold=False)
def empty(at: Call) -> Value:
    """A sequence of nothing."""
    return []


def _place(at: Call, sequence: list[Any], i: int) -> int:
    position = at.known_ints(i)[0]
    count = len(sequence)
    if not -count <= position <= count:
        raise at.refuse("the position is outside of the sequence", f"{position} of {count}")
    return position


@translates("SequenceAt", fold=False)
def at_position(at: Call) -> Value:
    """One element."""
    sequence = at.sequence(0)
    position = _place(at, sequence, 1)
    if position == len(sequence):
        raise at.refuse("the position is outside of the sequence", position)
    return sequence[position]  # type: ignore[no-any-return]


@translates("SequenceInsert", fold=False)
def insert(at: Call) -> Value:
    """The sequence with an element more, at the end unless a position is given."""
    sequence = list(at.sequence(0))
    sequence.insert(_place(at, sequence, 2) if at.has(2) else len(sequence), at.value(1))
    return sequence


@translates("SequenceErase", fold=False)
def erase(at: Call) -> Value:
    """The sequence without an element, the last unless a position is given."""
    sequence = list(at.sequence(0))
    del sequence[_place(at, sequence, 1) if at.has(1) else -1]
    return sequence


@translates("SequenceLength", fold=False)
def length(at: Call) -> Value:
    """The number of elements."""
    return np.array(len(at.sequence(0)), np.int64)


@translates("SplitToSequence", fold=False)
def split_to_sequence(at: Call) -> Value:
    """Parts along an axis as a sequence; single slices, without the axis if asked."""
    x, axis = at.tensor(0), at.integer("axis", 0)
    size = at.shape(0)[axis]
    if not at.has(1):
        parts = nl.split(x, [1] * size, axis)
        return parts if at.integer("keepdims", 1) else [nl.squeeze(p, axis) for p in parts]
    wanted = at.array(1)
    if wanted.ndim == 0:
        each = int(wanted)
        sizes = [each] * (size // each) + ([size % each] if size % each else [])
    else:
        sizes = [int(s) for s in wanted]
    return list(nl.split(x, sizes, axis))


@translates("ConcatFromSequence", fold=False)
def concat_from_sequence(at: Call) -> nl.Tensor:
    """The elements one after the other, or side by side along a new axis."""
    tensors = [at.importer.tensor(v, at) for v in at.sequence(0)]
    axis = at.integer("axis")
    return nl.stack(tensors, axis) if at.integer("new_axis", 0) else nl.concat(tensors, axis)


@translates("SequenceMap", fold=False)
def sequence_map(at: Call) -> tuple[Value, ...]:
    """A body applied to each element of a sequence; other inputs are the same each time."""
    sequence = at.sequence(0)
    made: list[list[Value]] = [[] for _ in at.outputs]
    for i in range(len(sequence)):
        given = [v[i] if isinstance(v, list) else v for v in at.inputs]
        for into, value in zip(
            made, at.importer.subgraph(at.body("body"), at.scope, given), strict=True
        ):
            into.append(value)
    return tuple(made)


@translates("Optional", fold=False)
def optional(at: Call) -> Value:
    """An optional that holds the input, or nothing."""
    return at.value(0) if at.has(0) else EMPTY


@translates("OptionalHasElement", fold=False)
def has_element(at: Call) -> Value:
    """Whether an optional holds something; a tensor or sequence does."""
    return np.array(at.has(0) and not isinstance(at.inputs[0], EmptyOptional))


@translates("OptionalGetElement", fold=False)
def get_element(at: Call) -> Value:
    """What an optional holds."""
    found = at.value(0)
    if isinstance(found, EmptyOptional):
        raise at.refuse("the optional holds nothing")
    return found
