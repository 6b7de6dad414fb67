"""Attention and its gradient by cuDNN's graph interface: fused kernels that never hold the scores.

What the operands mean is said in `ops/attention.py`, how a call describes them in
`schedule/claims_operation.py`. Leading axes become one axis of batches; operands may be views.
Keys are seen up to the query's own place (`causal`), or between two distances from it (`window`).

Rows whose mask hides every key have no result in cuDNN, so boolean masks, whose rows often do, are
left to generated kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from niello.core import config
from niello.core.dtypes import BY_NAME
from niello.core.errors import DeviceError
from niello.core.shapes import row_major_strides

Dims = tuple[tuple[int, ...], tuple[int, ...]]  # sizes and strides

FUNCTIONS = ("cudnn.attention", "cudnn.attention_gradient")
_ALIGNED = 16  # bytes of what a kernel reads at once
_KINDS = {"float16": "HALF", "bfloat16": "BFLOAT16", "float32": "FLOAT"}


@dataclass(frozen=True)
class Operand:
    """What a call says of an operand."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    value: float | None


@dataclass(frozen=True)
class Roles:
    """Names of the operands and results of a call, in order."""

    operands: tuple[str, ...]
    results: tuple[str, ...]


def roles_of(function: str, operands: int) -> Roles:
    """The parts that operands and results play; the mask is there or not."""
    forward = function == "cudnn.attention"
    before = () if forward else ("dO", "by_logs", "o", "stats")
    given = (*before, "q", "k", "v", "bias")[:operands]
    results = ("o", "stats") if forward else ("dQ", "dK", "dV", "dBias")
    return Roles(given, results)


class AttentionDraft:
    """A graph of attention, or of its gradient. Raises DeviceError for what cuDNN would compute
    otherwise; the graph itself refuses what cuDNN does not know."""

    def __init__(self, api: Any, handle: Any, function: str, a: dict[str, Any]) -> None:
        self.function = function
        self.given = [Operand(*o) for o in a["operands"]]
        roles = roles_of(function, len(self.given))
        self.operands = dict(zip(roles.operands, self.given, strict=True))
        self.results = dict(zip(roles.results, a["results"], strict=False))
        self.dtype = self.operands["q"].dtype
        self._check()
        self._api = api
        kind = getattr(api.data_type, _KINDS[self.dtype])
        self.graph = api.pygraph(
            io_data_type=kind,
            intermediate_data_type=api.data_type.FLOAT,
            compute_data_type=api.data_type.FLOAT,
            handle=handle,
        )
        self.tensors: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}
        settings = self._settings(a)
        if function == "cudnn.attention":
            self._forward(settings)
        else:
            self._backward(settings)

    # --- what is asked
    def _check(self) -> None:
        shapes = [o.shape for o in self.given] + [r[1] for r in self.results.values()]
        if any(0 in s for s in shapes):
            raise DeviceError(self.function, "nothing is to be computed")
        for name, operand in self.operands.items():
            size = BY_NAME[operand.dtype].itemsize
            if operand.value is not None and (name, operand.value) != ("by_logs", 0.0):
                raise DeviceError(self.function, f"{name} is not in memory")
            if operand.offset * size % _ALIGNED:
                raise DeviceError(self.function, f"{name} is not aligned")
        if "by_logs" in self.operands and self.operands["by_logs"].value != 0.0:
            raise DeviceError(self.function, "the logarithms of the sums have gradients")
        bias = self.operands.get("bias")
        if bias is not None and bias.dtype != self.dtype:
            raise DeviceError(self.function, f"a mask of {bias.dtype} for {self.dtype}")

    def _settings(self, a: dict[str, Any]) -> dict[str, Any]:
        """The scale, and how far before and behind its own place a query sees."""
        rows, width = self.operands["q"].shape[-2:]
        columns = self.operands["k"].shape[-2]
        scale = 1.0 / math.sqrt(width) if a["scale"] is None else float(a["scale"])
        left, right = a["window"] or (None, None)
        if a["causal"]:
            right = 0
        found: dict[str, Any] = {"attn_scale": scale}
        if left is not None and left < rows - 1:
            found["diagonal_band_left_bound"] = left + 1
        if right is not None and right < columns - 1:
            found["diagonal_band_right_bound"] = right
        if len(found) > 1:
            found["diagonal_alignment"] = self._api.diagonal_alignment.TOP_LEFT
        return found

    # --- the graph
    def _input(self, name: str) -> Any:
        operand = self.operands[name]
        dims = self._dims(name, operand)
        tensor = self.graph.tensor(
            name=name,
            dim=list(dims[0]),
            stride=list(dims[1]),
            data_type=getattr(self._api.data_type, _KINDS[operand.dtype]),
        )
        return self._known(name, tensor, operand.dtype, dims)

    def _dims(self, name: str, operand: Operand) -> Dims:
        """Four axes: batches, heads, places, width."""
        shape, strides = operand.shape, operand.strides
        if name == "stats":
            if strides != row_major_strides(shape):
                raise DeviceError(self.function, "statistics are not contiguous")
            return _four(self.function, (*shape, 1), (*strides, 1), _ALIGNED)
        if name == "bias":
            missing = len(self.operands["q"].shape) - len(shape)
            shape, strides = (1,) * missing + shape, (0,) * missing + strides
            lead = shape[:-3]
            if shape[-2:] != (self.operands["q"].shape[-2], self.operands["k"].shape[-2]):
                raise DeviceError(self.function, "the mask repeats along queries or keys")
            if math.prod(lead) > 1 and lead != self.operands["q"].shape[:-3]:
                raise DeviceError(self.function, "the mask repeats along some of the batches")
        return _four(self.function, shape, strides, BY_NAME[operand.dtype].itemsize)

    def _known(self, name: str, tensor: Any, dtype: str, dims: Dims) -> Any:
        self.tensors[name] = tensor
        span = 1 + sum((d - 1) * s for d, s in zip(*dims, strict=True))
        self.sizes[name] = BY_NAME[dtype].itemsize * span
        return tensor

    def _output(self, name: str, tensor: Any) -> None:
        dtype, shape, _ = self.results[name]
        if name == "stats":
            shape = (*shape, 1)
        sizes = (math.prod(shape[:-3]), *shape[-3:])
        strides = row_major_strides(sizes)
        tensor.set_output(True).set_dim(list(sizes)).set_stride(list(strides))
        tensor.set_data_type(getattr(self._api.data_type, _KINDS[dtype]))
        self._known(name, tensor, dtype, (sizes, strides))

    def _forward(self, settings: dict[str, Any]) -> None:
        parts = {name: self._input(name) for name in self.operands}
        wanted = self.results["stats"][2]
        o, stats = self.graph.sdpa(**parts, generate_stats=wanted, **settings)
        self._output("o", o)
        if wanted:
            self._output("stats", stats)

    def _backward(self, settings: dict[str, Any]) -> None:
        parts = {name: self._input(name) for name in self.operands if name != "by_logs"}
        if "dBias" in self.results and self.results["dBias"][2]:
            parts["dBias"] = self._mask_gradient()
        same = bool(config.DETERMINISTIC.integer(0, 1))
        found = self.graph.sdpa_backward(**parts, use_deterministic_algorithm=same, **settings)
        for name, tensor in zip(("dQ", "dK", "dV"), found, strict=True):
            self._output(name, tensor)

    def _mask_gradient(self) -> Any:
        sizes, _ = self._dims("bias", self.operands["bias"])
        strides = row_major_strides(sizes)
        kind = getattr(self._api.data_type, _KINDS[self.dtype])
        made = self.graph.tensor(
            name="dBias", dim=list(sizes), stride=list(strides), data_type=kind
        )
        return self._known("dBias", made, self.dtype, (sizes, strides))


def used(a: dict[str, Any], function: str) -> list[tuple[str, int]]:
    """The part of each buffer of a call, and the bytes from its beginning to the first element."""
    roles = roles_of(function, len(a["operands"]))
    found = []
    for name, given in zip(roles.operands, a["operands"], strict=True):
        operand = Operand(*given)
        if operand.value is None:
            found.append((name, operand.offset * BY_NAME[operand.dtype].itemsize))
    results = zip(roles.results, a["results"], strict=False)
    return found + [(name, 0) for name, (_, _, wanted) in results if wanted]


def _four(function: str, shape: Sequence[int], strides: Sequence[int], size: int) -> Dims:
    """Sizes and strides with the leading axes made one. Raises DeviceError where their elements
    are not equally far apart, or not as cuDNN reads them."""
    batch, step = 1, 0
    for n, s in zip(reversed(shape[:-3]), reversed(strides[:-3]), strict=True):
        if n == 1:
            continue
        if batch > 1 and s != step * batch:
            raise DeviceError(function, "batches are not equally far apart")
        step = s if batch == 1 else step
        batch *= n
    sizes = (batch, *shape[-3:])
    steps = [step, *strides[-3:]]
    if sizes[-1] > 1 and steps[-1] != 1:
        raise DeviceError(function, "rows are not contiguous")
    for axis in reversed(range(4)):  # the step of a single place is nobody's business
        if sizes[axis] == 1:
            steps[axis] = 1 if axis == 3 else sizes[axis + 1] * steps[axis + 1]
        elif steps[axis] <= 0 or (axis < 3 and steps[axis] * size % _ALIGNED):
            raise DeviceError(function, "an operand repeats, or is not aligned")
    return sizes, tuple(steps)
