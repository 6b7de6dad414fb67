"""Loads and stores of one lane or many: contiguous, reversed, broadcast, strided and gathered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from niello.backends.cpu.llvm_text import Value, byte_size, constant, vector
from niello.backends.cpu.render_functions import emit_function
from niello.backends.cpu.render_types import has_gather, memory_type, register_type
from niello.codegen.access import loads
from niello.core.dtypes import DType, bool_
from niello.core.errors import CompilerBug
from niello.kernel.bounds import affine
from niello.kernel.ir import Expr, Load, Param, Store

if TYPE_CHECKING:
    from niello.backends.cpu.vectors import Emitter, Scope
    from niello.codegen.plan import Partial

_MOST_PICKED = 4  # longest stride that is read as contiguous vectors
_ZEROS = 1024  # bytes: no vector in use is longer


def load(em: Emitter, node: Load, scope: Scope, wide: bool) -> Value:
    """The value of a Load: a vector if `wide`, else the scalar of lane 0."""
    if node.param in em.row_params and scope.vector is not None and not wide:
        return _row_vector(em, node, scope)
    spread = _depends_on_lanes(em, node, scope)
    if not wide and not spread:
        gate = None if node.gate is None else em.scalar(node.gate, scope)
        pointer = _guarded(em, address(em, node.param, em.scalar(node.index, scope)), gate)
        return to_register(em, _plain(em, node.param.dtype, pointer, 1), node.param.dtype)
    stride = affine(node.index).stride(scope.vector)  # type: ignore[arg-type]
    gate = None if node.gate is None else em.value(node.gate, scope)
    scalar_gate = gate if gate is not None and gate.type == "i1" else None
    mask = _both(em, scope.mask, gate if scalar_gate is None else None)
    if spread:
        found = _gather(em, node, scope, mask, scalar_gate)
    elif stride in (1, -1):
        found = _contiguous(em, node, scope, mask, scalar_gate, stride)
    elif stride == 0:
        return _broadcast(em, node, scope, gate)
    elif stride is not None and 2 <= stride <= _MOST_PICKED and mask is None:
        found = _picked(em, node, scope, scalar_gate, stride)
    else:
        found = _gather(em, node, scope, mask, scalar_gate)
    return to_register(em, found, node.param.dtype)


def _depends_on_lanes(em: Emitter, node: Load, scope: Scope) -> bool:
    """Whether a place was kept for points of rows that the lanes are, and differs between them."""
    if scope.vector is None or not em.row_params:
        return False
    roots = [node.index] if node.gate is None else [node.index, node.gate]
    return any(x.param in em.row_params and not scope.varies(x.index) for x in loads(roots))


def _row_vector(em: Emitter, node: Load, scope: Scope) -> Value:
    """What was kept for a point of the rows that the lanes are: a vector for each point."""
    f, dtype = em.f, node.param.dtype
    index = f.mul(em.scalar(node.index, scope), scope.width)
    pointer = address(em, node.param, index)
    return to_register(em, _plain(em, dtype, pointer, scope.width), dtype)


def emit_partial(em: Emitter, node: Partial, scope: Scope) -> Value:
    """The partial results of all threads for one element (or vector of elements), together."""
    f, dtype = em.f, node.param.dtype
    wide = scope.varies(node)
    width = scope.width if wide else 1
    kind = vector(memory_type(dtype), width)
    scattered = wide and affine(node.index).stride(scope.vector) != 1  # type: ignore[arg-type]
    start = em.partial_pointers[node.param]
    if not scattered:
        start = f.gep("i8", start, f.mul(em.scalar(node.index, scope), dtype.itemsize))

    def read(pointer: Value) -> Value:
        if scattered:
            places = f.gep(memory_type(dtype), pointer, em.lanes(node.index, scope))
            found = f.gather(kind, places, align=dtype.itemsize, mask=scope.mask)
        elif wide and scope.mask is not None:
            found = f.masked_load(kind, pointer, scope.mask, align=dtype.itemsize)
        else:
            found = f.load(kind, pointer, align=dtype.itemsize)
        return to_register(em, found, dtype)

    assert em.partial_step is not None and em.partial_threads is not None
    with f.loop(1, em.partial_threads, 1, [read(start)]) as loop:
        pointer = f.gep("i8", start, f.mul(loop.index, em.partial_step))
        args = [loop.carried[0], read(pointer)]
        loop.next([emit_function(f, em.target, node.op, dtype, args)])
    return loop.results[0]


def address(em: Emitter, param: Param, index: Value) -> Value:
    """Address of an element of a buffer."""
    try:
        pointer = em.pointers[param]
    except KeyError:
        raise CompilerBug(
            "cpu renderer", "a buffer has no address in this function", received=param.slot
        ) from None
    return em.f.gep(memory_type(param.dtype), pointer, index)


def to_register(em: Emitter, value: Value, dtype: DType) -> Value:
    """What memory holds, as expressions hold it: bool becomes one bit."""
    return em.f.icmp("ne", value, constant(0, value.type)) if dtype is bool_ else value


def to_memory(em: Emitter, value: Value, dtype: DType) -> Value:
    """What expressions hold, as memory holds it: bool becomes a byte."""
    return em.f.cast("zext", value, "i8") if dtype is bool_ else value


def _guarded(em: Emitter, pointer: Value, gate: Value | None) -> Value:
    """The address, or that of zeros where the gate is false: a load needs no branch."""
    if gate is None:
        return pointer
    return em.f.select(gate, pointer, em.f.module.zeros("niello_zeros", _ZEROS))


def _plain(em: Emitter, dtype: DType, pointer: Value, width: int) -> Value:
    return em.f.load(vector(memory_type(dtype), width), pointer, align=dtype.itemsize)


def _both(em: Emitter, a: Value | None, b: Value | None) -> Value | None:
    if a is None or b is None:
        return b if a is None else a
    return em.f.and_(a, b)


def _contiguous(
    em: Emitter, node: Load, scope: Scope, mask: Value | None, gate: Value | None, stride: int
) -> Value:
    f, dtype, width = em.f, node.param.dtype, scope.width
    pointer = address(em, node.param, em.scalar(node.index, scope))
    if stride < 0:
        pointer = f.gep(memory_type(dtype), pointer, 1 - width, inbounds=False)
        mask = None if mask is None else f.shuffle(mask, None, range(width - 1, -1, -1))
    pointer = _guarded(em, pointer, gate)
    if mask is None:
        found = _plain(em, dtype, pointer, width)
    else:
        kind = vector(memory_type(dtype), width)
        found = f.masked_load(kind, pointer, mask, align=dtype.itemsize)
    return found if stride > 0 else f.shuffle(found, None, range(width - 1, -1, -1))


def _picked(em: Emitter, node: Load, scope: Scope, gate: Value | None, stride: int) -> Value:
    """Every second (third, ...) element out of contiguous vectors; nothing beyond is read."""
    f, dtype, width = em.f, node.param.dtype, scope.width
    pointer = _guarded(em, address(em, node.param, em.scalar(node.index, scope)), gate)
    kind = memory_type(dtype)
    back = (stride - 1) * (width - 1)  # where the last vector starts: it ends with the last lane
    starts = [*(n * width for n in range(stride - 1)), back]
    vectors = [_plain(em, dtype, f.gep(kind, pointer, start), width) for start in starts]
    places = []
    for lane in range(width):
        at = lane * stride
        n = at // width
        places.append((n, at - n * width) if n < stride - 1 else (stride - 1, at - back))
    return pick(em, vectors, places)


def pick(em: Emitter, vectors: list[Value], places: list[tuple[int, int]]) -> Value:
    """A vector whose lanes are (which vector, which lane) of some vectors of as many lanes."""
    width = len(places)
    used = sorted({n for n, _ in places})
    result = vectors[used[0]]
    lanes = [lane if n == used[0] else -1 for n, lane in places]
    for follow in used[1:]:
        indices = [width + lane if n == follow else lanes[k] for k, (n, lane) in enumerate(places)]
        result = em.f.shuffle(result, vectors[follow], indices)
        lanes = [k if indices[k] >= 0 else -1 for k in range(width)]
    if len(used) == 1:
        result = em.f.shuffle(result, None, lanes)
    return result


def _broadcast(em: Emitter, node: Load, scope: Scope, gate: Value | None) -> Value:
    """One element for all lanes; lanes whose gate is false get zero."""
    f, dtype = em.f, node.param.dtype
    somewhere = gate
    if gate is not None and gate.type != "i1":
        somewhere = f.any_lane(gate, scope.width)
    pointer = _guarded(em, address(em, node.param, em.scalar(node.index, scope)), somewhere)
    value = to_register(em, _plain(em, dtype, pointer, 1), dtype)
    value = f.splat(value, vector(value.type, scope.width))
    if gate is None or gate.type == "i1":
        return value
    return f.select(gate, value, constant(0, value.type))


def _pointers(em: Emitter, param: Param, index: Expr, scope: Scope) -> Value:
    from niello.backends.cpu.vectors import is_narrow

    narrow = is_narrow(index)
    offsets = em.narrow(index, scope) if narrow else em.lanes(index, scope)
    return em.f.gep(memory_type(param.dtype), em.pointers[param], offsets, inbounds=False)


def _gather(em: Emitter, node: Load, scope: Scope, mask: Value | None, gate: Value | None) -> Value:
    f, dtype = em.f, node.param.dtype
    kind = vector(memory_type(dtype), scope.width)
    pointers = _pointers(em, node.param, node.index, scope)
    if gate is not None:
        whole = em.widen(gate, scope)
        mask = whole if mask is None else f.and_(mask, whole)
    if mask is not None and not has_gather(em.target, dtype.itemsize):
        # Without the instruction a mask costs a branch per lane: read a zero there instead.
        zeros = f.splat(f.module.zeros("niello_zeros", _ZEROS), pointers.type)
        pointers, mask = f.select(mask, pointers, zeros), None
    return f.gather(kind, pointers, align=dtype.itemsize, mask=mask)


def store(em: Emitter, node: Store, value: Value, scope: Scope) -> None:
    """Write the value of a store (as `Emitter.value` gave it) at the scope's point or lanes."""
    f, dtype = em.f, node.param.dtype
    gate = None if node.gate is None else em.value(node.gate, scope)
    if node.param in em.row_params and not scope.varies(node.index) and scope.vector is not None:
        index = f.mul(em.scalar(node.index, scope), scope.width)
        data = to_memory(em, em.widen(value, scope), dtype)
        f.store(data, address(em, node.param, index), align=dtype.itemsize)
        return
    if scope.vector is None:
        pointer = address(em, node.param, em.value(node.index, scope))
        if gate is None:
            f.store(to_memory(em, value, dtype), pointer, align=dtype.itemsize)
        else:
            with f.if_then(gate):
                f.store(to_memory(em, value, dtype), pointer, align=dtype.itemsize)
        return
    mask = _both(em, scope.mask, None if gate is None else em.widen(gate, scope))
    data = to_memory(em, em.widen(value, scope), dtype)
    stride = affine(node.index).stride(scope.vector)
    if stride in (1, -1):
        pointer = address(em, node.param, em.scalar(node.index, scope))
        if stride < 0:
            backwards = range(scope.width - 1, -1, -1)
            pointer = f.gep(memory_type(dtype), pointer, 1 - scope.width, inbounds=False)
            data = f.shuffle(data, None, backwards)
            mask = None if mask is None else f.shuffle(mask, None, backwards)
        if mask is not None:
            f.masked_store(data, pointer, mask, align=dtype.itemsize)
        elif em.nontemporal:
            f.store(data, pointer, align=byte_size(data.type), nontemporal=True)
        else:
            f.store(data, pointer, align=dtype.itemsize)
    elif stride == 0:
        raise CompilerBug("cpu renderer", "all lanes store to one element", received=node.index)
    else:
        pointers = _pointers(em, node.param, node.index, scope)
        f.scatter(data, pointers, align=dtype.itemsize, mask=mask)


def register_vector(dtype: DType, width: int) -> str:
    """LLVM type of `width` lanes of a dtype in registers."""
    return vector(register_type(dtype), width)
