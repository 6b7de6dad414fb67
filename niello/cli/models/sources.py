"""Model files: which front end reads a file, and what every kind of model answers alike."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import niello as nl
from niello import errors

Sizes = Mapping[str, tuple[int, ...]]
Values = Mapping[str, Any]


@dataclass(frozen=True)
class FrontEnd:
    """Who reads a kind of file: a module with `load(path)`, and the extra that it needs."""

    module: str
    extra: str
    title: str


FRONT_ENDS = {
    ".onnx": FrontEnd("niello.frontends.onnx", "onnx", "ONNX"),
    ".mlmodel": FrontEnd("niello.frontends.coreml", "coreml", "Core ML"),
    ".mlpackage": FrontEnd("niello.frontends.coreml", "coreml", "Core ML"),
}
PACKAGE = ".niello"


@dataclass(frozen=True)
class Computed:
    """A model as a graph with static input types: what is compiled for each target."""

    graph: nl.Graph
    inputs: Mapping[str, nl.Tensor]
    results: Mapping[str, nl.Tensor]
    operations: tuple[nl.Operation, ...] = ()
    types: Mapping[str, nl.TensorType] = field(default_factory=dict)

    def compile(self, device: str | None, options: nl.CompileOptions) -> nl.Executable:
        """An executable whose results have the model's names."""
        made = self.graph.compile(
            {t: self.types[name] for name, t in self.inputs.items()},
            tuple(self.results.values()),
            self.operations,
            device=device,
            options=options,
        )
        made.rename_results(tuple(self.results))
        return made


class Model(Protocol):
    """A model that a file holds."""

    path: Path
    title: str  # of the kind of file

    @property
    def inputs(self) -> Mapping[str, nl.TensorType]:
        """Types of the inputs, open sizes included."""

    @property
    def outputs(self) -> Sequence[str]:
        """Names of the results."""

    def computed(self, sizes: Sizes, values: Values) -> Computed:
        """The graph for inputs of these sizes; `values` are inputs that decide shapes."""

    def executable(
        self,
        device: str | None,
        options: nl.CompileOptions,
        sizes: Sizes,
        values: Values,
    ) -> nl.Executable:
        """Ready to run."""


def open_model(text: str, *, function: str | None = None) -> Model:
    """The model that the user named. Raises ConfigError, errors of the front end, OSError."""
    path = Path(text)
    suffix = path.suffix.lower()
    if suffix not in (*FRONT_ENDS, PACKAGE) and not _is_package(path):
        raise errors.ConfigError(
            "model",
            "the kind of file is not known by its name",
            received=text,
            advice=f"Give a file that ends in {', '.join((*FRONT_ENDS, PACKAGE))}",
        )
    if not path.exists():
        raise FileNotFoundError(2, "No such file", text)
    if suffix in FRONT_ENDS:
        return Imported(path, FRONT_ENDS[suffix])
    return Packaged(path, function)


def is_model(text: str) -> bool:
    """Whether a name is one of a model file, rather than of a graph as text or in Python."""
    path = Path(text)
    return path.suffix.lower() in (*FRONT_ENDS, PACKAGE) or _is_package(path)


def _is_package(path: Path) -> bool:
    return path.is_dir() and (path / "manifest.json").is_file()


class Imported:
    """A model that a front end read."""

    def __init__(self, path: Path, front_end: FrontEnd) -> None:
        self.path = path
        self.title = front_end.title
        self._model = reader(front_end).load(str(path))

    @property
    def inputs(self) -> Mapping[str, nl.TensorType]:
        return {n: t for n, t in self._model.inputs.items() if isinstance(t, nl.TensorType)}

    @property
    def outputs(self) -> Sequence[str]:
        return tuple(self._model.outputs)

    def computed(self, sizes: Sizes, values: Values) -> Computed:
        static = static_types(self, sizes)
        given = {n: t.static_shape for n, t in static.items() if not self.inputs[n].is_static}
        found = self._open(given, values) or self._model.specialise({**sizes, **given, **values})
        results: dict[str, nl.Tensor] = {}
        for name, value in found.outputs.items():
            results |= _tensors(name, value, found.graph)
        inputs = {n: t for n, t in found.inputs.items() if t in found.placeholders}
        types = {n: t.type if t.type.is_static else static[n] for n, t in inputs.items()}
        return Computed(found.graph, inputs, results, (), types)

    def _open(self, given: Sizes, values: Values) -> Any:
        """The graph with the sizes open that the model leaves open, so that a package can be
        compiled for others; None where the model computes with them in ways that need numbers."""
        if not given or values:
            return None
        try:
            return self._model.specialise({})
        except errors.NielloError:
            return None

    def executable(
        self,
        device: str | None,
        options: nl.CompileOptions,
        sizes: Sizes,
        values: Values,
    ) -> nl.Executable:
        return self.computed(sizes, values).compile(device, options)


def reader(front_end: FrontEnd) -> Any:
    """The module of a front end. Raises ConfigError where what it needs is not installed."""
    try:
        module = importlib.import_module(front_end.module)
        if front_end.extra not in front_end.module:
            importlib.import_module(front_end.extra)
        return module
    except ModuleNotFoundError as error:
        raise errors.ConfigError(
            f"{front_end.title} model",
            f"reading it needs {error.name}, which is not installed",
            advice=f"Install it with: pip install 'niello[{front_end.extra}]'",
        ) from error


def _tensors(name: str, value: Any, graph: nl.Graph) -> dict[str, nl.Tensor]:
    """An output of a model as tensors: a sequence has several, an empty optional none."""
    if value is None:
        return {}
    if isinstance(value, nl.Tensor):
        return {name: value}
    if isinstance(value, (list, tuple)):
        found = [_tensors(f"{name}[{i}]", v, graph) for i, v in enumerate(value)]
        return {n: t for part in found for n, t in part.items()}
    return {name: graph.constant(value)}


class Packaged:
    """A function of a package."""

    title = "package"

    def __init__(self, path: Path, function: str | None) -> None:
        self.path = path
        self.package = nl.Package(path)
        names = [f.name for f in self.package.functions]
        chosen = function or names[0]
        if chosen not in names or (function is None and len(names) > 1):
            raise errors.ConfigError(
                "--function",
                "choose what the package computes",
                received=function or "nothing",
                advice=f"It has {', '.join(names)}",
            )
        self.function = next(f for f in self.package.functions if f.name == chosen)

    @property
    def inputs(self) -> Mapping[str, nl.TensorType]:
        return dict(zip(self.function.inputs, self.function.types, strict=True))

    @property
    def outputs(self) -> Sequence[str]:
        return self.function.results

    def computed(self, sizes: Sizes, values: Values) -> Computed:
        found = self.package.computation(self.function)
        inputs = dict(zip(self.function.inputs, found.inputs, strict=True))
        results = dict(zip(self.function.results, found.targets, strict=True))
        held = self._held(sizes)
        types = held if held is not None else static_types(self, sizes)
        return Computed(self.package.graph, inputs, results, found.operations, types)

    def executable(
        self,
        device: str | None,
        options: nl.CompileOptions,
        sizes: Sizes,
        values: Values,
    ) -> nl.Executable:
        held = self._held(sizes)
        types = held if held is not None else static_types(self, sizes)
        return self.package.load(device, function=self.function.name, inputs=types)

    def _held(self, sizes: Sizes) -> dict[str, nl.TensorType] | None:
        """Input types that the package holds code for and that have the sizes asked for."""
        unknown_names(self, sizes)
        for v in self.package.variants:
            types = dict(zip(self.function.inputs, v.inputs, strict=True))
            if v.function == self.function.name and all(
                types[n].shape == tuple(size) for n, size in sizes.items()
            ):
                return types
        return None


def static_types(model: Model, sizes: Sizes) -> dict[str, nl.TensorType]:
    """The type of each input, with the sizes that the user gave. Raises ConfigError."""
    unknown_names(model, sizes)
    found = {}
    for name, declared in model.inputs.items():
        if name in sizes:
            found[name] = nl.TensorType(sizes[name], declared.dtype)
        elif declared.is_static:
            found[name] = declared
        elif declared.shape and declared.shape[0] is None and None not in declared.shape[1:]:
            found[name] = nl.TensorType((1, *declared.shape[1:]), declared.dtype)  # one sample
        else:
            raise errors.ConfigError(
                f"input {name}",
                "has sizes that the model leaves open",
                received=str(declared),
                advice=f"Give --shape {name}=SIZE,SIZE with a size for each dimension",
            )
    return found


def unknown_names(model: Model, names: Mapping[str, Any], option: str = "--shape") -> None:
    """Refuse names that are no inputs. Raises ConfigError."""
    if extra := [n for n in names if n not in model.inputs]:
        raise errors.ConfigError(
            option, f"there is no input {extra[0]!r}", received=extra[0],
            advice=f"Inputs are {', '.join(model.inputs) or 'none'}",
        )  # fmt: skip
