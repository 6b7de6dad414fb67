"""What to inspect: a graph in text form, a graph in a Python file, or the demo's own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import niello as nl
from niello import errors

DEMOS = ("digits", "digits-inference")


@dataclass(frozen=True)
class Subject:
    """A graph with what is computed of it."""

    graph: nl.Graph
    targets: tuple[nl.Tensor, ...]
    operations: tuple[nl.Operation, ...]


def find(text: str) -> Subject:
    """The subject that the user named. Raises ConfigError, CorruptFile and OSError."""
    if text in DEMOS:
        return _digits(training=text == "digits")
    path, _, attribute = text.rpartition(":")
    if path.endswith(".py"):
        return whole(_from_module(Path(path), attribute))
    if text.endswith(".py"):
        raise errors.ConfigError(
            "inspect", "name the graph in the file", received=text, advice=f"Write {text}:graph"
        )
    if not Path(text).exists():
        raise errors.ConfigError(
            "inspect",
            "there is no such file",
            received=text,
            advice="Give a graph in text form, FILE.py:graph, or one of " + ", ".join(DEMOS),
        )
    return whole(nl.parse_graph(_read(Path(text)), make=nl.Graph))  # type: ignore[arg-type]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except UnicodeDecodeError as error:
        raise errors.CorruptFile(
            f"inspect {path}", "this is not a graph in text form", received=str(error)
        ) from error


def whole(graph: nl.Graph) -> Subject:
    """All that a graph computes: tensors that nothing reads, and all effects."""
    read = {t for o in graph.operations for t in o.inputs}
    effects = tuple(o for o in graph.operations if not o.outputs)
    targets = tuple(
        t
        for o in graph.operations
        for t in o.outputs
        if t not in read and o.op.name not in ("placeholder", "variable", "constant")
    )
    if not targets and not effects:
        raise errors.GraphError(
            "inspect", f"the graph {graph.name!r} computes nothing",
            received=f"{len(graph.operations)} operations",
        )  # fmt: skip
    return Subject(graph, targets, effects)


def _digits(training: bool) -> Subject:
    from niello.cli.digits import network

    found = network.build(28, seed=0)
    if not training:
        return Subject(found.graph, (found.logits,), ())
    steps = network.training_step(found)
    return Subject(found.graph, (found.loss,), tuple(steps))


def _from_module(path: Path, attribute: str) -> nl.Graph:
    """A graph, or what a function without arguments returns, from a Python file."""
    if not path.is_file():
        raise FileNotFoundError(2, "No such file", str(path))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    found: Any = getattr(module, attribute, None)
    if callable(found):
        found = found()
    if not isinstance(found, nl.Graph):
        graphs = [name for name, value in vars(module).items() if isinstance(value, nl.Graph)]
        raise errors.ConfigError(
            f"inspect {path}",
            f"{attribute!r} must be a Graph or a function that returns one",
            received=type(found).__name__,
            advice=f"Graphs in the file: {', '.join(graphs) or 'none'}",
        )
    return found


def shapes(text: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`image=64,28,28,1` as {"image": (64, 28, 28, 1)}. Raises ConfigError."""
    found = {}
    for item in text:
        name, equals, sizes = item.partition("=")
        numbers = [n.strip() for n in sizes.split(",") if n.strip()]
        if not name or not equals or not all(n.isdecimal() for n in numbers):
            raise errors.ConfigError(
                "--shape", "must be NAME=SIZE,SIZE with a size for each dimension", received=item,
                advice="For example --shape image=64,28,28,1",
            )  # fmt: skip
        found[name] = tuple(int(n) for n in numbers)
    return found


def compile_subject(
    subject: Subject, given: Mapping[str, tuple[int, ...]], unknown: int, device: str | None
) -> nl.Executable:
    """Compile with sizes for what is unknown in the graph's inputs."""
    needed = _needed(subject)
    names = [t.name for t in needed]
    if extra := sorted(set(given) - set(names)):
        raise errors.ConfigError(
            "--shape", f"there is no input {extra[0]!r}", received=extra[0],
            advice=f"Inputs are {', '.join(names) or 'none'}",
        )  # fmt: skip
    feeds = {}
    for t in needed:
        if t.name in given:
            feeds[t] = given[t.name]
        elif t.shape is None:
            raise errors.ConfigError(
                "inspect", f"input {t.name} has no known rank", received=str(t.type),
                advice=f"Give --shape {t.name}=SIZE,SIZE with a size for each dimension",
            )  # fmt: skip
        else:
            feeds[t] = tuple(unknown if d is None else d for d in t.shape)
    return subject.graph.compile(feeds, subject.targets, subject.operations, device=device)


def _needed(subject: Subject) -> list[nl.Tensor]:
    """Placeholders that what is computed depends on."""
    seen: set[Any] = set()
    stack: list[Any] = [*(t.operation for t in subject.targets), *subject.operations]
    while stack:
        operation = stack.pop()
        if operation not in seen:
            seen.add(operation)
            stack += [t.operation for t in operation.inputs] + list(operation.control_inputs)
    return [t for t in subject.graph.placeholders if t.operation in seen]
