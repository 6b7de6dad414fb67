"""A run that fails leaves variables as they were, and the next one works."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello.backends.numpy.device import NumpyLoaded
from niello.core.errors import DeviceError, FeedError, NielloError, OutOfMemory, ShapeError


class Step:
    """A graph with a variable that each good run increments."""

    def __init__(self) -> None:
        self.graph = nl.Graph()
        self.x = self.graph.placeholder((None,), name="x")
        self.w = self.graph.placeholder((None,), name="w")
        self.v = self.graph.variable(np.zeros(3, np.float32))
        self.y = self.x + self.w
        self.step = self.v.assign(self.v + 1.0)

    def run(self, x: object, w: object, device: str, **options: object) -> object:
        feeds = {self.x: x, self.w: w}
        return self.graph.run(feeds, [self.y], [self.step], device=device, **options)[self.y]


def ones(n: int) -> np.ndarray:
    return np.ones(n, np.float32)


@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize(
    ("feeds", "options", "error"),
    [
        ((ones(2), ones(3)), {}, ShapeError),
        ((ones(2), ones(2).astype(np.float64)), {}, FeedError),
        ((ones(2), "abc"), {}, FeedError),
        ((ones(2), ones(2)), {"results": {}}, FeedError),
        ((np.broadcast_to(ones(1), (1 << 40,)), ones(1)), {}, (OutOfMemory, MemoryError)),
    ],
)
def test_variables_keep_their_values(feeds, options, error, device: str) -> None:
    made = Step()
    with pytest.raises(error):
        made.run(*feeds, device, **options)
    np.testing.assert_array_equal(made.v.value, np.zeros(3))
    np.testing.assert_array_equal(made.run(ones(2), ones(2), device), [2, 2])
    np.testing.assert_array_equal(made.v.value, ones(3))


@pytest.mark.parametrize("interrupt", [MemoryError, KeyboardInterrupt])
def test_failure_in_the_middle_of_a_run(
    monkeypatch: pytest.MonkeyPatch, interrupt: type[BaseException]
) -> None:
    """The second of two updates fails after the first was written."""
    graph = nl.Graph()
    a, b = graph.variable(np.zeros(3, np.float32)), graph.variable(np.zeros((2, 2), np.float32))
    steps = [a.assign(a + 1.0), b.assign(nl.matmul(b + 1.0, b))]
    executable = graph.compile({}, [], steps, device="numpy")
    count = len(executable.program.commands)
    assert count >= 2
    run, calls = NumpyLoaded._run, []

    def failing(self: NumpyLoaded, memory: object, command: object) -> None:
        calls.append(command)
        if len(calls) == count:
            raise interrupt
        run(self, memory, command)  # type: ignore[arg-type]

    monkeypatch.setattr(NumpyLoaded, "_run", failing)
    with pytest.raises(interrupt):
        executable.run()
    np.testing.assert_array_equal(a.value, np.zeros(3))
    np.testing.assert_array_equal(b.value, np.zeros((2, 2)))
    monkeypatch.undo()
    executable.run()
    np.testing.assert_array_equal(a.value, ones(3))


def test_device_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks and memory are given back: the executable can run again."""
    made = Step()
    executable = made.graph.compile(
        {made.x: (2,), made.w: (2,)}, [made.y], [made.step], device="cpu"
    )
    broken = DeviceError("cpu", "a thread could not be started", received="EAGAIN")
    with monkeypatch.context() as patch:
        patch.setattr(executable.loaded, "play", lambda handles: (_ for _ in ()).throw(broken))
        for _ in range(3):
            with pytest.raises(DeviceError):
                executable.run([ones(2), ones(2)])
    np.testing.assert_array_equal(made.v.value, np.zeros(3))
    executable.run([ones(2), ones(2)])
    np.testing.assert_array_equal(made.v.value, ones(3))


def test_a_failed_compilation_is_not_cached() -> None:
    made = Step()
    for _ in range(2):
        with pytest.raises(NielloError):
            made.run(ones(2), ones(3), "numpy")
    assert made.graph.cache_info().size == 0
    assert made.graph.cache_info().hits == 0


def test_a_failed_build_leaves_the_graph_usable() -> None:
    graph = nl.Graph()
    x, y = graph.placeholder((2, 3)), graph.placeholder((4, 5))
    before = [o.name for o in graph.operations]
    with pytest.raises(ShapeError):
        nl.matmul(x, y)
    assert [o.name for o in graph.operations] == before
    z = nl.matmul(x, x.transpose())
    assert z.name == "matmul"
    assert graph.run({x: np.ones((2, 3), np.float32)}, [z])[z].shape == (2, 2)
