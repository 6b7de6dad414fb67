"""Every class of error, by its fields and by its sentence.

Each case is one mistake. The sentence says what was asked, what was wrong, what was received and
what to do; where a graph is built, it names the user's line.
"""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import niello as nl
from niello import backends
from niello.core import errors
from niello.core.errors import (
    AttributeValueError,
    BackendUnavailable,
    CompilerBug,
    ConfigError,
    DeviceError,
    DTypeError,
    FeedError,
    GraphError,
    LimitExceeded,
    NielloError,
    NotDifferentiable,
    OutOfMemory,
    ShapeError,
    UnsupportedDtype,
    UnsupportedOp,
)
from niello.graph.opdef import refusal, registry

FLOAT = np.float32


@dataclass(frozen=True)
class Mistake:
    """Something a user does wrong, the class of its error, and what the sentence must hold."""

    name: str
    error: type[NielloError]
    make: Callable[[], Any]
    words: str  # a regular expression
    building: bool = False  # made while a graph is built: the error points at the line
    builtin: type[BaseException] = Exception  # what else an `except` may name


def x_of(*shape: int | None, dtype: nl.DType = nl.float32) -> nl.Tensor:
    return nl.Graph().placeholder(shape, dtype, name="x")


def pair(a: tuple, b: tuple, dtype: nl.DType = nl.float32) -> tuple[nl.Tensor, nl.Tensor]:
    graph = nl.Graph()
    return graph.placeholder(a, dtype), graph.placeholder(b, dtype)


def run(feeds: Callable, build: Callable = lambda x: [x + 1.0]) -> Any:
    x = x_of(2, 3)
    return x.graph.run(feeds(x), build(x))


def cyclic() -> Any:
    x = x_of(3)
    a = x + 1.0
    b = a * 2.0
    a.operation.control_inputs = (b.operation,)
    return x.graph.run({x: [1, 2, 3]}, [b])


def gradient_through_random_choice() -> Any:
    x = x_of(4)
    return x.graph.gradients(x.cast(nl.int32), [x])


def on_device(name: str) -> Any:
    x = x_of(2)
    return x.graph.run({x: [1.0, 2.0]}, [x + 1.0], device=name)


MISTAKES = [
    # shapes
    Mistake(
        "broadcast",
        ShapeError,
        lambda: nl.add(*pair((2, 3), (4, 5))),
        r"add: shapes do not broadcast together; received \[2, 3\] and \[4, 5\]\. .*equal or 1",
        True,
        ValueError,
    ),
    Mistake(
        "matmul",
        ShapeError,
        lambda: nl.matmul(*pair((2, 3), (4, 5))),
        r"matmul: .*received",
        True,
        ValueError,
    ),
    Mistake(
        "axis",
        ShapeError,
        lambda: x_of(2, 3).sum(5),
        r"axis 5 is outside a tensor of rank 2; received 5\. Use an axis from -2 to 1",
        False,
        ValueError,
    ),
    Mistake("axis twice", ShapeError, lambda: x_of(2, 3).sum((0, -2)), r"an axis is given twice"),
    Mistake("reshape", ShapeError, lambda: x_of(2, 3).reshape((4,)), r"reshape: .*received", False),
    Mistake("negative size", ShapeError, lambda: x_of(-1), r"cannot be negative; received -1"),
    Mistake("fractional size", ShapeError, lambda: x_of(1.5), r"must be an integer.*received 1\.5"),
    Mistake(
        "overflow",
        ShapeError,
        lambda: x_of(2**40, 2**40),
        r"the product of the dimensions overflows; received \[\d+, \d+\]\. At most 2\*\*62",
    ),
    Mistake(
        "overflow of a result",
        ShapeError,
        lambda: x_of(2**31, 1).broadcast_to((2**31, 2**40)),
        r"overflow",
    ),
    Mistake("rank", ShapeError, lambda: x_of(*[1] * 17), r"at most 16 dimensions"),
    Mistake(
        "convolution",
        ShapeError,
        lambda: nl.conv2d(*pair((1, 3, 8, 8), (4, 5, 3, 3))),
        r"the data has 3 channels, the weights expect 5",
        True,
    ),
    Mistake(
        "concat", ShapeError, lambda: nl.concat(list(pair((2, 3), (2, 4))), 0), r"concat", True
    ),
    # dtypes
    Mistake(
        "promotion",
        DTypeError,
        lambda: (
            nl.Graph().placeholder((1,), nl.int64, name="i").graph.placeholders[0]
            + np.ones(1, np.uint64)
        ),
        r"no integer type holds both int64 and uint64.*Cast one",
        False,
        TypeError,
    ),
    Mistake(
        "bool arithmetic",
        DTypeError,
        lambda: x_of(2, dtype=nl.bool_).exp(),
        r"exp: .*received bool",
        True,
        TypeError,
    ),
    Mistake(
        "unknown dtype",
        DTypeError,
        lambda: nl.Graph().placeholder((1,), "float17"),
        r"dtype: no such element type; received 'float17'\. Use one of bool, int8",
    ),
    Mistake(
        "constant of text", DTypeError, lambda: nl.Graph().constant("1"), r"received str\d+: '1'"
    ),
    Mistake(
        "constant beyond all memory",
        ShapeError,
        lambda: nl.Graph().constant(1.0, nl.float64, shape=(2**61,)),
        r"no memory holds",
    ),
    Mistake(
        "constant out of range",
        DTypeError,
        lambda: nl.Graph().constant(300, nl.uint8),
        r"the value is not one of uint8: .*; received 300\. Give another dtype",
    ),
    Mistake(
        "assign another dtype",
        DTypeError,
        lambda: nl.Graph().variable([1.0], name="w").assign(np.ones(1)),
        r"variable w holds float32; received float64\. Cast the value first",
    ),
    # attributes
    Mistake(
        "padding mode",
        AttributeValueError,
        lambda: x_of(2).pad([(1, 1)], mode="mirror"),
        r"pad: .*received 'mirror'",
        False,
        ValueError,
    ),
    Mistake(
        "cache limit",
        AttributeValueError,
        lambda: nl.Graph(cache_limit=0),
        r"cache_limit must be at least 1; received 0",
    ),
    # graphs
    Mistake(
        "two graphs",
        GraphError,
        lambda: x_of(1) + x_of(1),
        r"add: an input belongs to another graph; received <Tensor 'x': float32\[1\]>\. Build",
        True,
        ValueError,
    ),
    Mistake(
        "target of another graph",
        GraphError,
        lambda: (lambda x: x.graph.run({x: [1.0]}, [x_of(1)]))(x_of(1)),
        r"a tensor belongs to another graph; received <Tensor 'x'.*Run the graph",
    ),
    Mistake(
        "operation of another graph",
        GraphError,
        lambda: (lambda v: nl.Graph().run({}, [], [v.assign(v)]))(nl.Graph().variable([1.0])),
        r"a target operation is not one of this graph",
    ),
    Mistake(
        "target that is no tensor",
        GraphError,
        lambda: nl.Graph().run({}, [3]),
        r"needs tensors of the graph; received int",
    ),
    Mistake(
        "single target",
        GraphError,
        lambda: run(lambda x: {x: np.ones((2, 3), FLOAT)}, lambda x: x + 1.0),
        r"targets: takes a list; received <Tensor 'add'.*Write targets=\[\.\.\.\]",
    ),
    Mistake("nothing to do", GraphError, lambda: nl.Graph().run({}, []), r"nothing to compute"),
    Mistake(
        "cycle",
        GraphError,
        cyclic,
        r"control dependencies: they form a cycle; received add after multiply after add",
        True,
    ),
    Mistake("truth of a tensor", GraphError, lambda: bool(x_of(1)), r"has no value while"),
    Mistake(
        "gradient across graphs",
        GraphError,
        lambda: (lambda x: x.graph.gradients(x, [x_of(1)]))(x_of(1)),
        r"another graph",
    ),
    Mistake(
        "feed key",
        GraphError,
        lambda: run(lambda x: {"x": 1.0}),
        r"feeds: the keys must be placeholders of this graph; received 'x'",
    ),
    # feeds
    Mistake(
        "missing feed",
        FeedError,
        lambda: run(lambda x: {}),
        r"feeds: placeholder 'x' must be fed; received feeds for nothing\. Feed every",
        False,
        ValueError,
    ),
    Mistake(
        "superfluous feed",
        FeedError,
        lambda: (lambda x, y: x.graph.run({x: [1.0], y: [1.0]}, [x + 1.0]))(*pair((1,), (1,))),
        r"nothing that is computed depends on placeholder 'placeholder_1'",
    ),
    Mistake(
        "feed of something computed",
        FeedError,
        lambda: (lambda y: y.graph.run({y: [1.0]}, [y * 2.0]))(x_of(1).exp()),
        r"tensor 'exp' cannot be fed: the graph computes it",
    ),
    Mistake(
        "feed of another shape",
        FeedError,
        lambda: run(lambda x: {x: np.ones((3, 3), FLOAT)}),
        r"feed x: the placeholder is float32\[2, 3\]; received float32\[3, 3\]\. Give",
    ),
    Mistake(
        "feed of another dtype",
        FeedError,
        lambda: run(lambda x: {x: np.ones((2, 3))}),
        r"feed x: the placeholder holds float32; received float64\[2, 3\]\. Convert",
    ),
    Mistake(
        "feed of no array",
        FeedError,
        lambda: run(lambda x: {x: "abc"}),
        r"feed x: the value is not a rectangular array of numbers; received str 'abc'\. Feed an"
        r" array of float32\[2, 3\]",
    ),
    Mistake(
        "unknown size",
        FeedError,
        lambda: (lambda x: x.graph.compile({x: (None,)}, [x + 1.0]))(x_of(None)),
        r"every size must be known to compile; received float32\[\?\]",
    ),
    # gradients
    Mistake(
        "gradient of integers",
        NotDifferentiable,
        gradient_through_random_choice,
        r"holds int32, which has no gradient",
        False,
        TypeError,
    ),
    # devices
    Mistake(
        "unknown device",
        BackendUnavailable,
        lambda: on_device("abacus"),
        r"device: there is no such back end; received 'abacus'\. Known back ends: .*cpu",
        False,
        RuntimeError,
    ),
    Mistake(
        "run on null", DeviceError, lambda: on_device("null"), r"null device: it only compiles"
    ),
    Mistake(
        "larger than any buffer",
        LimitExceeded,
        lambda: (lambda g: g.run({}, [g.constant(1.0, nl.float64, shape=(2**50,))], device="cpu"))(
            nl.Graph()
        ),
        r"cpu device: output 0 is larger than the device's largest buffer; received \d+ bytes",
    ),
    Mistake(
        "out of memory",
        OutOfMemory,
        lambda: (lambda g: g.run({}, [g.constant(1.0, shape=(2**42,))], device="cpu"))(nl.Graph()),
        r"allocate: 16\.0 TiB do not fit: .* are in use of .*; received \d+ bytes\. Drop",
        False,
        MemoryError,
    ),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.name.replace(" ", "_"))
def test_class_fields_and_sentence(mistake: Mistake) -> None:
    with pytest.raises(mistake.error) as caught:
        mistake.make()
    error = caught.value
    assert type(error) is mistake.error
    assert isinstance(error, mistake.builtin)
    text = str(error)
    assert re.search(mistake.words, text), text
    assert error.asked and text.startswith(f"{error.asked}: ")
    assert error.received is not None, text
    assert f"; received {error.received}" in text
    assert ".." not in text.replace("...", ""), text
    if mistake.building:
        assert __file__ in error.where, text


@pytest.mark.parametrize("mistake", MISTAKES[::7], ids=lambda m: m.name.replace(" ", "_"))
def test_errors_travel_between_processes(mistake: Mistake) -> None:
    with pytest.raises(mistake.error) as caught:
        mistake.make()
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is mistake.error
    assert str(again) == str(caught.value)
    assert again.fields.keys() == caught.value.fields.keys()


# --- what needs more than one line to bring about
def refusing_ops() -> list[str]:
    """Ops on floats that refuse a gradient."""
    known = registry().items()
    return sorted(n for n, c in known if refusal(c) and nl.float32 in c.dtypes and c.samples())


@pytest.mark.parametrize("name", refusing_ops())
def test_gradient_through_an_operation_that_has_none(name: str) -> None:
    cls = registry()[name]
    with pytest.raises(NotDifferentiable) as caught:
        cls.grad(cls, (None,), (), ())
    assert caught.value.operation == name
    assert refusal(cls) in str(caught.value)
    assert "Stop the gradient" in str(caught.value)


def test_unsupported_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without float64 says so before anything is compiled."""
    record = backends.backend("numpy")
    small = dataclasses.replace(record.limits, dtypes=record.limits.dtypes - {nl.float64})
    monkeypatch.setattr(
        "niello.executable.compile.backends.backend",
        lambda name: dataclasses.replace(record, limits=small),
    )
    x = x_of(2, dtype=nl.float64)
    with pytest.raises(
        UnsupportedDtype, match=r"numpy device: kernel .* received float64"
    ) as caught:
        x.graph.run({x: np.ones(2)}, [x + 1.0], device="numpy")
    assert isinstance(caught.value, (DeviceError, TypeError))
    assert "float32" in caught.value.advice


def test_unsupported_op() -> None:
    """A program with a library call that the device does not have."""
    from niello.runtime.commands import BufferRef, LibraryCall, Program, Space

    call = LibraryCall("cudnn.convolution", (), (BufferRef(Space.OUTPUT, 0, 0, 4),), (True,))
    program = Program((), (call,), (), (nl.TensorType((1,)),), (), (), 0)
    device = backends.device("numpy")
    loaded = device.compile(program, nl.CompileOptions())
    buffers = [device.allocate(64), device.allocate(64)]
    with pytest.raises(UnsupportedOp, match=r"received cudnn\.convolution") as caught:
        loaded.play([b.handle for b in buffers])
    assert caught.value.asked == "numpy device"


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("NIELLO_OPTIMISE", "yes", "must be an integer from 0 to 1; received 'yes'"),
        ("NIELLO_VERIFY", "3", "must be an integer from 0 to 2; received '3'"),
        ("NIELLO_DEBUG", "-1", "must be an integer from 0 to 6; received '-1'"),
        ("NIELLO_DEVICE", "abacus", "there is no such back end; received 'abacus'"),
    ],
)
def test_flags(monkeypatch: pytest.MonkeyPatch, flag: str, value: str, words: str) -> None:
    monkeypatch.setenv(flag, value)
    x = x_of(2)
    with pytest.raises((ConfigError, BackendUnavailable), match=words):
        x.graph.run({x: [1.0, 2.0]}, [x + 1.0])


def test_unknown_machine_level() -> None:
    x = x_of(2)
    with pytest.raises(ConfigError) as caught:
        x.graph.compile({x: (2,)}, [x + 1.0], device="cpu", options=nl.CompileOptions(target="z80"))
    assert "z80" in str(caught.value)


def test_compiler_bug_prints_the_form() -> None:
    from niello.kernel.ir import Kernel, Param, Range, Store
    from niello.kernel.verify import verify

    i = Range("i", 4)
    out = Param(0, nl.float32, 4, True)
    broken = Kernel("broken", (out,), (Store(out, (i,), i, i, None, None),))
    with pytest.raises(CompilerBug, match=r"verify kernel broken: .*another dtype") as caught:
        verify(broken)
    assert 'kernel "broken"' in caught.value.advice


def test_every_class_has_a_test() -> None:
    """Each class is named in some test, and says in a line when it is raised."""
    known = [
        c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, NielloError)
    ]
    texts = "".join(p.read_text() for p in Path(__file__).parents[1].rglob("test_*.py"))
    assert [c.__name__ for c in known if not re.search(rf"\b{c.__name__}\b", texts)] == []
    assert all(c.__doc__ for c in known)
