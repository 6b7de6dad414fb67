"""Public names say what they are, and their examples run."""

from __future__ import annotations

import ast
import doctest
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from sources import sources

import niello as nl


def public() -> Iterator[tuple[str, Any]]:
    """Everything a user finds under `niello.`, and the methods of its classes."""
    for name in nl.__all__:
        value = getattr(nl, name)
        yield name, value
        if inspect.isclass(value):
            for key, member in vars(value).items():
                if not key.startswith("_") and (callable(member) or isinstance(member, property)):
                    yield f"{name}.{key}", member


def test_public_names_exist_and_are_listed_once() -> None:
    assert len(nl.__all__) == len(set(nl.__all__))
    assert not [name for name in nl.__all__ if not hasattr(nl, name)]


def test_public_names_are_documented() -> None:
    described = {n: inspect.getdoc(v) for n, v in public() if not isinstance(v, nl.DType)}
    assert not [name for name, text in described.items() if not text]


def test_modules_are_documented() -> None:
    bare = [s.path for s in sources("niello", "tools", "bench") if not ast.get_docstring(s.tree)]
    assert not bare


def test_public_functions_have_types() -> None:
    """Every parameter and result of a public function of niello is annotated."""
    bare = []
    for source in sources("niello"):
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            found = [a for a in _parameters(node.args) if a.annotation is None]
            bare += [f"{source.path}:{node.lineno} {node.name}({a.arg})" for a in found]
            if node.returns is None:
                bare.append(f"{source.path}:{node.lineno} {node.name} -> ?")
    assert not bare, "\n".join(bare)


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    listed += [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return [a for a in listed if a.arg not in ("self", "cls")]


def examples() -> list[doctest.DocTest]:
    """The examples in the documentation of public names."""
    finder = doctest.DocTestFinder(recurse=False)
    found = {}
    for name, value in public():
        for test in finder.find(value, name, globs={}):
            if test.examples:
                found[name] = test
    return list(found.values())


@pytest.mark.parametrize("example", examples(), ids=lambda e: e.name)
def test_examples_run(example: doctest.DocTest) -> None:
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)
