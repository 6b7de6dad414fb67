"""Joining tensors along an axis, and taking them apart: concat, split, stack, unstack."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import numpy as np

from niello.core.errors import AttributeValueError, DTypeError, ShapeError
from niello.core.records import frozen
from niello.core.shapes import Dim, show
from niello.core.types import TensorType
from niello.graph.opdef import Sample, Trait, function, plain_function, real, register, sample
from niello.graph.tensor import Tensor
from niello.kernel.build import Builder, Index, Value
from niello.kernel.ir import Expr
from niello.ops.define import operands
from niello.ops.movement import (
    LikeOp,
    Movement,
    apply,
    integer,
    integers,
    known_axis,
    tensor_of,
    zeros_like,
)


def _present(gradients: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of all outputs: zeros for those that nothing depends on."""
    return [zeros_like(o) if g is None else g for g, o in zip(gradients, outputs, strict=True)]


def _same_dtype(asked: str, types: Sequence[TensorType]) -> None:
    if not types:
        raise ShapeError(
            asked,
            "there is nothing to join",
            received="no tensors",
            advice="Give at least one tensor",
        )
    if any(t.dtype is not types[0].dtype for t in types):
        raise DTypeError(
            asked,
            "the tensors have different element types",
            received=", ".join(t.dtype.name for t in types),
            advice="Cast them to one type first",
        )


@register
@frozen
class Concat(Movement):
    axis: int
    name: ClassVar[str] = "concat"
    traits: ClassVar[Trait] = Trait.MOVEMENT | Trait.MANY_SOURCES
    doc: ClassVar[str] = "The inputs one after the other along an axis. As NumPy concatenate."

    def infer(self, *inputs: TensorType) -> TensorType:
        _same_dtype(self.name, inputs)
        shapes = [t.shape for t in inputs if t.shape is not None]
        if not shapes:
            return inputs[0]
        rank = len(shapes[0])
        axis = known_axis(self.name, self.axis, rank)
        sizes: list[Dim] = [None] * rank
        for shape in shapes:
            for i, d in enumerate(shape if len(shape) == rank else ()):
                sizes[i] = d if sizes[i] is None else sizes[i]
        for shape in shapes:
            if len(shape) != rank or any(
                i != axis and None not in (d, sizes[i]) and d != sizes[i]
                for i, d in enumerate(shape)
            ):
                raise ShapeError(
                    self.name,
                    "the shapes differ in more than the axis that is joined",
                    received=" and ".join(show(s) for s in shapes),
                    advice=f"Only axis {axis} may differ",
                    axis=axis,
                    shapes=tuple(shapes),
                )
        parts = [s[axis] for s in shapes]
        unknown = None in parts or len(shapes) < len(inputs)
        sizes[axis] = None if unknown else sum(p for p in parts if p is not None)
        return TensorType(sizes, inputs[0].dtype)

    def reference(self, *arrays: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays, axis=self.axis)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        g = gradients[0]
        rank = next((t.rank for t in inputs if t.rank is not None), None)
        axis = known_axis(self.name, self.axis, rank)
        sizes = [None if t.shape is None else t.shape[axis] for t in inputs]
        if None not in sizes:
            ends = list(accumulate(s for s in sizes if s is not None))
            return [g.slice([a], [b], axes=[axis]) for a, b in pairwise([0, *ends])]
        found = g.graph.apply(SplitLike(axis), g, *inputs)
        return found if isinstance(found, tuple) else (found,)

    def canonical(self, *inputs: Tensor) -> Tensor | None:
        axis = known_axis(self.name, self.axis, inputs[0].rank)
        full = [t for t in inputs if t.type.static_shape[axis] != 0] or [inputs[0]]
        if len(full) == 1:
            return full[0]
        if len(full) == len(inputs) and axis == self.axis:
            return None
        return apply(Concat(axis), *full)

    def lower(self, k: Builder, output: int, index: Index, *inputs: Value) -> Expr:
        axis = known_axis(self.name, self.axis, len(index))
        ends = list(accumulate(x.shape[axis] for x in inputs))
        position = index[axis]
        pieces = [
            (x, start, end)
            for x, (start, end) in zip(inputs, pairwise([0, *ends]), strict=True)
            if end > start
        ] or [(inputs[0], 0, 0)]
        value: Expr | None = None
        for x, start, end in reversed(pieces):
            inside = []
            if start:
                inside.append(position >= start)
            if end < ends[-1]:
                inside.append(position < end)
            with k.gate(k.all_of(*inside)):
                piece = x(*index[:axis], position - start, *index[axis + 1 :])
            value = piece if value is None else k.where(position < end, piece, value)
        assert value is not None
        return value

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 3), real(2, 2), axis=1),
            sample(real(2, 3), real(1, 3), real(4, 3), axis=0),
            sample(real(2, 3), real(2, 0), real(2, 1), axis=-1),
            sample(real(0, 2), real(0, 3), axis=1),
            sample(real(3), axis=0),
        ]


@plain_function
def concat(
    tensors: Sequence[Any], axis: int = 0, *, interleave: bool = False, name: str | None = None
) -> Tensor:
    """The tensors one after the other along `axis`; all other sizes must agree.

    With `interleave`, all sizes must agree, and their elements alternate along the axis: first all
    first ones, then all second ones. Element types promote.

    Raises ShapeError when shapes do not fit or a tensor is a scalar. As NumPy's concatenate and
    ONNX's Concat.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.concat([g.placeholder((2, 3)), g.placeholder((2, None))], axis=1).shape
        (2, None)
    """
    listed = operands("concat", *tensors)
    rank = next((t.rank for t in listed if t.rank is not None), None)
    where = known_axis("concat", axis, rank)
    if interleave:
        after = where + 1 if where >= 0 else where
        apart = stack(listed, after)
        return apart.flatten_axes(after - 1, after, name=name)  # type: ignore[no-any-return]
    return apply(Concat(where), *listed, name=name)


@register
@frozen
class SplitLike(LikeOp):
    """The gradient of concat while sizes are unknown."""

    axis: int
    name: ClassVar[str] = "split_like"
    doc: ClassVar[str] = (
        "The first input cut along an axis into parts with the shapes of the other inputs, whose "
        "values are not used."
    )

    def infer(self, x: TensorType, *like: TensorType) -> tuple[TensorType, ...]:
        return tuple(TensorType(t.shape, x.dtype) for t in like)

    def reference(self, x: np.ndarray, *like: np.ndarray) -> tuple[np.ndarray, ...]:
        ends = list(accumulate(a.shape[self.axis] for a in like))
        return tuple(np.split(x, ends[:-1], axis=self.axis))

    def grad(
        self,
        gradients: Sequence[Tensor | None],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> Sequence[Tensor | None]:
        back = apply(Concat(self.axis), *_present(gradients, outputs))
        return [back, *[None] * len(outputs)]

    def decompose(self, x: Tensor, *like: Tensor) -> tuple[Tensor, ...]:
        axis = known_axis(self.name, self.axis, x.rank)
        return _cut(x, [t.type.static_shape[axis] for t in like], axis)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 5), real(2, 3), real(2, 2), axis=1),
            sample(real(3), real(3), axis=-1),
            sample(real(4, 2), real(0, 2), real(4, 2), axis=0),
        ]


def _cut(x: Tensor, sizes: Sequence[int], axis: int) -> tuple[Tensor, ...]:
    bounds = pairwise(accumulate(sizes, initial=0))
    return tuple(x.slice([a], [b], axes=[axis]) for a, b in bounds)


@register
@frozen
class Split(Movement):
    sizes: tuple[int, ...]  # at most one -1; or, when `equal`, all of them -1
    axis: int
    equal: bool
    name: ClassVar[str] = "split"
    doc: ClassVar[str] = (
        "The tensor cut along an axis into parts of given sizes (one may be -1), or into equal "
        "ones. As NumPy split."
    )

    def parts(self, total: int) -> list[int]:
        """The size of each part of an axis of size `total`."""
        count = len(self.sizes)
        if self.equal:
            if total % count:
                self._refuse(f"size {total} does not divide into {count} equal parts", total)
            return [total // count] * count
        rest = total - sum(s for s in self.sizes if s != -1)
        if rest < 0 or (rest and -1 not in self.sizes):
            self._refuse(f"the parts do not add up to size {total}", total)
        return [rest if s == -1 else s for s in self.sizes]

    def _refuse(self, problem: str, total: int) -> None:
        raise ShapeError(
            self.name,
            problem,
            received=f"{len(self.sizes)} parts, {list(self.sizes)}",
            advice="The parts must add up to the size of the axis",
            axis=self.axis,
            size=total,
        )

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        if x.shape is None:
            return (x,) * len(self.sizes)
        axis = known_axis(self.name, self.axis, len(x.shape))
        total = x.shape[axis]
        sizes: Sequence[Dim] = (
            [None if s == -1 else s for s in self.sizes] if total is None else self.parts(total)
        )
        return tuple(TensorType((*x.shape[:axis], s, *x.shape[axis + 1 :]), x.dtype) for s in sizes)

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        ends = list(accumulate(self.parts(x.shape[self.axis])))
        return tuple(np.split(x, ends[:-1], axis=self.axis))

    def grad(
        self,
        gradients: Sequence[Tensor | None],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> Sequence[Tensor | None]:
        return [apply(Concat(self.axis), *_present(gradients, outputs))]

    def decompose(self, x: Tensor) -> tuple[Tensor, ...]:
        axis = known_axis(self.name, self.axis, x.rank)
        return _cut(x, self.parts(x.type.static_shape[axis]), axis)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 6), sizes=(-1, -1, -1), axis=1, equal=True),
            sample(real(2, 6), sizes=(1, 2, 3), axis=-1, equal=False),
            sample(real(4, 2), sizes=(1, -1, 1), axis=0, equal=False),
            sample(real(4, 2), sizes=(0, 4), axis=0, equal=False),
            sample(real(0, 2), sizes=(-1, -1), axis=0, equal=True),
        ]


@function
def split(x: Tensor, parts: Any, axis: int = 0, *, name: str | None = None) -> list[Tensor]:
    """`x` cut along `axis`: into `parts` equal parts, or into parts of the listed sizes.

    One listed size may be -1: it takes what is left. Raises ShapeError when the parts do not add
    up to the size of the axis. As NumPy's split (sizes instead of positions) and ONNX's Split.

    Example:
        >>> import niello as nl
        >>> [t.shape for t in nl.split(nl.Graph().placeholder((2, 6)), [1, -1], axis=1)]
        [(2, 1), (2, 5)]
    """
    where = known_axis("split", axis, tensor_of("split", x).rank)
    equal = not isinstance(parts, Sequence)
    if equal:
        count = integer("split", parts, "the number of parts")
        if count < 1:
            raise AttributeValueError("split", "there must be at least one part", received=count)
        sizes = (-1,) * count
    else:
        sizes = integers("split", parts, "a size")
        if not sizes or any(s < -1 for s in sizes) or sizes.count(-1) > 1:
            raise AttributeValueError(
                "split", "sizes must not be negative, except for one -1", received=list(sizes)
            )
    found = x.graph.apply(Split(sizes, where, equal), x, name=name)
    return list(found) if isinstance(found, tuple) else [found]


@register
@frozen
class Stack(Movement):
    axis: int  # of the result
    name: ClassVar[str] = "stack"
    doc: ClassVar[str] = "The inputs, all of one shape, side by side along a new axis. As NumPy."

    def infer(self, *inputs: TensorType) -> TensorType:
        _same_dtype(self.name, inputs)
        shapes = [t.shape for t in inputs if t.shape is not None]
        if not shapes:
            return inputs[0]
        merged = list(shapes[0])
        for shape in shapes[1:]:
            if len(shape) != len(merged) or any(
                None not in (a, b) and a != b for a, b in zip(shape, merged, strict=True)
            ):
                raise ShapeError(
                    self.name,
                    "the tensors differ in shape",
                    received=" and ".join(show(s) for s in shapes),
                    advice="Use concat for sizes that differ",
                    shapes=tuple(shapes),
                )
            merged = [b if a is None else a for a, b in zip(merged, shape, strict=True)]
        axis = known_axis(self.name, self.axis, len(merged) + 1)
        return TensorType((*merged[:axis], len(inputs), *merged[axis:]), inputs[0].dtype)

    def reference(self, *arrays: np.ndarray) -> np.ndarray:
        return np.stack(arrays, axis=self.axis)

    def grad(
        self, gradients: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        found = gradients[0].graph.apply(Unstack(self.axis, len(inputs)), gradients[0])
        return found if isinstance(found, tuple) else (found,)

    def decompose(self, *inputs: Tensor) -> Tensor:
        axis = known_axis(self.name, self.axis, len(inputs[0].type.static_shape) + 1)
        return concat([x.expand_dims(axis) for x in inputs], axis)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 3), real(2, 3), axis=0),
            sample(real(2, 3), real(2, 3), real(2, 3), axis=-1),
            sample(real(), real(), axis=0),
            sample(real(0, 3), real(0, 3), axis=1),
        ]


@plain_function
def stack(tensors: Sequence[Any], axis: int = 0, *, name: str | None = None) -> Tensor:
    """The tensors, all of one shape, side by side along the new axis `axis` of the result.

    Element types promote. Raises ShapeError when the shapes differ. As NumPy's stack.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.stack([g.placeholder((2, 3)), g.placeholder((2, 3))], axis=1).shape
        (2, 2, 3)
    """
    listed = operands("stack", *tensors)
    rank = next((t.rank for t in listed if t.rank is not None), None)
    where = known_axis("stack", axis, None if rank is None else rank + 1)
    return apply(Stack(where), *listed, name=name)


@register
@frozen
class Unstack(Movement):
    axis: int
    number: int
    name: ClassVar[str] = "unstack"
    doc: ClassVar[str] = "The slices of a tensor along an axis, which goes. The inverse of stack."

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        if x.shape is None:
            return (x,) * self.number
        axis = known_axis(self.name, self.axis, len(x.shape))
        if x.shape[axis] not in (None, self.number):
            raise ShapeError(
                self.name,
                f"axis {axis} does not have {self.number} slices",
                received=show(x.shape),
                axis=axis,
            )
        return (TensorType((*x.shape[:axis], *x.shape[axis + 1 :]), x.dtype),) * self.number

    def reference(self, x: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(np.moveaxis(x, self.axis, 0))

    def grad(
        self,
        gradients: Sequence[Tensor | None],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> Sequence[Tensor | None]:
        if not outputs:
            return [None]
        return [apply(Stack(self.axis), *_present(gradients, outputs))]

    def decompose(self, x: Tensor) -> tuple[Tensor, ...]:
        axis = known_axis(self.name, self.axis, x.rank)
        rest = [d for i, d in enumerate(x.type.static_shape) if i != axis]
        return tuple(part.reshape(rest) for part in _cut(x, [1] * self.number, axis))

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        return [
            sample(real(2, 3), axis=0, number=2),
            sample(real(2, 3), axis=-1, number=3),
            sample(real(2), axis=0, number=2),
        ]


@function
def unstack(
    x: Tensor, axis: int = 0, *, number: int | None = None, name: str | None = None
) -> list[Tensor]:
    """The slices of `x` along `axis`, which goes: the inverse of `stack`.

    `number` says how many there are where the size is unknown. Raises ShapeError when it is needed
    and absent, or wrong.

    Example:
        >>> import niello as nl
        >>> [t.shape for t in nl.unstack(nl.Graph().placeholder((2, 3)))]
        [(3,), (3,)]
    """
    where = known_axis("unstack", axis, tensor_of("unstack", x).rank)
    count = number if number is not None or x.shape is None else x.shape[where]
    if count is None:
        raise ShapeError(
            "unstack",
            "the size of the axis is unknown",
            received=show(x.shape),
            advice="Say how many slices there are with number=",
            axis=axis,
        )
    found = x.graph.apply(
        Unstack(where, integer("unstack", count, "the number of slices")), x, name=name
    )
    return list(found) if isinstance(found, tuple) else [found]
