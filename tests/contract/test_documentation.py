"""Every op and every published function explains itself, and the examples run."""

from __future__ import annotations

import doctest
import inspect

import pytest

import niello as nl
from niello.graph import opdef
from tests.contract.contract_cases import operations, registry


@pytest.mark.parametrize("name", operations())
def test_an_op_is_named_and_described(name: str) -> None:
    cls = registry()[name]
    assert cls.name == name and cls.doc.rstrip().endswith(".")


@pytest.mark.parametrize("name", sorted(opdef.functions()))
def test_examples_of_published_functions_run(name: str) -> None:
    function = opdef.functions()[name]
    text = inspect.getdoc(function) or ""
    assert text, f"niello.{name} has no docstring"
    examples = doctest.DocTestParser().get_doctest(text, {"nl": nl}, name, None, 0)
    assert examples.examples, f"niello.{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    failures: list[str] = []
    runner.run(examples, out=failures.append)
    assert runner.failures == 0, "".join(failures)


def test_evaluate_example_runs() -> None:
    import niello.graph.evaluate as module

    assert doctest.testmod(module).failed == 0
