"""Packages: executables on disk, with graph, weights, command lists and machine code.

`load` and `Package` read one, `save` writes one (package_save.py). Nothing in a package is run
but machine code, and that only when it is asked for; `docs/packages.md` has the format and what
is checked when.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from niello import backends
from niello.core.errors import (
    AttributeValueError,
    BackendUnavailable,
    CorruptFile,
    DeviceError,
    FeedError,
    GraphError,
    NielloError,
    PackageError,
    Recompiled,
    UnsupportedOp,
)
from niello.core.types import TensorType
from niello.executable import compat
from niello.executable.compile import compile_graph
from niello.executable.executable import Executable
from niello.executable.graph import Graph
from niello.executable.package_load import PackagedExecutable, computation_of
from niello.executable.package_manifest import Function, Manifest, Variant, read_manifest
from niello.executable.package_program import Stored, read_program
from niello.executable.package_save import save
from niello.executable.package_store import Store, open_store, refuse
from niello.executable.package_values import Malformed
from niello.executable.package_verify import check_member, check_weights
from niello.executable.package_weights import TensorFile
from niello.graph.tensor import VariableState, aligned_copy
from niello.graph.text import parse_graph
from niello.passes.computation import Computation
from niello.runtime.target import CompileOptions, Device

WEIGHTS = ("mapped", "lazy", "copied")
VERIFY = ("once", True, False)
_MOST_BYTES = 1 << 30  # of a graph, a program or machine code

__all__ = ["Package", "load", "save"]


def load(
    path: str | os.PathLike[str],
    device: str | None = None,
    *,
    function: str | None = None,
    inputs: Mapping[str, Any] | Sequence[Any] | None = None,
    weights: str = "mapped",
    verify: Any = "once",
    machine_code: bool = True,
) -> Executable:
    """An executable from a package that `save` wrote.

    `device` is a back end's name; without it, the first device that the package holds code for
    and that this machine has. `function` and `inputs` (static types or shapes, by name or in
    order) choose among what the package holds; each may be left out where there is one. What the
    package holds no code for is compiled from its graph, and the warning `Recompiled` says why.

    `weights`: "mapped" reads them from the file's pages, shared by all processes; "lazy" brings
    them to the device at the first run, and `purge_weights()` of the executable gives them back;
    "copied" reads everything now, after which the file may vanish. `verify`: the hash of the
    weights is checked "once" for each file on this machine, always (True) or never (False); that
    of everything else always is. With `machine_code=False` nothing of the package is executed:
    the graph is compiled here, as packages of strangers should be.

    Raises PackageError for a package that is damaged or lacks what was asked for, OSError when
    the file cannot be read.

    Example:
        >>> import niello as nl
        >>> import numpy as np
        >>> import tempfile
        >>> graph = nl.Graph("double")
        >>> x = graph.placeholder((3,), name="x")
        >>> path = tempfile.mkdtemp() + "/double.niello"
        >>> graph.compile({x: (3,)}, [x * 2.0]).save(path)
        >>> nl.load(path).run([np.arange(3, dtype=np.float32)])[0].tolist()
        [0.0, 2.0, 4.0]
    """
    package = Package(path, weights=weights, verify=verify)
    return package.load(device, function=function, inputs=inputs, machine_code=machine_code)


class Package:
    """An opened package. `functions` say what it computes, `variants` what it holds code for.

    Executables loaded from one Package share its variables, as those of one graph do. `weights`
    and `verify` are those of `niello.load`.

    Example:
        >>> import niello as nl
        >>> import tempfile
        >>> graph = nl.Graph("double")
        >>> x = graph.placeholder((None,), name="x")
        >>> y = x * 2.0
        >>> path = tempfile.mkdtemp() + "/double.niello"
        >>> nl.save(path, [graph.compile({x: (n,)}, [y]) for n in (1, 8)])
        >>> package = nl.Package(path)
        >>> [v.inputs[0].shape for v in package.variants]
        [(1,), (8,)]
        >>> package.load(inputs={"x": (8,)}).input_types
        (float32[8],)
    """

    def __init__(
        self, path: str | os.PathLike[str], *, weights: str = "mapped", verify: Any = "once"
    ) -> None:
        if weights not in WEIGHTS:
            raise AttributeValueError(
                "load", f"weights is one of {', '.join(WEIGHTS)}", received=repr(weights)
            )
        if verify not in VERIFY:
            raise AttributeValueError(
                "load", 'verify is "once", True or False', received=repr(verify)
            )
        self.path = Path(path)
        self.weights = weights
        self._lock = threading.RLock()
        self._states: dict[str, VariableState] = {}
        self._copies: dict[tuple[str, bool], np.ndarray] = {}
        self._store: Store = open_store(self.path)
        self.manifest: Manifest = read_manifest(self._store)
        self._files = {e.name: e for e in self.manifest.files}
        check_weights(self._store, self.manifest, verify)

    # --- what it holds
    @property
    def functions(self) -> tuple[Function, ...]:
        """What the package computes: names and types of inputs, names of results."""
        return self.manifest.functions

    @property
    def variants(self) -> tuple[Variant, ...]:
        """What it holds machine code for: function, device, input types, what a machine needs."""
        return self.manifest.variants

    @property
    def metadata(self) -> dict[str, str]:
        """Words that `save` was given."""
        return dict(self.manifest.metadata)

    def __repr__(self) -> str:
        return f"<Package {self.path.name}: {', '.join(map(str, self.variants)) or 'graph only'}>"

    @cached_property
    def graph(self) -> Graph:
        """The graph, with the package's variables. Raises PackageError where there is none."""
        with self._lock:
            if not self.manifest.graph:
                raise self._refuse("it holds no graph", advice="Save it with graph=True")
            text = self.read(self.manifest.graph)
            try:
                external = {n: self.constant(n) for n in self.constant_names()}
                made = parse_graph(text.decode(), external, make=Graph)
            except (NielloError, UnicodeDecodeError, RecursionError) as error:
                raise self._refuse(f"its graph cannot be read: {error}") from error
            assert isinstance(made, Graph)
            for name, state in made.variable_states.items():
                found = self.variable(name)
                if (found.array.shape, found.array.dtype) != (state.array.shape, state.array.dtype):
                    raise self._refuse(f"variable {name} is not what the graph says it is")
                made.variable_states[name] = found
            return made

    def computation(self, function: Function) -> Computation:
        """A function in the graph of the package."""
        try:
            found = computation_of(self.graph, function)
        except GraphError as error:
            raise self._refuse(str(error)) from error
        types = tuple(t.type for t in found.inputs)
        if types != function.types:
            raise self._refuse(f"the inputs of {function.name} are not what the graph says")
        return found

    def constant_names(self) -> tuple[str, ...]:
        """Names of all constants."""
        return () if self._constants is None else tuple(self._constants.entries)

    def constant(self, name: str) -> np.ndarray:
        """A constant by its name in the graph's text; read only, in the file's pages."""
        return self._array(self._constants, name)

    def variable(self, name: str) -> VariableState:
        """The storage of a variable: the file's value until it is written; the file stays."""
        with self._lock:
            found = self._states.get(name)
            if found is None:
                found = self._states[name] = VariableState(np.empty(0, np.uint8))
                found.array = self._array(self._variables, name, private=True)
            return found

    def release_pages(self) -> None:
        """Let the system take back the memory of mapped constants; they are read again when they
        are used again."""
        if self._constants is not None:
            self._constants.purge()

    def verify(self) -> None:
        """Check the hash of every member now. Raises PackageError."""
        for entry in self.manifest.files:
            check_member(self._store, entry, self._store.digest(entry.name))

    # --- loading
    def load(
        self,
        device: str | None = None,
        *,
        function: str | None = None,
        inputs: Mapping[str, Any] | Sequence[Any] | None = None,
        machine_code: bool = True,
    ) -> Executable:
        """An executable of this package; see `niello.load`."""
        chosen = self._function(function)
        wanted = self._types(chosen, inputs)
        fitting = [
            v
            for v in self.variants
            if v.function == chosen.name
            and (device is None or v.device == device)
            and (wanted is None or v.inputs == wanted)
        ]
        reasons: list[str] = []
        if not machine_code:
            reasons.append("machine code was declined")
        elif not fitting:
            held = "; ".join(map(str, self.variants)) or "no machine code"
            reasons.append(f"it holds {held}")
        for variant in fitting if machine_code else ():
            found = self._try(chosen, variant, reasons)
            if found is not None:
                return found
        return self._compile(chosen, device, wanted, fitting, reasons, quiet=not machine_code)

    def _try(self, function: Function, variant: Variant, reasons: list[str]) -> Executable | None:
        """An executable with the machine code of a variant, or why this machine cannot run it."""
        try:
            opened = backends.device(variant.device)
            lacking = compat.lacking(opened, variant.needs)
            if lacking:
                what = ", ".join(lacking)
                reasons.append(f"its code for {variant.device} needs {what}, not found here")
                return None
            stored = self._stored(variant)
            code = self.read(variant.code) if variant.code else b""
            return PackagedExecutable(
                self, function, variant, stored, opened,
                lambda: opened.load(stored.scheduled.program, variant.options, code),
            )  # fmt: skip
        except PackageError:
            raise
        except CorruptFile as error:
            raise self._refuse(f"its code for {variant} cannot be loaded: {error}") from error
        except (DeviceError, UnsupportedOp) as error:
            reasons.append(str(error))
            return None

    def _stored(self, variant: Variant) -> Stored:
        try:
            data = self.read(variant.program)
            found = read_program(data, self.constant)
        except Malformed as error:
            raise self._refuse(f"the program of {variant} is damaged: {error}") from error
        program = found.scheduled.program
        if found.absent and not variant.packed:
            raise self._refuse(f"the program of {variant} lacks constants")
        count = len(variant.outputs)
        reports = len(program.outputs) - count
        if program.inputs != variant.inputs or program.outputs[:count] != variant.outputs:
            raise self._refuse(f"the program of {variant} has other types")
        if reports != bool(variant.checks):
            raise self._refuse(f"the program of {variant} has other types")
        for v in program.variables:
            state = self.variable(v.name)
            if (state.array.shape, state.array.dtype) != (v.type.static_shape, v.type.dtype.numpy):
                raise self._refuse(f"variable {v.name} is not what the program says it is")
        return found

    def _compile(
        self,
        function: Function,
        device: str | None,
        wanted: tuple[TensorType, ...] | None,
        fitting: Sequence[Variant],
        reasons: Sequence[str],
        *,
        quiet: bool,
    ) -> Executable:
        """What the package has no code for: from its graph, for this machine."""
        why = "; ".join(dict.fromkeys(r.rstrip(".") for r in reasons))
        candidates = [v for v in self.variants if v.function == function.name]
        model = next(iter([*fitting, *candidates]), None)
        types = wanted
        if types is None:
            types = model.inputs if model is not None else function.types
        if not self.manifest.graph:
            raise BackendUnavailable(
                f"load {self.path}",
                "it has no graph to compile from, and no machine code that runs here",
                received=why,
                advice="Save it with graph=True, or for this device",
            )
        name = device or (model.device if model and _opens(model.device) else None)
        computation = self.computation(function)
        if not quiet:
            target = name or backends.default_name()
            warnings.warn(
                f"{self.path.name}: compiled from the graph for {target}, because {why}.",
                Recompiled,
                stacklevel=4,
            )
        options = CompileOptions() if model is None else _for_here(model.options)
        made = compile_graph(
            self.graph,
            dict(zip(computation.inputs, types, strict=True)),
            computation.targets,
            computation.operations,
            name,
            options,
        )
        made.target_names = function.results
        return made

    # --- what was asked
    def _function(self, name: str | None) -> Function:
        names = [f.name for f in self.functions]
        if name is None and len(names) > 1:
            raise GraphError(
                f"load {self.path}", "it holds several functions", received="no name",
                advice=f"Give function=, one of {', '.join(names)}",
            )  # fmt: skip
        for f in self.functions:
            if name is None or f.name == name:
                return f
        raise GraphError(
            f"load {self.path}", "it holds no such function", received=repr(name),
            advice=f"It has {', '.join(names)}",
        )  # fmt: skip

    def _types(
        self, function: Function, inputs: Mapping[str, Any] | Sequence[Any] | None
    ) -> tuple[TensorType, ...] | None:
        """The input types asked for, or None. Raises FeedError for those that cannot be."""
        if inputs is None:
            return None
        named = isinstance(inputs, Mapping)
        given: dict[Any, Any] = dict(inputs if isinstance(inputs, Mapping) else enumerate(inputs))
        keys: list[Any] = list(function.inputs if named else range(len(function.inputs)))
        if sorted(map(str, given)) != sorted(map(str, keys)):
            raise FeedError(
                f"load {self.path}",
                f"the inputs are {', '.join(function.inputs) or 'none'}",
                received=list(given),
                advice="Give a type or shape for each",
            )
        return tuple(
            k if isinstance(k, TensorType) else TensorType(k, declared.dtype)
            for k, declared in zip([given[k] for k in keys], function.types, strict=True)
        )

    # --- members
    @cached_property
    def _constants(self) -> TensorFile | None:
        name = self.manifest.constants
        return TensorFile(self._store, name) if name else None

    @cached_property
    def _variables(self) -> TensorFile | None:
        name = self.manifest.variables
        return TensorFile(self._store, name) if name else None

    def _array(self, file: TensorFile | None, name: str, private: bool = False) -> np.ndarray:
        if file is None or name not in file.entries:
            raise self._refuse(f"the tensor {name[:80]!r} is missing")
        if self.weights == "copied":
            found = self._copies.get((name, private))
            if found is None:
                found = self._copies[name, private] = aligned_copy(file.shared(name))
                found.setflags(write=private)
            return found
        return file.private(name) if private else file.shared(name)

    def read(self, name: str) -> bytes:
        """A member that is no weights, checked against its hash."""
        data = self._store.read(name, _MOST_BYTES)
        check_member(self._store, self._files[name], data)
        return data

    def _refuse(self, problem: str, advice: str = "") -> PackageError:
        return refuse(self.path, problem, advice=advice)


def _opens(name: str) -> bool:
    try:
        device: Device = backends.device(name)
    except BackendUnavailable:
        return False
    return device is not None


def _for_here(options: CompileOptions) -> CompileOptions:
    """The options of a package's code, for the machine that this is."""
    return replace(options, target=CompileOptions().target)
