"""Program: walks the operations of an ML program (MIL) and builds a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml import operators as _operators  # noqa: F401  (registers them)
from niello.frontends.coreml.blobs import Blobs, dims, numpy_dtype, type_name, value_of
from niello.frontends.coreml.builder import Builder, Value, foldable
from niello.frontends.coreml.network import guarded
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.operators.custom import CUSTOM
from niello.frontends.coreml.reader import Source, check_supported
from niello.frontends.coreml.registry import OPERATORS

STRUCTURAL = ("const",)


def block_of(function: Any) -> Any:
    """The block of a function that its own operator set names, or the only one."""
    blocks = function.block_specializations
    if function.opset in blocks:
        return blocks[function.opset]
    for key in sorted(blocks):
        return blocks[key]
    raise nl.errors.FrontendError("Core ML program", "a function has no block")


def all_operations(block: Any) -> Iterator[Any]:
    """The operations of a block and of the blocks inside."""
    for operation in block.operations:
        yield operation
        for inner in operation.blocks:
            yield from all_operations(inner)


def check_program(source: Source, program: Any) -> None:
    """Refuse a program with operators that have no translation, naming them all."""

    def name(operation: Any) -> str:
        return str(operation.outputs[0].name) if operation.outputs else ""

    found = (
        (o.type, name(o))
        for function in program.functions.values()
        for o in all_operations(block_of(function))
    )
    known = {*OPERATORS, *STRUCTURAL, *source.custom}
    check_supported(source, found, known.__contains__, "operators")


def described(source: Source, spec: Any, function: str | None) -> Any:
    """The description of inputs and outputs: of the model, or of one of its functions."""
    d = spec.description
    if not d.functions:
        if function not in (None, "main"):
            raise source.refuse("the model has no several functions", repr(function))
        return d
    wanted = function or d.defaultFunctionName
    for f in d.functions:
        if f.name == wanted:
            return f
    names = ", ".join(f.name for f in d.functions)
    raise source.refuse("has no such function", repr(wanted), f"Its functions are {names}")


class Program:
    """Builds the graph of one function of a program."""

    def __init__(self, source: Source, spec: Any, builder: Builder) -> None:
        self.source = source
        self.builder = builder
        self.description = described(source, spec, builder.function)
        self.blobs = Blobs(source.folder, source.name)
        functions = spec.mlProgram.functions
        name = builder.function or (
            spec.description.defaultFunctionName if spec.description.functions else "main"
        )
        if name not in functions:
            raise source.refuse(
                "the program has no such function", repr(name), f"It has {', '.join(functions)}"
            )
        self.function = functions[name]
        self.specification = spec.specificationVersion

    def features(self, which: str) -> list[Any]:
        """The features of the function: input, output or state."""
        return list(getattr(self.description, which))

    def build(self, given: Mapping[str, nl.Tensor]) -> dict[str, Value]:
        """All outputs of the function by name."""
        values: dict[str, Value] = {}
        for declared in self.function.inputs:
            values[declared.name] = self._input(declared, given)
        block = block_of(self.function)
        self.block(block, values)
        return {name: values[name] for name in block.outputs}

    def _input(self, declared: Any, given: Mapping[str, nl.Tensor]) -> Value:
        if declared.type.WhichOneof("type") == "stateType":
            kind = declared.type.stateType.wrappedType.tensorType
            zeros = np.zeros(tuple(d or 1 for d in dims(kind)), numpy_dtype(type_name(kind)))
            return State(self.builder, self.builder.graph.variable(zeros, name=declared.name))
        if declared.name not in given:
            raise self.source.refuse("the description lacks an input", repr(declared.name))
        kind = declared.type.tensorType
        x = given[declared.name]
        wanted = nl.TensorType((), numpy_dtype(type_name(kind))).dtype
        return nl.cast(x, wanted) if x.dtype is not wanted else x

    def block(self, block: Any, values: dict[str, Value]) -> None:
        """Translate the operations of a block, noting their outputs."""
        for message in block.operations:
            found = self._outputs(message, values)
            if len(found) < len(message.outputs):
                raise nl.errors.FrontendError(
                    f"Core ML operator {message.type}",
                    f"has {len(message.outputs)} names for outputs",
                    received=len(found),
                )
            for declared, value in zip(message.outputs, found, strict=False):
                values[declared.name] = value

    def _outputs(self, message: Any, values: dict[str, Value]) -> tuple[Value, ...]:
        if message.type == "const":
            return (value_of(message.attributes["val"], self.blobs),)
        inputs = {name: self._argument(a, values) for name, a in message.inputs.items()}
        for name, attribute in message.attributes.items():
            if name not in inputs and name != "name":
                inputs[name] = value_of(attribute, self.blobs)
        call = Op(self.builder, message, inputs, self, values)
        translation = OPERATORS.get(message.type, CUSTOM)
        held = [v for v in inputs.values() if not _is_text(v)]
        fold = translation.fold and foldable(held)
        found = guarded(call, translation.translate, fold, held)
        return found if isinstance(found, tuple) else (found,)

    def _argument(self, argument: Any, values: Mapping[str, Value]) -> Value:
        found = []
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                found.append(value_of(binding.value, self.blobs))
            elif binding.name in values:
                found.append(values[binding.name])
            else:
                raise self.source.refuse("no operator before computes a value", repr(binding.name))
        return found[0] if len(found) == 1 else tuple(found)


class State:
    """A state of the model: a variable, and the value that it has at this place of the program."""

    def __init__(self, builder: Builder, variable: nl.Variable) -> None:
        self.builder = builder
        self.variable = variable
        self.value: nl.Tensor = variable
        self.update: nl.Operation | None = None

    def write(self, value: nl.Tensor) -> None:
        """Give it a new value; the last one stays for the next run."""
        self.value = value
        if self.update is not None:
            self.builder.updates.remove(self.update)
        self.update = self.variable.assign(value)
        self.builder.updates.append(self.update)


def _is_text(value: Any) -> bool:
    if isinstance(value, (str, dict)) or value is None:
        return True
    return isinstance(value, tuple) and bool(value) and all(isinstance(v, str) for v in value)
