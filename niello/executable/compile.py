"""The whole compilation, top to bottom: the only file that names every stage."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import cast

from niello import backends
from niello.core import config, dtypes
from niello.core.dtypes import DType
from niello.core.errors import FeedError, GraphError, LimitExceeded, UnsupportedDtype
from niello.core.types import TensorType
from niello.executable.callables import Callables, resolve
from niello.executable.dump import Dump
from niello.executable.executable import Executable
from niello.graph import verify
from niello.graph.graph import GraphDefinition
from niello.graph.operation import Operation
from niello.graph.structural import Placeholder
from niello.graph.tensor import Tensor
from niello.kernel.verify import verify as verify_kernel
from niello.passes import pipeline
from niello.passes.autocast import as_autocast
from niello.passes.borders import Borders
from niello.passes.check_indices import CheckIndices
from niello.passes.computation import Computation
from niello.passes.integers import Integers
from niello.passes.layout import ChannelsLast
from niello.passes.watch import Watch
from niello.runtime.commands import Program, Variable
from niello.runtime.target import Backend, CompileOptions, Device, LibraryDevice
from niello.schedule.claims import Claims
from niello.schedule.program import Scheduled, schedule


def compile_graph(
    graph: GraphDefinition,
    feeds: Mapping[Tensor, TensorType],
    targets: Sequence[Tensor],
    operations: Sequence[Operation],
    device: str | None,
    options: CompileOptions,
    callables: Callables | None = None,
) -> Executable:
    """Specialise, optimise, stitch, place and translate; see each stage's module."""
    started = time.perf_counter()
    name = backends.default_name() if device is None else device
    opened, backend, options = backends.for_target(name, options)
    optimise = options.optimise and config.OPTIMISE.integer(0, 1) == 1

    # 1. what is asked
    computation = Computation(graph, tuple(feeds), tuple(targets), tuple(operations))
    check(computation, feeds)
    dump = Dump(graph.name)
    dump.graph("input", computation)

    # 2. graph -> graph
    types = [feeds[t] for t in computation.inputs]
    autocast = as_autocast(options.autocast)
    if autocast is not None:
        autocast.check(graph)
    checks = CheckIndices() if options.check_indices else None
    claims = claims_of(opened, backend, options) if optimise else None
    passes = passes_for(types, options, backend, checks, claims)
    resolved = resolve(computation, {} if callables is None else callables)
    watch = Watch(resolved, tuple(types))

    def inspect(stage: str, made: Computation) -> None:
        dump.graph(stage, made)
        watch.after(stage, made, rounds=stage in ("autocast", "checkindices"))

    optimised = pipeline.run(passes, resolved, inspect)

    # 3. graph -> commands and kernels
    scheduled = schedule(optimised, backend.limits, fuse=optimise, claims=claims)
    scheduled = with_complex_types(scheduled, resolved, types)
    dump.schedule(scheduled)
    if watch.level:
        for kernel in scheduled.program.kernels:
            verify_kernel(kernel)
    check_limits(scheduled.program, backend)

    # 4. kernels -> machine code
    loaded = opened.compile(scheduled.program, options)
    dump.source(loaded)

    executable = Executable(
        graph, computation, optimised, scheduled, loaded, opened, backend, options
    )
    executable.resolved = resolved
    executable.index_checks = () if checks is None else tuple(checks.found)
    dump.done(name, executable, time.perf_counter() - started)
    return executable


def passes_for(
    types: Sequence[TensorType],
    options: CompileOptions,
    backend: Backend,
    checks: CheckIndices | None = None,
    claims: Claims | None = None,
) -> tuple[pipeline.Pass, ...]:
    """The passes over a graph with inputs of these types, for a back end."""
    autocast = as_autocast(options.autocast)
    if not (options.optimise and config.OPTIMISE.integer(0, 1)):
        return pipeline.plain(types, autocast, checks)
    limits = backend.limits
    layout = ChannelsLast(limits.inputs_last) if limits.channels_last else None
    integers = Integers() if limits.integers else None
    keeps = None if claims is None else claims.operations.runs
    borders = Borders() if limits.borders else None
    return pipeline.optimising(types, autocast, checks, layout, integers, keeps, borders)


def claims_of(opened: Device, backend: Backend, options: CompileOptions) -> Claims | None:
    """What the libraries of a device run; None where the back end has none."""
    if not (backend.claims or backend.operations):
        return None
    libraries = cast(LibraryDevice, opened)
    return Claims(
        libraries.usable_claims(backend.claims),
        libraries.refusal,
        tf32=options.tf32,
        operations=libraries.usable_claims(backend.operations),
    )


def with_complex_types(
    scheduled: Scheduled, computation: Computation, inputs: Sequence[TensorType]
) -> Scheduled:
    """The program with complex types where its kernels see pairs: the bytes are the same."""
    program = scheduled.program

    def outer(found: TensorType, dtype: DType) -> TensorType:
        return TensorType(found.static_shape[:-1], dtype) if dtype.is_complex else found

    count = len(computation.targets)  # behind them may be a report on indices
    outputs = [
        outer(found, t.dtype)
        for found, t in zip(program.outputs[:count], computation.targets, strict=True)
    ]
    outputs += program.outputs[count:]
    states = computation.graph.variable_states
    variables = [
        Variable(v.name, outer(v.type, dtypes.dtype(states[v.name].array.dtype)))
        for v in program.variables
    ]
    program = dataclasses.replace(
        program, inputs=tuple(inputs), outputs=tuple(outputs), variables=tuple(variables)
    )
    return dataclasses.replace(scheduled, program=program)


def check(computation: Computation, feeds: Mapping[Tensor, TensorType]) -> None:
    """Refuse what can be refused before compiling: foreign tensors, missing and useless feeds."""
    graph = computation.graph
    for t in (*computation.targets, *computation.inputs):
        if not isinstance(t, Tensor):
            raise GraphError("compile", "needs tensors of the graph", received=type(t).__name__)
        if t.graph is not graph:
            raise GraphError(
                "compile",
                "a tensor belongs to another graph",
                received=repr(t),
                advice="Run the graph that the tensor was made in",
            )
    for o in computation.operations:
        if not isinstance(o, Operation) or o.graph is not graph:
            raise GraphError(
                "compile",
                "a target operation is not one of this graph",
                received=repr(o),
                advice="Give operations, such as the results of assign",
            )
    if not computation.targets and not computation.operations:
        raise GraphError(
            "compile",
            "there is nothing to compute: no targets, no operations",
            received="empty lists",
            advice="Name the tensors to fetch or the operations to run",
        )
    verify.acyclic(_reachable_without_inputs(computation))
    computed = [t.name for t in computation.inputs if not isinstance(t.operation.op, Placeholder)]
    if computed:
        raise FeedError(
            "feeds",
            f"{_named('tensor', computed)} cannot be fed: the graph computes it",
            received=_names(computation.inputs),
            advice="Feed placeholders only",
            superfluous=computed,
        )
    needed = [o for o in _reachable_without_inputs(computation) if isinstance(o.op, Placeholder)]
    fed = {t.operation for t in computation.inputs}
    missing = [o.name for o in needed if o not in fed]
    if missing:
        raise FeedError(
            "feeds",
            f"{_named('placeholder', missing)} must be fed",
            received=_names(computation.inputs),
            advice="Feed every placeholder that the targets depend on",
            missing=missing,
        )
    extra = [t.name for t in computation.inputs if t.operation not in needed]
    if extra:
        raise FeedError(
            "feeds",
            f"nothing that is computed depends on {_named('placeholder', extra)}",
            received=_names(computation.inputs),
            advice="Leave it out, or add the target that needs it",
            superfluous=extra,
        )
    for t in computation.inputs:
        check_type(t, feeds[t])


def _named(what: str, names: Sequence[str]) -> str:
    """placeholder 'x', or placeholders 'x', 'y'"""
    return f"{what}{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"


def _names(tensors: Sequence[Tensor]) -> str:
    return f"feeds for {', '.join(repr(t.name) for t in tensors) or 'nothing'}"


def _reachable_without_inputs(computation: Computation) -> list[Operation]:
    bare = Computation(computation.graph, (), computation.targets, computation.operations)
    return bare.reachable()


def check_type(tensor: Tensor, found: TensorType) -> None:
    """Refuse a feed type that does not fit its placeholder."""
    if found.dtype is not tensor.dtype:
        raise FeedError(
            f"feed {tensor.name}",
            f"the placeholder holds {tensor.dtype.name}",
            received=repr(found),
            advice="Convert the array first",
            tensor=tensor.name,
        )
    if not found.is_static:
        raise FeedError(
            f"feed {tensor.name}",
            "every size must be known to compile",
            received=repr(found),
            advice="Give a TensorType with all sizes",
            tensor=tensor.name,
        )
    declared = tensor.shape
    if declared is not None and (
        len(declared) != len(found.static_shape)
        or any(d is not None and d != s for d, s in zip(declared, found.static_shape, strict=True))
    ):
        raise FeedError(
            f"feed {tensor.name}",
            f"the placeholder is {tensor.type}",
            received=repr(found),
            advice="Give an array of that shape",
            tensor=tensor.name,
        )


def check_limits(program: Program, backend: Backend) -> None:
    """Refuse what the device cannot hold, naming it, before anything is compiled."""
    limits = backend.limits
    for kernel in program.kernels:
        for p in kernel.params:
            if p.dtype not in limits.dtypes:
                raise UnsupportedDtype(
                    f"{backend.name} device",
                    f"kernel {kernel.name} needs an element type that the device does not have",
                    received=p.dtype.name,
                    advice=f"It has {', '.join(sorted(d.name for d in limits.dtypes))}",
                )
    for space, index, size in program.buffers():
        if size > limits.max_buffer_bytes:
            raise LimitExceeded(
                f"{backend.name} device",
                f"{space.value} {index} is larger than the device's largest buffer",
                received=f"{size} bytes",
                advice=f"At most {limits.max_buffer_bytes} bytes; split the tensor",
            )
