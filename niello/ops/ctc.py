"""Connectionist temporal classification (Graves, Fernandez, Gomez and Schmidhuber, ICML 2006).

The loss of a sequence is minus the logarithm of the probability of all alignments of its targets,
with blanks between them, to its time steps. A team walks through the time of one sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from niello.core.dtypes import FLOATS, DType, compute_dtype, int32
from niello.core.errors import AttributeValueError, ShapeError
from niello.core.records import frozen
from niello.core.types import TensorType
from niello.graph.opdef import (
    Op,
    Sample,
    Trait,
    functions,
    not_differentiable,
    plain_function,
    real,
    register,
    sample,
)
from niello.graph.tensor import Tensor
from niello.kernel.routine_build import Place, RoutineBuilder
from niello.ops.define import cast_to, check_dtype, graph_of
from niello.ops.movement import apply

Array = np.ndarray
NONE = -math.inf


class CTC(Op):
    """Base. Inputs: logarithms of probabilities [time, batch, classes], targets [batch, length],
    and the lengths of both for each sequence, all int32."""

    blank: int
    traits: ClassVar[Trait] = Trait.EXPENSIVE
    dtypes: ClassVar[tuple[DType, ...]] = FLOATS

    def checked(self, *types: TensorType) -> TensorType:
        """The type of the losses."""
        check_dtype(self.name, types[0].dtype, self.dtypes)
        for t in types[1:]:
            check_dtype(self.name, t.dtype, (int32,))
        ranks = (3, 2, 1, 1)
        for t, rank in zip(types, ranks, strict=True):
            if t.shape is not None and len(t.shape) != rank:
                raise ShapeError(
                    self.name,
                    "takes [time, batch, classes], [batch, length], [batch] and [batch]",
                    received=", ".join(str(x) for x in types),
                )
        batches = [t.shape[1 if i == 0 else 0] for i, t in enumerate(types) if t.shape is not None]
        known = {b for b in batches if b is not None}
        if len(known) > 1:
            raise ShapeError(
                self.name,
                "the inputs have different batch sizes",
                received=", ".join(str(x) for x in types),
            )
        shape = types[0].shape
        if shape is not None and shape[2] is not None and not 0 <= self.blank < shape[2]:
            raise AttributeValueError(
                self.name, f"the blank is one of {shape[2]} classes", received=self.blank
            )
        return TensorType((next(iter(known), None),), types[0].dtype)

    @classmethod
    def samples(cls) -> Sequence[Sample]:
        # There is no second derivative; tests/unit/test_ctc.py sees to the first.
        targets = np.array([[1, 2, 2], [3, 1, 0]], np.int32)
        lengths = np.array([6, 5], np.int32), np.array([3, 2], np.int32)
        short = np.array([2, 0], np.int32), np.array([3, 0], np.int32)
        return [
            sample(
                real(6, 2, 4, low=-3, high=0), targets, *lengths, blank=0, grad=False, tolerance=20
            ),
            sample(
                real(7, 2, 5, low=-3, high=0), targets, *lengths, blank=4, grad=False, tolerance=20
            ),
            # Too few time steps, and none.
            sample(real(6, 2, 4), targets, *short, blank=0, grad=False, tolerance=20),
            sample(
                real(6, 2, 4),
                targets[:, :0],
                lengths[0],
                short[1] * 0,
                blank=1,
                grad=False,
                tolerance=20,
            ),
        ]


def _alpha(logs: Array, labels: Array, skips: Array) -> Array:
    """Logarithms of the probabilities of all beginnings [time, state]."""
    found = np.full((len(logs), len(labels)), NONE)
    for t in range(len(logs)):
        if t == 0:
            found[0, :2] = logs[0, labels[:2]]
            continue
        before = found[t - 1]
        one = np.concatenate([[NONE], before[:-1]])
        two = np.where(skips, np.concatenate([[NONE, NONE], before[:-2]])[: len(before)], NONE)
        found[t] = np.logaddexp(np.logaddexp(before, one), two) + logs[t, labels]
    return found


def _states(targets: Array, length: int, blank: int) -> tuple[Array, Array]:
    """Labels of the states, and which may be entered past the blank before them."""
    labels = np.full(2 * length + 1, blank)
    labels[1::2] = targets[:length]
    return labels, _skips(labels)


def _skips(labels: Array) -> Array:
    skips = np.zeros(len(labels), bool)
    skips[3::2] = labels[3::2] != labels[1:-2:2]
    return skips


def _total(alpha: Array, states: int) -> float:
    if not len(alpha):
        return 0.0 if states == 1 else NONE
    return float(np.logaddexp.reduce(alpha[-1, max(states - 2, 0) :]))


@register
@frozen
class CTCLoss(CTC):
    blank: int
    name: ClassVar[str] = "ctc_loss"
    doc: ClassVar[str] = (
        "Minus the logarithm of the probability of the targets for each sequence (Graves 2006); "
        "infinite where there are too few time steps."
    )

    def infer(self, *types: TensorType) -> TensorType:
        return self.checked(*types)

    def reference(self, *arrays: Array) -> Array:
        logs, targets, times, lengths = arrays
        found = np.zeros(len(targets))
        for n in range(len(targets)):
            labels, skips = _states(targets[n], int(lengths[n]), self.blank)
            part = logs[: times[n], n].astype(np.float64)
            with np.errstate(invalid="ignore"):
                found[n] = -_total(_alpha(part, labels, skips), len(labels))
        return found.astype(logs.dtype)

    def grad(
        self, gradients: Sequence[Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        occupancy = apply(CTCOccupancy(self.blank), *inputs)
        weight = gradients[0].expand_dims(0).expand_dims(-1)
        return [-(occupancy * weight), None, None, None]

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        if not inputs[1].shape[0]:
            return
        walk = _Walk(self, r, inputs)
        rows = r.local(walk.dtype, 2 * walk.states)
        with r.loop(0, walk.time) as t:
            walk.forward(rows, t, (t % 2) * walk.states, ((t + 1) % 2) * walk.states)
        last = ((walk.time + 1) % 2) * walk.states
        r.write(r.outputs[0], walk.team, -walk.total(rows, last))


@register
@frozen
class CTCOccupancy(CTC):
    blank: int
    name: ClassVar[str] = "ctc_occupancy"
    doc: ClassVar[str] = (
        "The probability of each class at each time, given the targets: minus the gradient of "
        "ctc_loss with respect to its logarithms; zeros where the loss is infinite."
    )
    grad = not_differentiable("ctc_loss has first derivatives only")

    def infer(self, *types: TensorType) -> TensorType:
        self.checked(*types)
        return types[0]

    def reference(self, *arrays: Array) -> Array:
        logs, targets, times, lengths = arrays
        found = np.zeros(logs.shape)
        for n in range(len(targets)):
            labels, skips = _states(targets[n], int(lengths[n]), self.blank)
            part = logs[: times[n], n].astype(np.float64)
            with np.errstate(invalid="ignore"):
                alpha = _alpha(part, labels, skips)
                turned = labels[::-1]
                beta = _alpha(part[::-1], turned, _skips(turned))[::-1, ::-1]
            total = _total(alpha, len(labels))
            if total == NONE or not len(part):
                continue
            share = np.exp(alpha + beta - part[:, labels] - total)
            for s, label in enumerate(labels):
                found[: times[n], n, label] += share[:, s]
        return found.astype(logs.dtype)

    def routine(self, r: RoutineBuilder, *inputs: Place) -> None:
        if not inputs[1].shape[0] or not inputs[0].elements:
            return
        walk = _Walk(self, r, inputs)
        states, steps = walk.states, inputs[0].shape[0]
        alpha, beta = (r.local(walk.dtype, max(steps, 1) * states) for _ in range(2))
        with r.loop(0, walk.time) as t:
            walk.forward(alpha, t, t * states, r.max(t - 1, 0) * states)
        total = walk.total(alpha, r.max(walk.time - 1, 0) * states)
        with r.loop(0, walk.time) as back:
            walk.backward(beta, walk.time - 1 - back)
        possible = total > NONE
        safe = r.where(possible, total, 0.0)
        with r.loop(0, steps) as t, r.spread(walk.classes) as c:
            r.write(r.outputs[0], walk.at(t, c), 0.0)
        with r.when(possible), r.loop(0, walk.time) as t:
            walk.share(alpha, beta, t, safe)


class _Walk:
    """One sequence: its labels, and steps of time on rows of its states."""

    def __init__(self, op: CTC, r: RoutineBuilder, inputs: Sequence[Place]) -> None:
        self.r, self.blank = r, op.blank
        self.logs, self.targets = inputs[0], inputs[1]
        steps, self.batch, self.classes = inputs[0].shape
        self.most = inputs[1].shape[1]
        self.states = 2 * self.most + 1
        self.dtype = compute_dtype(inputs[0].dtype)
        self.team = r.teams(self.batch)
        index = r.index(0).dtype
        self.time, self.length = (
            r.max(r.min(r.cast(r.read(p, self.team), index), high), 0)
            for p, high in ((inputs[2], steps), (inputs[3], self.most))
        )
        self.labels = r.local(int32, max(self.most, 1))
        with r.spread(self.most) as j:
            label = r.read(self.targets, self.team * self.most + j)
            r.write(self.labels, j, r.max(r.min(label, self.classes - 1), 0))

    def at(self, t: Any, c: Any) -> Any:
        """Where the logarithm of a class at a time is."""
        return (t * self.batch + self.team) * self.classes + c

    def target(self, j: Any) -> Any:
        """The label of target j, where there is one."""
        r = self.r
        place = r.max(r.min(j, max(self.most - 1, 0)), 0)
        return r.cast(r.read(self.labels, place, low=0, high=self.classes - 1), r.index(0).dtype)

    def label(self, s: Any) -> Any:
        """The class of a state."""
        r = self.r
        if not self.most:
            return r.index(self.blank)
        return r.where((s % 2).eq(0), r.index(self.blank), self.target(s // 2))

    def skips(self, s: Any) -> Any:
        """Whether a state may be entered past the blank before it."""
        if not self.most:
            return s < 0
        return (s % 2).eq(1) & (s >= 3) & self.target(s // 2).ne(self.target(s // 2 - 1))

    def sum(self, *values: Any) -> Any:
        """The logarithm of a sum."""
        r = self.r
        largest = values[0]
        for v in values[1:]:
            largest = r.max(largest, v)
        safe = r.where(largest > NONE, largest, 0.0)
        total = r.exp(values[0] - safe)
        for v in values[1:]:
            total = total + r.exp(v - safe)
        return r.where(largest > NONE, safe + r.log(total), r.const(NONE, self.dtype))

    def forward(self, rows: Place, t: Any, here: Any, before: Any) -> None:
        """Row t of the beginnings, from the row before."""
        r = self.r
        none = r.const(NONE, self.dtype)
        with r.spread(2 * self.length + 1) as s:
            x = [r.read(rows, before + r.max(s - back, 0)) for back in range(3)]
            one = r.where(s >= 1, x[1], none)
            two = r.where(self.skips(s), x[2], none)
            first = r.where(s < 2, r.const(0.0, self.dtype), none)
            begun = r.where(t.eq(0), first, self.sum(x[0], one, two))
            r.write(rows, here + s, begun + r.read(self.logs, self.at(t, self.label(s))))

    def backward(self, rows: Place, t: Any) -> None:
        """Row t of the endings, from the row after."""
        r, states = self.r, self.states
        none = r.const(NONE, self.dtype)
        last = 2 * self.length
        after = r.min(t + 1, self.time - 1) * states
        with r.spread(last + 1) as s:
            x = [r.read(rows, after + r.min(s + ahead, last)) for ahead in range(3)]
            one = r.where(s + 1 <= last, x[1], none)
            two = r.where((s + 2 <= last) & self.skips(s + 2), x[2], none)
            end = r.where(s >= last - 1, r.const(0.0, self.dtype), none)
            ended = r.where(t.eq(self.time - 1), end, self.sum(x[0], one, two))
            r.write(rows, t * states + s, ended + r.read(self.logs, self.at(t, self.label(s))))

    def total(self, rows: Place, here: Any) -> Any:
        """The logarithm of the probability of the whole sequence."""
        r = self.r
        last = 2 * self.length
        found = r.variable(self.dtype, r.where(last.eq(0), r.const(0.0, self.dtype), NONE))
        with r.when(self.time > 0):
            blank = r.read(rows, here + last)
            label = r.read(rows, here + r.max(last - 1, 0))
            label = r.where(last > 0, label, r.const(NONE, self.dtype))
            found.set(self.sum(blank, label))
        return found.get()

    def share(self, alpha: Place, beta: Place, t: Any, total: Any) -> None:
        """The probabilities of all classes at a time."""
        r, base = self.r, t * self.states

        def part(s: Any, label: Any) -> Any:
            both = r.read(alpha, base + s) + r.read(beta, base + s)
            log = r.read(self.logs, self.at(t, label))
            return r.exp(both - r.where(log > NONE, log, 0.0) - total)

        blanks = r.reduce("add", self.length + 1, lambda j: part(2 * j, r.index(self.blank)))
        with r.spread(self.length) as j:
            # A label that comes several times is written where it comes first.
            mine = self.target(j)
            found = r.variable(self.dtype, 0.0)
            earlier = r.variable(int32, 0)
            with r.loop(0, self.length) as k:
                same = self.target(k).eq(mine)
                found.set(found.get() + r.where(same, part(2 * k + 1, mine), 0.0))
                again = r.where(same & (k < j), r.const(1, int32), 0)
                earlier.set(r.max(earlier.get(), again))
            with r.when(earlier.get().eq(0)):
                r.write(r.outputs[0], self.at(t, mine), found.get())
        at = self.at(t, self.blank)
        r.write(r.outputs[0], at, r.read(r.outputs[0], at) + blanks)


@plain_function
def ctc_loss(
    log_probabilities: Any,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    *,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
    name: str | None = None,
) -> Tensor:
    """Connectionist temporal classification: minus the log probability of the targets.

    `log_probabilities` [time, batch, classes], as from log_softmax; `targets` [batch, length] are
    classes other than `blank`, padded with anything; the lengths [batch] say how much of both
    counts, at most all. `reduction`: "none" gives [batch], "sum" their sum, "mean" the mean of the
    losses divided by the lengths of their targets (at least 1). A sequence too short for its
    targets has an infinite loss and no gradient, with `zero_infinity` a loss of zero. There are
    first derivatives only. Raises ShapeError and AttributeValueError. As PyTorch's ctc_loss.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> x, y = g.placeholder((50, 4, 20)), g.placeholder((4, 7), nl.int32)
        >>> n, m = g.placeholder((4,), nl.int32), g.placeholder((4,), nl.int32)
        >>> nl.ctc_loss(nl.log_softmax(x, axis=-1), y, n, m).shape
        ()
    """
    if reduction not in ("none", "sum", "mean"):
        raise AttributeValueError(
            "ctc_loss",
            "unknown reduction",
            received=repr(reduction),
            advice="Use 'none', 'sum' or 'mean'",
        )
    given = (log_probabilities, targets, input_lengths, target_lengths)
    graph = graph_of("ctc_loss", *given)
    logs, *rest = (graph.as_tensor(t) for t in given)
    whole = [cast_to(t, int32) for t in rest]
    loss = apply(CTCLoss(int(blank)), logs, *whole)
    call = functions()
    if zero_infinity:
        loss = call["select"](loss.less(math.inf), loss, 0.0)
    if reduction == "mean":
        counts = cast_to(call["maximum"](whole[2], 1), loss.dtype)
        loss = (loss / counts).mean()
    elif reduction == "sum":
        loss = loss.sum()
    return loss if name is None else call["identity"](loss, name=name)  # type: ignore[no-any-return]
