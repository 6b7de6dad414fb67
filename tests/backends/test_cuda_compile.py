"""What the cuda back end does without a GPU: refusals, claims, machine code, DLPack records."""

from __future__ import annotations

import gc
import importlib

import numpy as np
import pytest

import niello as nl
from niello import backends
from niello.backends.cuda import CLAIMS, compile, dlpack
from niello.backends.cuda.render import render
from niello.cli.digits import network
from niello.core.errors import BackendUnavailable, CompilerBug, CorruptFile, DTypeError, FeedError
from niello.core.types import TensorType
from niello.passes import pipeline
from niello.passes.computation import Computation
from niello.runtime.commands import BufferRef, Dispatch, Fill, LibraryCall, Program, Space
from niello.schedule.claims import Claims
from niello.schedule.program import schedule

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")


def program(feeds, targets, operations=(), refusal=lambda command: "", types=None) -> Program:
    """The command list for a device that has all libraries."""
    graph = (list(targets) or list(operations))[0].graph
    asked = Computation(graph, tuple(feeds), tuple(targets), tuple(operations))
    passes = pipeline.optimising(types or [t.type for t in feeds])
    optimised = pipeline.run(passes, asked, lambda *stage: None)
    limits = backends.backend("cuda").limits
    return schedule(optimised, limits, claims=Claims(CLAIMS, refusal)).program


def calls(made: Program) -> list[LibraryCall]:
    return [c for c in made.commands if isinstance(c, LibraryCall)]


def product(dtype=nl.float32, m=64, n=80, k=96):
    graph = nl.Graph()
    a, b = graph.placeholder((m, k), dtype), graph.placeholder((k, n), dtype)
    return a, b, graph.placeholder((n,), dtype)


# --- absent ---------------------------------------------------------------------------------------


def test_importing_niello_does_not_import_cuda():
    import subprocess
    import sys

    text = (
        "import sys, niello, niello.backends.cuda\n"
        "assert not {'cuda', 'cudnn', 'torch'} & set(sys.modules)\n"
        "print(niello.backends.backend('cuda').name)"
    )
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "cuda"


def test_absence_has_a_reason(monkeypatch):
    real = importlib.import_module

    def fake(name, *rest):
        if name == "cuda.bindings.driver":
            raise ImportError("No module named 'cuda'")
        return real(name, *rest)

    from niello.backends.cuda import driver

    monkeypatch.setattr(driver.importlib, "import_module", fake)
    with pytest.raises(BackendUnavailable, match="No module named") as error:
        driver.open_driver()
    assert "niello[cuda]" in error.value.advice


# --- claims ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [nl.float32, nl.float16, nl.bfloat16], ids=str)
def test_products_are_claimed(dtype):
    a, b, c = product(dtype)
    (call,) = calls(program([a, b, c], [(nl.matmul(a, b) + c).relu()]))
    found = dict(call.attributes)
    assert call.function == "cublaslt.matmul" and found["epilogue"] == ("add channel", "relu")
    assert (found["m"], found["n"], found["k"], found["batch"]) == (64, 80, 96, 1)
    assert found["a"] == (False, 96, 0) and found["b"] == (False, 80, 0) and found["c"] == (80, 0)
    assert call.written == (False, False, False, True)


def test_other_epilogues_leave_the_product():
    a, b, c = product()
    made = program([a, b, c], [nl.gelu(nl.matmul(a, b) + c)])
    assert [type(x) for x in made.commands] == [LibraryCall, Dispatch]
    assert dict(calls(made)[0].attributes)["epilogue"] == ()


def test_products_take_an_array_along():
    a, b, c = product(nl.bfloat16)
    z = a.graph.placeholder((64, 80), nl.bfloat16)
    (call,) = calls(program([a, b, c, z], [(nl.matmul(a, b) + c + z).relu()]))
    assert dict(call.attributes)["epilogue"] == ("add channel", "add full", "relu")
    assert len(call.buffers) == 5


def test_what_a_claim_leaves_is_computed_where_it_is_read():
    """The mask after a product is no kernel of its own: both of its readers do it again."""
    a, b, _ = product(nl.bfloat16, 512, 512, 512)
    y = nl.cast(nl.matmul(a, b), nl.float32)
    z = nl.where(y > 0.5, y, 0.0)
    made = program([a, b], [nl.sum(z, axes=0), nl.exp(z)])
    assert [type(c) for c in made.commands[:1]] == [LibraryCall]
    sizes = [w.bytes for c in made.commands for w in c.writes]
    assert sizes.count(512 * 512 * 4) == 1  # the result, and no mask beside it


def test_integers_and_small_products_are_not_claimed():
    a, b, _ = product(nl.int32)
    assert not calls(program([a, b], [nl.matmul(a, b)]))
    a, b, _ = product(m=4, n=4, k=4)
    assert not calls(program([a, b], [nl.matmul(a, b)]))


def test_a_refused_call_is_generated():
    a, b, _ = product()
    made = program([a, b], [nl.matmul(a, b)], refusal=lambda command: "not today")
    assert [type(c) for c in made.commands] == [Dispatch]


def test_operands_that_are_computed_leave_the_product_to_the_library():
    graph = nl.Graph()
    x, w = graph.placeholder((128, 512), nl.bfloat16), graph.placeholder((512, 256), nl.bfloat16)
    z = graph.placeholder((128, 256), nl.bfloat16)
    made = program([x, w, z], [(nl.matmul(nl.gelu(x), w) + z).relu()])
    assert [type(c) for c in made.commands] == [Dispatch, LibraryCall]
    assert dict(calls(made)[0].attributes)["epilogue"] == ("add full", "relu")
    small = graph.placeholder((16, 512), nl.bfloat16)
    assert not calls(program([small, w], [nl.matmul(nl.gelu(small), w)]))  # little to gain


def test_tf32_is_an_option():
    a, b, _ = product()
    for tf32 in (False, True):
        claims = Claims(CLAIMS, lambda command: "", tf32=tf32)
        computation = Computation(a.graph, (a, b), (nl.matmul(a, b),), ())
        (call,) = calls(
            schedule(computation, backends.backend("cuda").limits, claims=claims).program
        )
        assert dict(call.attributes)["tf32"] is tf32


def test_products_by_their_strides():
    graph = nl.Graph()
    a, b = graph.placeholder((96, 64)), graph.placeholder((80, 96))
    (call,) = calls(program([a, b], [nl.matmul(nl.swap_axes(a, 0, 1), nl.swap_axes(b, 0, 1))]))
    found = dict(call.attributes)
    assert found["a"] == (True, 64, 0) and found["b"] == (True, 96, 0)
    x, w = graph.placeholder((2, 5, 16, 24)), graph.placeholder((24, 32))
    (call,) = calls(program([x, w], [nl.matmul(x, w)]))
    assert dict(call.attributes)["m"] == 2 * 5 * 16 and dict(call.attributes)["batch"] == 1
    p, q = graph.placeholder((5, 16, 24)), graph.placeholder((5, 24, 32))
    (call,) = calls(program([p, q], [nl.matmul(p, q)]))
    found = dict(call.attributes)
    assert found["batch"] == 5 and found["a"] == (False, 24, 384) and found["c"] == (32, 512)


def test_convolutions_take_activations_and_arrays_along():
    graph = nl.Graph()
    x = graph.placeholder((8, 28, 28, 32), nl.bfloat16)
    w, b = graph.placeholder((3, 3, 32, 32), nl.bfloat16), graph.placeholder((32,), nl.bfloat16)
    y = nl.conv2d(x, w, padding=1, data_layout="NHWC", weights_layout="HWIO") + b
    for f, name in ((nl.silu, "silu"), (nl.gelu, "gelu"), (nl.sigmoid, "sigmoid")):
        (call,) = calls(program([x, w, b], [f(y) * x]))
        assert dict(call.attributes)["epilogue"] == ("add channel", name, "mul full")
    (call,) = calls(program([x, w, b], [(y + x).relu()]))
    assert dict(call.attributes)["epilogue"] == ("add channel", "add full", "relu")
    assert len(call.buffers) == 5


def test_convolutions_and_their_gradients_are_claimed():
    graph = nl.Graph()
    x = graph.placeholder((8, 28, 30, 64), nl.bfloat16)
    w, b = graph.placeholder((3, 5, 64, 32), nl.bfloat16), graph.placeholder((32,), nl.bfloat16)
    y = nl.conv2d(x, w, strides=2, padding="same", data_layout="NHWC", weights_layout="HWIO")
    gradients = graph.gradients((y + b).relu(), [x, w])
    made = calls(program([x, w, b], [(y + b).relu()]))
    found = dict(made[0].attributes)
    assert found["kind"] == "forward" and found["epilogue"] == ("add channel", "relu")
    assert found["x"] == ((8, 64, 28, 30), (53760, 1, 1920, 64))
    assert found["w"] == ((32, 64, 3, 5), (1, 32, 10240, 2048))
    assert found["y"][0] == (8, 32, 14, 15) and found["strides"] == (2, 2)
    assert found["before"] == (0, 1) and found["after"] == (1, 2)
    kinds = [dict(c.attributes)["kind"] for c in calls(program([x, w, b], gradients.values()))]
    assert sorted(kinds) == ["data", "forward", "weights"]


# --- machine code ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Program:
    model = network.build(28, seed=0)
    types = [TensorType((64, 28, 28, 1)), TensorType((64, 10))]
    operations = network.training_step(model)
    return program([model.image, model.label], [model.loss], operations, types=types)


def test_training_step_renders(digits):
    for kernel in digits.kernels:
        found = render(kernel)
        assert found.launches and found.source == render(kernel).source
        for launch in found.launches:
            assert launch.entry in found.source and launch.shared_bytes <= 48 << 10
            assert 1 <= launch.block[0] <= 1024 and launch.grid[0] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_training_step_compiles(digits, arch):
    try:
        compile.compiler_version()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    sources = [render(kernel).source for kernel in digits.kernels]
    cubins = compile.compile_sources(sources, arch)
    assert len(cubins) == len(sources) and all(c.startswith(b"\x7fELF") for c in cubins)


def test_refused_source_is_a_compiler_bug():
    try:
        compile.compiler_version()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    with pytest.raises(CompilerBug, match="undefined"):
        compile.compile_one('extern "C" __global__ void f() { nothing(); }', "sm_90")


def test_images_round_trip():
    image = compile.pack("sm_90", [("00", b"abc"), ("ff", b"defg")])
    assert compile.unpack(image, "sm_90") == {"00": b"abc", "ff": b"defg"}
    with pytest.raises(BackendUnavailable, match="sm_90"):
        compile.unpack(image, "sm_80")
    for broken in (b"", image[:10], image[:-1], image + b"x", b"\0" * len(image)):
        with pytest.raises(CorruptFile):
            compile.unpack(broken, "sm_90")


# --- DLPack ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [nl.float32, nl.bfloat16, nl.bool_, nl.int64], ids=str)
def test_dlpack_records_round_trip(dtype):
    freed: list[int] = []
    type = TensorType((2, 3, 4), dtype)
    capsule = dlpack.export(4096, type, 0, lambda: freed.append(1))
    assert dlpack.read(capsule) == (4096, type)
    del capsule
    gc.collect()
    assert freed == [1]


def test_dlpack_refuses_what_it_cannot_share():
    x = np.zeros((4, 6), np.float32)
    with pytest.raises(FeedError, match="row-major"):
        dlpack.read(x.T.__dlpack__())
    with pytest.raises(DTypeError):
        dlpack.read(np.zeros(3, np.complex128).__dlpack__())
    assert dlpack.read(x.__dlpack__())[1] == TensorType((4, 6), nl.float32)


# --- what may run at once -------------------------------------------------------------------------


def step(reads: list[tuple[int, int]], writes: list[tuple[int, int]], shares: str = ""):
    """A step on one argument, by (offset, bytes)."""
    from niello.backends.cuda.program import Step, Where

    def places(spans: list[tuple[int, int]]):
        return tuple((Where(0, offset), size) for offset, size in spans)

    nothing = Fill(BufferRef(Space.ARENA, 0, 0, 0), b"\0")
    kept = frozenset({shares} - {""})
    return Step(lambda stream, handles: None, None, places(reads), places(writes), kept, nothing)


def test_dependencies_are_those_of_memory():
    from niello.backends.cuda.program import dependencies

    steps = [
        step([], [(0, 8)]),
        step([], [(8, 8)]),
        step([(0, 8)], [(16, 8)]),  # reads the first
        step([(0, 4), (8, 4)], [(24, 8)]),  # reads both
        step([], [(0, 8)]),  # overwrites what the two before read
        step([(16, 8), (0, 8)], []),
    ]
    assert dependencies(steps, [1000]) == [[], [], [0], [1, 0], [3, 2], [4]]


def test_shared_workspaces_are_taken_in_turns():
    from niello.backends.cuda.program import dependencies

    steps = [step([], [(i * 8, 8)], shares) for i, shares in enumerate(("a", "b", "a", "", "b"))]
    assert dependencies(steps, [0]) == [[], [], [0], [], [1]]
