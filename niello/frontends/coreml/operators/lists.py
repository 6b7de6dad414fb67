"""Lists of tensors of one shape: held as one tensor with a first axis more."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

import niello as nl
from niello.frontends.coreml.blobs import dims, numpy_dtype, type_name
from niello.frontends.coreml.builder import Unknown, Value
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator


@dataclass(frozen=True)
class ListValue:
    """A list: `items` [length, ...], None until the sizes of its elements are known.

    A list that may grow does so where the place that is written is known while importing.
    """

    items: nl.Tensor | None
    length: int
    grows: bool
    dtype: nl.DType

    def grown(self, at: Op, length: int, shape: tuple[int, ...]) -> nl.Tensor:
        """The elements, with zeros where there were none, of at least a length."""
        new = (length if self.items is None else length - self.length, *shape)
        if new[0] <= 0 and self.items is not None:
            return self.items
        zeros = at.graph.constant(np.zeros((), self.dtype.numpy), shape=(max(0, new[0]), *shape))
        return zeros if self.items is None else nl.concat([self.items, zeros], 0)


def _list(at: Op) -> ListValue:
    found = at.value("ls")
    if not isinstance(found, ListValue):
        raise at.refuse("its input 'ls' is a list", repr(found), "The file is not a valid model")
    return found


def _items(at: Op) -> nl.Tensor:
    found = _list(at)
    if found.items is None:
        raise at.refuse("reads a list that nothing was written to", f"{found.length} elements")
    return found.items


@operator("make_list", fold=False)
def make_list(at: Op) -> ListValue:
    """A list of so many elements."""
    declared = at.message.outputs[0].type.listType.type.tensorType
    dtype = nl.TensorType((), numpy_dtype(type_name(declared))).dtype
    length, grows = at.integer("init_length", 1), at.flag("dynamic_length", True)
    made = ListValue(None, length, grows, dtype)
    shape = dims(declared)
    if None in shape:
        return made
    return replace(made, items=made.grown(at, length, tuple(d for d in shape if d is not None)))


@operator("list_length", fold=False)
def list_length(at: Op) -> np.ndarray:
    """How many elements the list has."""
    return np.array(_list(at).length, np.int32)


def _written(at: Op, places: Value, values: nl.Tensor) -> ListValue:
    """The list with values [n, ...] at places [n]."""
    held = _list(at)
    length = held.length
    try:
        known = at.builder.array(places)
    except Unknown:
        if held.grows:
            raise at.refuse(
                "writes a list that may grow at a place that depends on what is fed",
                at.name,
                "Make the list of a fixed length: make_list(..., dynamic_length=False)",
            ) from None
    else:
        least, last = (int(known.min()), int(known.max())) if known.size else (0, -1)
        if least < 0 or (last >= length and not held.grows):
            raise at.refuse(f"the list has {length} elements", f"place {known.tolist()}")
        length = max(length, last + 1)
    items = held.grown(at, length, at.sizes(values)[1:])
    where = nl.cast(at.builder.tensor(places), nl.int32)
    written = nl.scatter(items, where, nl.cast(values, items.dtype), 0, mode="set")
    return replace(held, items=written, length=length)


@operator("list_write", fold=False)
def list_write(at: Op) -> ListValue:
    """The list with another element at a place."""
    index = at.value("index")
    place = index.reshape(1) if isinstance(index, np.ndarray) else nl.reshape(index, (1,))
    return _written(at, place, nl.expand_dims(at.tensor("value"), 0))


@operator("list_scatter", fold=False)
def list_scatter(at: Op) -> ListValue:
    """The list with other elements at some places."""
    return _written(at, at.value("indices"), at.tensor("value"))


@operator("list_read", fold=False)
def list_read(at: Op) -> nl.Tensor:
    """The element at a place."""
    index = nl.reshape(nl.cast(at.tensor("index"), nl.int32), ())
    return nl.gather(_items(at), index, 0)


@operator("list_gather", fold=False)
def list_gather(at: Op) -> nl.Tensor:
    """The elements at some places, as one tensor."""
    return nl.gather(_items(at), nl.cast(at.tensor("indices"), nl.int32), 0)
