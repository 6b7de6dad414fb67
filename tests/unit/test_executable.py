"""Running: by position and by name, results in place, what is shared, what is refused."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import niello as nl
from niello.core.errors import FeedError, GraphError, OutOfMemory

DEVICES = ("cpu", "numpy")
each_device = pytest.mark.parametrize("device", DEVICES)


def arange(*shape: int) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape)


def two_inputs(device: str = "cpu", shape: tuple[int, ...] = (2, 3)) -> nl.Executable:
    graph = nl.Graph("pair")
    a, b = graph.placeholder(shape, name="a"), graph.placeholder(shape, name="b")
    return graph.compile({a: shape, b: shape}, [a - b, a * b], device=device)


# --- positional and named
@each_device
def test_by_position(device: str) -> None:
    executable = two_inputs(device)
    difference, product = executable.run([arange(2, 3), np.ones((2, 3), np.float32)])
    np.testing.assert_array_equal(difference, arange(2, 3) - 1)
    np.testing.assert_array_equal(product, arange(2, 3))


def test_inputs_are_in_the_order_of_the_feeds() -> None:
    graph = nl.Graph()
    a, b = graph.placeholder((1,), name="a"), graph.placeholder((1,), name="b")
    executable = graph.compile({b: (1,), a: (1,)}, [a - b])
    assert executable.inputs == (b, a)
    assert executable.run([np.ones(1, np.float32), np.zeros(1, np.float32)])[0].item() == -1.0


@each_device
def test_by_tensor_and_by_name(device: str) -> None:
    executable = two_inputs(device)
    a, b = executable.inputs
    ones = np.ones((2, 3), np.float32)
    found = executable.run({b: ones, a: arange(2, 3)})
    np.testing.assert_array_equal(found[executable.targets[0]], arange(2, 3) - 1)
    found = executable.run({"b": ones, "a": arange(2, 3)})
    assert set(found) == {"subtract", "multiply"}
    np.testing.assert_array_equal(found["subtract"], arange(2, 3) - 1)


def test_an_executable_without_inputs() -> None:
    graph = nl.Graph()
    executable = graph.compile({}, [graph.constant([1.0, 2.0]) * 2.0])
    np.testing.assert_array_equal(executable.run()[0], [2, 4])
    np.testing.assert_array_equal(executable.run({})["multiply"], [2, 4])


def test_what_it_says_of_itself() -> None:
    executable = two_inputs()
    assert executable.input_types == (nl.TensorType((2, 3)),) * 2
    assert executable.output_types == (nl.TensorType((2, 3)),) * 2
    assert executable.kernel_count == 1
    assert executable.arena_bytes == 0
    assert executable.bytes_moved == 4 * 24
    assert "pair" in repr(executable)
    for stage in ("input", "graph", "schedule", "kernels", "source"):
        assert executable.as_text(stage).strip()
    with pytest.raises(GraphError, match="a stage is one of") as caught:
        executable.as_text("magic")
    assert caught.value.received == "'magic'"


# --- results
@each_device
def test_results_into_arrays(device: str) -> None:
    executable = two_inputs(device)
    out = [np.full((2, 3), np.nan, np.float32) for _ in range(2)]
    given = executable.run([arange(2, 3), arange(2, 3)], results=out)
    assert given[0] is out[0]
    np.testing.assert_array_equal(out[0], np.zeros((2, 3)))
    np.testing.assert_array_equal(out[1], arange(2, 3) ** 2)


@each_device
def test_results_into_tensor_data(device: str) -> None:
    executable = two_inputs(device)
    first = executable.run([arange(2, 3), arange(2, 3)])
    address = first[1].handle
    executable.run([np.ones((2, 3), np.float32), arange(2, 3)], results=first)
    assert first[1].handle == address
    np.testing.assert_array_equal(first[1], arange(2, 3))


def test_graph_run_with_results() -> None:
    graph = nl.Graph()
    x = graph.placeholder((3,))
    y, z = x + 1.0, x * 2.0
    out = {z: np.empty(3, np.float32), y: np.empty(3, np.float32)}
    graph.run({x: arange(3)}, [y, z], results=out)
    np.testing.assert_array_equal(out[y], [1, 2, 3])
    np.testing.assert_array_equal(out[z], [0, 2, 4])
    for wrong in ({y: out[y]}, {**out, x: np.empty(3, np.float32)}):
        with pytest.raises(FeedError, match="each target and nothing else"):
            graph.run({x: arange(3)}, [y, z], results=wrong)


def read_only() -> np.ndarray:
    array = np.empty((2, 3), np.float32)
    array.setflags(write=False)
    return array


WRONG_RESULTS = {
    "shape": lambda: np.empty((3, 2), np.float32),
    "dtype": lambda: np.empty((2, 3)),
    "byte order": lambda: np.empty((2, 3), ">f4"),
    "strided": lambda: np.empty((2, 6), np.float32)[:, ::2],
    "transposed": lambda: np.empty((3, 2), np.float32).T,
    "read only": read_only,
    "read-only TensorData": lambda: nl.TensorData.from_numpy(read_only()),
    "TensorData of another type": lambda: nl.TensorData.from_numpy(np.zeros((2, 3))),
    "list": lambda: [[0.0] * 3] * 2,
    "none": lambda: None,
}


@pytest.mark.parametrize("kind", WRONG_RESULTS)
def test_results_that_do_not_fit(kind: str) -> None:
    executable = two_inputs()
    good = np.full((2, 3), 7, np.float32)
    with pytest.raises(FeedError) as caught:
        executable.run([arange(2, 3)] * 2, results=[good, WRONG_RESULTS[kind]()])
    assert caught.value.asked == "result multiply"
    assert "float32[2, 3]" in str(caught.value)
    assert (good == 7).all()  # nothing ran


@each_device
def test_overlapping_results_are_refused(device: str) -> None:
    executable = two_inputs(device)
    a, b = arange(2, 3), arange(2, 3)
    long = np.zeros(9, np.float32)
    first, second = long[:6].reshape(2, 3), long[3:].reshape(2, 3)
    for inputs, results in (
        ([a, b], [a, np.empty_like(a)]),
        ([a, b], [first, first]),
        ([a, b], [first, second]),
        ([first, b], [np.empty_like(a), second]),
    ):
        with pytest.raises(FeedError, match="overlaps"):
            executable.run(inputs, results=results)
    half = np.zeros(12, np.float32)
    executable.run([a, b], results=[half[:6].reshape(2, 3), half[6:].reshape(2, 3)])
    np.testing.assert_array_equal(half[6:], (arange(2, 3) ** 2).ravel())


# --- inputs
@each_device
def test_inputs_of_every_layout(device: str) -> None:
    executable = two_inputs(device)
    base = arange(4, 6)
    raw = np.zeros(25, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(2, 3)
    unaligned[...] = arange(2, 3)
    for value in (
        base[::2, ::2],
        base[:3, :2].T,
        base[3::-2, 4:1:-1],
        arange(2, 3).astype(">f4"),
        unaligned,
        np.broadcast_to(np.float32(2), (2, 3)),
        np.asfortranarray(arange(2, 3)),
        [[1, 2, 3], [4.5, 5, True]],
        ((1, 2, 3), (4, 5, 6)),
        nl.TensorData.from_numpy(arange(2, 3)),
        np.array([[1, 2, 3], [4, 5, 6]], np.float32).view(type("Sub", (np.ndarray,), {})),
    ):
        expected = np.asarray(value, np.float32)
        found = executable.run([value, np.ones((2, 3), np.float32)])
        np.testing.assert_array_equal(found[1], expected)
        np.testing.assert_array_equal(found[0], expected - 1)


@each_device
def test_nothing_is_written_to_inputs(device: str) -> None:
    executable = two_inputs(device)
    a = arange(2, 3)
    a.setflags(write=False)
    executable.run([a, a])
    np.testing.assert_array_equal(a, arange(2, 3))


def test_contiguous_inputs_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    executable = two_inputs()
    a, b = arange(2, 3), arange(2, 3)
    shared = nl.TensorData.from_numpy(b)
    seen = []
    play = executable.loaded.play
    monkeypatch.setattr(executable.loaded, "play", lambda h: (seen.append(list(h)), play(h)))
    out = [np.empty((2, 3), np.float32) for _ in range(2)]
    executable.run([a, shared], results=out)
    wanted = [x.__array_interface__["data"][0] for x in (a, b, *out)]
    assert seen[0][:4] == wanted


class Exported:
    """A tensor of some other library: DLPack and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: object) -> object:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


@each_device
def test_dlpack_in_and_out(device: str) -> None:
    executable = two_inputs(device)
    array = arange(2, 3)
    assert nl.TensorData.from_dlpack(Exported(array)).handle == array.ctypes.data
    found = executable.run([Exported(array), array])[1]
    view = np.from_dlpack(found)
    assert view.ctypes.data == found.handle
    np.testing.assert_array_equal(view, array**2)
    strided = executable.run([Exported(arange(4, 3)[::2]), np.ones((2, 3), np.float32)])
    np.testing.assert_array_equal(strided[1], arange(4, 3)[::2])


WRONG_FEEDS = {
    "shape": (lambda: arange(3, 2), "float32[3, 2]"),
    "rank": (lambda: arange(6), "float32[6]"),
    "dtype": (lambda: arange(2, 3).astype(np.float64), "float64[2, 3]"),
    "integers": (lambda: arange(2, 3).astype(np.int32), "int32[2, 3]"),
    "ragged": (lambda: [[1, 2], [3]], "list"),
    "words": (lambda: "abc", "str"),
    "words in a list": (lambda: [["1", "2", "3"]] * 2, "list"),
    "complex": (lambda: [[1j, 2, 3]] * 2, "list"),
    "complex array": (lambda: np.ones((2, 3), complex), "complex128"),
    "objects": (lambda: np.array([[None] * 3] * 2), "object"),
    "none": (lambda: None, "NoneType"),
    "17 dimensions": (lambda: np.ones((1,) * 17, np.float32), "float32"),
}


@pytest.mark.parametrize("kind", WRONG_FEEDS)
@pytest.mark.parametrize("form", ["executable", "graph"])
def test_feeds_that_do_not_fit(form: str, kind: str) -> None:
    make, received = WRONG_FEEDS[kind]
    executable = two_inputs()
    a, b = executable.inputs
    run = {
        "executable": lambda: executable.run([arange(2, 3), make()]),
        "graph": lambda: executable.graph.run({a: arange(2, 3), b: make()}, executable.targets),
    }[form]
    with pytest.raises(FeedError) as caught:
        run()
    assert caught.value.asked == "feed b"
    assert caught.value.tensor == "b"
    assert received in str(caught.value.received)
    assert caught.value.advice


@pytest.mark.parametrize("value", [[300], [-1], [1.5], [True, 2.5]])
def test_numbers_are_not_cut_to_fit(value: list) -> None:
    graph = nl.Graph()
    x = graph.placeholder((len(value),), nl.uint8, name="x")
    with pytest.raises(FeedError):
        graph.run({x: value}, [x + x])


def test_wrong_number_of_inputs_and_results() -> None:
    executable = two_inputs()
    for inputs in ([], [arange(2, 3)], [arange(2, 3)] * 3):
        with pytest.raises(FeedError, match="takes 2 inputs") as caught:
            executable.run(inputs)
        assert "a, b" in caught.value.advice
    with pytest.raises(FeedError, match="takes 2 results"):
        executable.run([arange(2, 3)] * 2, results=[])


@pytest.mark.parametrize(
    ("names", "missing", "extra"),
    [(["a"], ["b"], []), (["a", "b", "c"], [], ["c"]), (["a", "c"], ["b"], ["c"])],
)
def test_wrong_names(names, missing, extra) -> None:
    executable = two_inputs()
    with pytest.raises(FeedError) as caught:
        executable.run({n: arange(2, 3) for n in names})
    assert caught.value.missing == missing
    assert caught.value.superfluous == extra


# --- special values and sizes
@each_device
def test_nan_and_infinity(device: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder((6,))
    targets = [x * 0.0, x.relu(), x.max(), x.sum(), x.maximum(0.0), x > 0.0, x.argmax(), x / x]
    value = np.array([1, np.nan, np.inf, -np.inf, -0.0, 2], np.float32)
    found = graph.run({x: value}, targets, device=device)
    expected = nl.graph.evaluate.evaluate(targets, {x: value})
    for t, e in zip(targets, expected, strict=True):
        np.testing.assert_array_equal(found[t], e)


@each_device
def test_empty_tensors(device: str) -> None:
    executable = two_inputs(device, (0, 3))
    found = executable.run([np.zeros((0, 3), np.float32)] * 2)
    assert [f.shape for f in found] == [(0, 3)] * 2
    out = [np.empty((0, 3), np.float32) for _ in range(2)]
    executable.run([np.zeros((0, 3), np.float32)] * 2, results=out)


@each_device
def test_too_large_for_memory(device: str) -> None:
    """An error with the sizes, and the process goes on."""
    graph = nl.Graph()
    x = graph.placeholder((1,))
    v = graph.variable([1.0])
    big = x.broadcast_to((1 << 40,)) * 2.0
    with pytest.raises(OutOfMemory) as caught:
        graph.run({x: [1.0]}, [big], [v.assign(v + 1.0)], device=device)
    assert caught.value.requested >= 4 << 40
    assert caught.value.limit > 0
    assert isinstance(caught.value, MemoryError)
    assert v.value.item() == 1.0
    y = x + 1.0
    assert graph.run({x: [1.0]}, [y], device=device)[y].item() == 2.0


@each_device
def test_arena_too_large_for_memory(device: str) -> None:
    graph = nl.Graph()
    x = graph.placeholder((1,))
    v = graph.variable([1.0])
    big = x.broadcast_to((1 << 20, 1 << 20)).exp()
    small = nl.matmul(big, big).sum()
    with pytest.raises(OutOfMemory):
        graph.run({x: [1.0]}, [small], [v.assign(v + 1.0)], device=device)
    assert v.value.item() == 1.0


# --- lifetimes
def test_results_outlive_everything() -> None:
    def make() -> nl.TensorData:
        graph = nl.Graph()
        x = graph.placeholder((1000,))
        return graph.run({x: arange(1000)}, [x * 2.0]).popitem()[1]

    results = [make() for _ in range(5)]
    views = [np.asarray(r) for r in results]
    del results
    gc.collect()
    for _ in range(5):
        make()
    for view in views:
        np.testing.assert_array_equal(view, arange(1000) * 2)


def test_each_run_has_results_of_its_own() -> None:
    executable = two_inputs()
    ones = np.ones((2, 3), np.float32)
    kept = [executable.run([ones * i, ones])[1] for i in range(20)]
    for i, result in enumerate(kept):
        np.testing.assert_array_equal(result, ones * i)


def test_memory_is_reused_and_not_leaked() -> None:
    executable = two_inputs(shape=(256, 256))
    a = arange(256, 256)
    executable.run([a, a])
    gc.collect()
    before = executable.device.memory_stats()["current"]
    for _ in range(50):
        executable.run([a, a])
    gc.collect()
    assert executable.device.memory_stats()["current"] <= before


# --- the cache of a graph
def test_one_compilation_for_each_set_of_types() -> None:
    graph = nl.Graph()
    x, y = graph.placeholder((None,), name="x"), graph.placeholder((None,), name="y")
    z = x + y
    run = lambda n: graph.run({x: arange(n), y: arange(n)}, [z])  # noqa: E731
    run(3), run(3), run(4), run(3)
    info = graph.cache_info()
    assert (info.size, info.hits, info.misses) == (2, 2, 2)
    graph.run({y: arange(3), x: arange(3)}, [z])  # the order of feeds does not matter
    graph.run({x: nl.TensorData.from_numpy(arange(3)), y: [1, 2, 3]}, [z])
    assert graph.cache_info().misses == 2
    assert [e.input_types[0].shape for e in graph.cached_executables()] == [(4,), (3,)]
    graph.clear_cache()
    assert graph.cache_info().size == 0
    assert graph.cached_executables() == ()


def test_flags_are_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = nl.Graph()
    x = graph.placeholder((4,))
    y = x.exp().exp()
    graph.run({x: arange(4) * 0}, [y])
    monkeypatch.setenv("NIELLO_OPTIMISE", "0")
    graph.run({x: arange(4) * 0}, [y])
    assert sorted(e.kernel_count for e in graph.cached_executables()) == [1, 2]


def test_the_cache_is_bounded() -> None:
    graph = nl.Graph(cache_limit=2)
    x = graph.placeholder((None,))
    y = x + 1.0
    for n in (1, 2, 1, 3):
        graph.run({x: arange(n)}, [y])
    assert [e.input_types[0].shape for e in graph.cached_executables()] == [(1,), (3,)]
    assert graph.cache_info().limit == 2


def test_an_operation_added_later_is_no_stale_hit() -> None:
    graph = nl.Graph()
    x = graph.placeholder((2,))
    y = x + 1.0
    graph.run({x: arange(2)}, [y])
    z = y * 2.0
    np.testing.assert_array_equal(graph.run({x: arange(2)}, [z])[z], [2, 4])
