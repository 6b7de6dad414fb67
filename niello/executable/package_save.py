"""Writing packages: executables, what they compute, their weights and machine code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from niello.core.errors import AttributeValueError, GraphError, PackageError
from niello.executable import compat
from niello.executable.executable import Executable
from niello.executable.package_load import PackagedExecutable
from niello.executable.package_manifest import (
    FileEntry,
    Function,
    Manifest,
    Variant,
    write_manifest,
)
from niello.executable.package_program import constants_of, write_program
from niello.executable.package_store import Member, member, write_package
from niello.executable.package_weights import file_of
from niello.graph.graph import GraphDefinition
from niello.graph.operation import Operation
from niello.graph.region import every_operation
from niello.graph.structural import Data
from niello.graph.tensor import Tensor, VariableState
from niello.graph.text import external_data, parse_graph, print_graph, print_operation
from niello.passes.computation import Computation, Rebuild
from niello.runtime.target import PackingLoaded

if TYPE_CHECKING:
    from niello.executable.package import Package

Executables = Executable | Iterable[Executable] | Mapping[str, Executable | Iterable[Executable]]
MAIN = "main"


def save(
    path: str | os.PathLike[str],
    executables: Executables,
    *,
    append: bool = False,
    graph: bool = True,
    packed: bool = True,
    directory: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write executables of one graph to a package, atomically.

    `executables` is one, a list of the same function for several devices and input types, or a
    mapping from names of functions to such: {"train": step, "predict": [small, large]}. With
    `append`, they are added to the package at `path`; an equal function for the same device and
    input types is replaced. Without `graph` the package cannot be compiled for anything else, and
    holds only the constants that its machine code reads. Those that code wants in a form of its own
    are stored in that form; with `packed=False` they are stored as they are, and brought into it at
    every load: files that hold a graph too are smaller where optimisation left its constants as
    they were. `directory` writes a directory in place of a file. `metadata` are a few words of the
    user's own.

    Raises GraphError for executables that do not belong together, PackageError for a package that
    cannot be appended to, and OSError, after which the old package is still there.

    Example:
        >>> import niello as nl
        >>> import tempfile
        >>> graph = nl.Graph("power")
        >>> x = graph.placeholder((None,), name="x")
        >>> square = graph.compile({x: (4,)}, [x * x])
        >>> cube = graph.compile({x: (4,)}, [x * x * x])
        >>> path = tempfile.mkdtemp() + "/power.niello"
        >>> nl.save(path, {"square": square, "cube": cube})
        >>> nl.load(path, function="cube").run([[1, 2, 3, 4]])[0].tolist()
        [1.0, 8.0, 27.0, 64.0]
    """
    from niello.executable.package import Package

    target = Path(path)
    content = Content(keep_graph=graph, packed=packed, metadata=dict(metadata or {}))
    named = named_executables(executables)
    if append:
        old = Package(target)
        directory = target.is_dir()
        _refuse_other_metadata(old, graph)
        content.take(old)
    content.add(named)
    members, manifest = content.members()
    write_package(target, members, manifest, directory)


def named_executables(given: Executables) -> list[tuple[str, Executable]]:
    """(function, executable) pairs of what the user gave. Raises GraphError."""
    if isinstance(given, Mapping):
        found = [(n, e) for n, group in given.items() for e in _listed(group)]
    else:
        found = [(MAIN, e) for e in _listed(given)]
    if not found:
        raise GraphError("save", "there is no executable to save", received=repr(given))
    for name, e in found:
        if not isinstance(name, str) or not name:
            raise GraphError("save", "a function needs a name", received=repr(name))
        if not isinstance(e, Executable):
            raise GraphError("save", "takes executables", received=type(e).__name__)
    graphs = {id(e.graph) for _, e in found}
    if len(graphs) > 1:
        raise GraphError(
            "save",
            "the executables belong to different graphs",
            received=", ".join(repr(e.graph.name) for _, e in found),
            advice="Save a package for each graph",
        )
    return found


def _listed(value: Any) -> list[Any]:
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return list(value)
    return [value]


def _refuse_other_metadata(old: Package, graph: bool) -> None:
    if not old.manifest.graph:
        raise PackageError(
            f"save {old.path}",
            "the package holds no graph, so that nothing shows what may be added to it",
            received="append=True",
            advice="Save everything in one call",
        )
    if not graph:
        raise AttributeValueError(
            "save", "append keeps the graph of the package", received="graph=False"
        )


@dataclass
class Content:
    """What goes into a package."""

    keep_graph: bool
    packed: bool
    metadata: dict[str, str]
    graph: GraphDefinition | None = None
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    variables: dict[str, VariableState] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    variants: dict[tuple[Any, ...], Variant] = field(default_factory=dict)
    code: dict[str, Member] = field(default_factory=dict)

    # --- what a package holds already
    def take(self, old: Package) -> None:
        """Everything of a package."""
        old.verify()
        manifest = old.manifest
        self.metadata = {**dict(manifest.metadata), **self.metadata}
        self.functions = {f.name: f for f in manifest.functions}
        self.graph = old.graph
        self.variables = dict(old.graph.variable_states)
        for name in old.constant_names():
            self.constants[name] = old.constant(name)
        for v in manifest.variants:
            self._keep(v)
            for name in filter(None, (v.program, v.code)):
                data = old.read(name)
                self.code[name] = _member(name, data)

    # --- what is new
    def add(self, named: Sequence[tuple[str, Executable]]) -> None:
        """Executables of one graph."""
        for name, e in named:
            self._function(name, e)
        pruned = _needed(named)
        self.graph = pruned if self.graph is None else _merged(self.graph, pruned)
        self.variables |= pruned.variable_states
        for name, e in named:
            self._variant(name, e)

    def _function(self, name: str, executable: Executable) -> None:
        source = executable.resolved
        made = Function(
            name,
            executable.input_names,
            tuple(t.type for t in source.inputs),
            tuple(t.name for t in source.targets),
            executable.target_names,
            tuple(o.name for o in source.operations),
        )
        known = self.functions.setdefault(name, made)
        if known != made:
            raise GraphError(
                "save",
                f"the function {name} computes something else",
                received=f"{', '.join(made.inputs)} -> {', '.join(made.targets)}",
                advice="Give each function a name: {'train': ..., 'predict': ...}",
            )

    def _variant(self, function: str, executable: Executable) -> None:
        options = executable.options
        constants = _constants_of(executable, self.packed)
        for name, array in constants.arrays.items():
            self.constants.setdefault(name, array)
        image = executable.loaded.image()
        program = write_program(executable.scheduled, constants.names, constants.absent)
        parts = [
            member("code", ".json", _once(program)),
            *([member("code", ".bin", _once(image))] if image else []),
        ]
        self.code |= {m.name: m for m in parts}
        self._keep(
            Variant(
                function,
                executable.backend.name,
                compat.needs_of(executable.device, options),
                options,
                executable.input_types,
                executable.output_types,
                parts[0].name,
                parts[1].name if image else "",
                executable.index_checks,
                constants.packed,
            )
        )

    def _keep(self, variant: Variant) -> None:
        level = variant.options.target
        key = (variant.function, variant.device, level, variant.needs, variant.inputs)
        self.variants[key] = variant

    # --- the files
    def members(self) -> tuple[list[Member], bytes]:
        """Members in the order they are written, and the manifest."""
        assert self.graph is not None
        text: list[Member] = []
        constants = self._used_constants()
        if self.keep_graph:
            text = [member("graph", ".txt", _once(print_graph(self.graph).encode()))]
            constants |= external_data(self.graph)
        weights = {"constants": constants, "variables": self._variable_values()}
        files = {
            kind: member("weights", ".safetensors", file_of(arrays))
            for kind, arrays in weights.items()
            if arrays
        }
        used = {n for v in self.variants.values() for n in (v.program, v.code)}
        listed = [*text, *files.values(), *(m for m in self.code.values() if m.name in used)]
        unique = list({m.name: m for m in listed}.values())
        manifest = Manifest(
            "niello",
            tuple(self.functions.values()),
            tuple(self.variants.values()),
            tuple(FileEntry(m.name, m.size, m.digest) for m in unique),
            text[0].name if text else "",
            files["constants"].name if "constants" in files else "",
            files["variables"].name if "variables" in files else "",
            tuple(self.metadata.items()),
        )
        return unique, write_manifest(manifest)

    def _used_constants(self) -> dict[str, np.ndarray]:
        """Those that programs read; what only replaced ones read is left out."""
        used: set[str] = set()
        for v in self.variants.values():
            used |= {v.packed} | set(constants_of(b"".join(self.code[v.program].pieces())))
        return {name: array for name, array in self.constants.items() if name in used}

    def _variable_values(self) -> dict[str, np.ndarray]:
        return {name: state.read() for name, state in sorted(self.variables.items())}


@dataclass(frozen=True)
class _Constants:
    """What a package holds of a program's constants: arrays by name, those of the program in its
    order, and the name of its packed form. Those with the numbers `absent` are in that only."""

    arrays: dict[str, np.ndarray]
    names: tuple[str, ...]
    absent: frozenset[int] = frozenset()
    packed: str = ""


def _constants_of(executable: Executable, keep_packed: bool) -> _Constants:
    program, loaded = executable.program, executable.loaded
    if isinstance(executable, PackagedExecutable) and executable.variant.packed:
        if not keep_packed:
            raise GraphError(
                "save",
                "the executable comes from a package that holds its constants packed",
                received="packed=False",
                advice="Compile the graph, and save what comes of it",
            )
        stored, packed = executable.stored, executable.variant.packed
        held = {
            name: program.constants[n]
            for n, name in enumerate(stored.names)
            if n not in stored.absent
        }
        held[packed] = executable.package.constant(packed)
        return _Constants(held, stored.names, stored.absent, packed)
    form = None
    if keep_packed and hasattr(loaded, "packed_constants"):
        form = cast(PackingLoaded, loaded).packed_constants()
    absent = frozenset[int]() if form is None else cast(PackingLoaded, loaded).absorbed
    names, arrays = [], {}
    for n, array in enumerate(program.constants):
        names.append("" if n in absent else Data(array).digest)
        if n not in absent:
            arrays[names[-1]] = array
    name = ""
    if form is not None:
        name = f"packed-{Data(form).digest}"
        arrays[name] = form
    return _Constants(arrays, tuple(names), absent, name)


def _once(data: bytes) -> Any:
    return lambda: [data]


def _member(name: str, data: bytes) -> Member:
    folder, _, rest = name.partition("/")
    made = member(folder, "." + rest.rpartition(".")[2], _once(data))
    return replace(made, name=name)


def _needed(named: Sequence[tuple[str, Executable]]) -> GraphDefinition:
    """The part of the graph that the executables compute, under its own names, without calls."""
    groups: dict[int, list[Computation]] = {}
    for _, e in named:
        groups.setdefault(id(e.resolved.graph), []).append(e.resolved)
    found: GraphDefinition | None = None
    for sources in groups.values():
        part = _pruned(sources)
        found = part if found is None else _merged(found, part)
    assert found is not None
    return found


def _pruned(sources: Sequence[Computation]) -> GraphDefinition:
    """What computations of one graph need of it."""
    inputs: dict[Tensor, None] = {}
    targets: dict[Tensor, None] = {}
    operations: dict[Operation, None] = {}
    for c in sources:
        inputs |= dict.fromkeys(c.inputs)
        targets |= dict.fromkeys(c.targets)
        operations |= dict.fromkeys(c.operations)
    graph = sources[0].graph
    whole = Computation(graph, tuple(inputs), tuple(targets), tuple(operations))
    used = {getattr(o.op, "variable", None) for o in every_operation(_copied(whole))}
    # Variables that only regions name belong to the graph too.
    operations |= {v.operation: None for v in graph.variables if v.operation.op.variable in used}  # type: ignore[attr-defined]
    pruned = _copied(replace(whole, operations=tuple(operations)))
    pruned.variable_states = {
        name: state for name, state in graph.variable_states.items() if name in used
    }
    return pruned


def _copied(source: Computation) -> GraphDefinition:
    return Rebuild(source).run(lambda rebuild, operation, given: None).graph


def _merged(old: GraphDefinition, new: GraphDefinition) -> GraphDefinition:
    """Two parts of one graph as one. Raises PackageError for parts of different graphs."""
    before = {o.name: print_operation(o) for o in old.operations}
    after = {o.name: print_operation(o) for o in new.operations}
    changed = [n for n, line in after.items() if before.get(n, line) != line]
    lines = {**before, **after}
    order = [n for n in lines if n in after]
    if changed or order != list(after) or old.name != new.name:
        raise PackageError(
            "save",
            "the package holds another graph than that of the executable",
            received=f"{new.name!r} with {len(after)} operations, {len(changed)} of them changed",
            advice="Append executables of the package's own graph: those of nl.load(path).graph",
        )
    external = {**external_data(old), **external_data(new)}
    text = print_graph(GraphDefinition(old.name))[:-1] + "\n".join(lines.values()) + "\n}"
    made = parse_graph(text, external)
    made.variable_states = {**old.variable_states, **new.variable_states}
    return made
