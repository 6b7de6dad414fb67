"""Command lists on the webgpu device: copies and fills at any byte, predicates, images, limits."""

from __future__ import annotations

import dataclasses
import json
import threading

import numpy as np
import pytest
from webgpu_devices import opened

import niello as nl
from niello.core.dtypes import float32, int32
from niello.core.errors import (
    CompilerBug,
    CorruptFile,
    DeviceError,
    LimitExceeded,
    UnsupportedDtype,
    UnsupportedOp,
)
from niello.core.types import TensorType
from niello.kernel import ir
from niello.runtime.commands import BufferRef, Copy, Dispatch, Fill, LibraryCall, Program, Space
from niello.runtime.target import CompileOptions
from niello.runtime.tensor_data import on_device

N = 96
BYTES = TensorType((N,), nl.uint8)
WORDS = TensorType((N,), float32)
OPTIONS = CompileOptions()


@pytest.fixture
def device():
    return opened()


def program(commands, kernels=(), inputs=(BYTES,), outputs=(BYTES,), arena=0) -> Program:
    return Program(tuple(kernels), tuple(commands), inputs, outputs, (), (), arena)


def played(device, made: Program, *inputs: np.ndarray) -> np.ndarray:
    """The first output, which begins as zeros."""
    loaded = device.compile(made, OPTIONS)
    buffers = buffers_of(device, made, inputs)
    loaded.play([b.handle for b in buffers])
    return output_of(device, made, buffers)


def buffers_of(device, made: Program, inputs):
    buffers = []
    for space, index, size in made.buffers():
        buffer = device.allocate(max(size, 1))
        given = inputs[index] if space is Space.INPUT else np.zeros(size, np.uint8)
        device.upload(buffer, 0, np.ascontiguousarray(given))
        buffers.append(buffer)
    return buffers


def output_of(device, made: Program, buffers) -> np.ndarray:
    kind = made.outputs[0]
    value = np.zeros(kind.static_shape, kind.dtype.numpy)
    device.download(buffers[len(made.inputs)], 0, value)
    return value


def adding(n: int = N, slope: float = 1.0) -> ir.Kernel:
    """out[i] = out[i] + slope * x[i], out read and written through slots of its own."""
    x, old = ir.Param(0, float32, n, False), ir.Param(1, float32, n, False)
    out = ir.Param(2, float32, n, True)
    i = ir.Range("i", n)
    value = ir.Load(old, i, None) + ir.const(slope, float32) * ir.Load(x, i, None)
    return ir.Kernel("adding", (x, old, out), (ir.Store(out, (i,), i, value, None, None),))


@pytest.mark.parametrize("source", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("target", [0, 1, 3, 10])
@pytest.mark.parametrize("size", [1, 3, 4, 9, 64])
def test_copies_at_any_byte(device, source, target, size):
    data = np.arange(1, N + 1, dtype=np.uint8)
    command = Copy(
        BufferRef(Space.INPUT, 0, source, size), BufferRef(Space.OUTPUT, 0, target, size)
    )
    wanted = np.zeros(N, np.uint8)
    wanted[target : target + size] = data[source : source + size]
    assert played(device, program([command]), data).tolist() == wanted.tolist()


def test_copies_inside_a_buffer(device):
    data = np.arange(1, N + 1, dtype=np.uint8)
    listed = [
        Copy(BufferRef(Space.INPUT, 0, 0, N), BufferRef(Space.ARENA, 0, 0, N)),
        Copy(BufferRef(Space.ARENA, 0, 1, 60), BufferRef(Space.ARENA, 0, 301, 60)),
        Copy(BufferRef(Space.ARENA, 0, 301, 60), BufferRef(Space.OUTPUT, 0, 2, 60)),
    ]
    found = played(device, program(listed, arena=512), data)
    assert found.tolist() == [0, 0, *range(2, 62), *[0] * (N - 62)]


@pytest.mark.parametrize("start", [0, 1, 2, 5])
@pytest.mark.parametrize("pattern", [b"\0", b"\x07", b"\x01\x02", b"abcd", bytes(range(8))])
@pytest.mark.parametrize("size", [8, 24])
def test_fills_at_any_byte(device, start, pattern, size):
    command = Fill(BufferRef(Space.OUTPUT, 0, start, size), pattern)
    ones = Fill(BufferRef(Space.OUTPUT, 0, 0, N), b"\xff")
    found = played(device, program([ones, command]), np.zeros(N, np.uint8)).tobytes()
    wanted = bytearray(b"\xff" * N)
    wanted[start : start + size] = pattern * (size // len(pattern))
    assert found == bytes(wanted)


@pytest.mark.parametrize("flag", [0, 3])
def test_runs_that_the_device_skips(device, flag):
    """play_if: the word is read when the run's turn comes, and goes with predicates of commands."""
    x = np.arange(N, dtype=np.float32)
    whole = BufferRef(Space.OUTPUT, 0, 0, 4 * N)
    listed = [
        Fill(whole, b"\x00\x00\x80\x3f"),
        Dispatch(0, (BufferRef(Space.INPUT, 0, 0, 4 * N), whole, whole), (False, False, True)),
        Copy(BufferRef(Space.OUTPUT, 0, 0, 8), BufferRef(Space.OUTPUT, 0, 32, 8)),
    ]
    made = program(listed, [adding()], (WORDS,), (WORDS,))
    loaded = device.compile(made, OPTIONS)
    buffers = buffers_of(device, made, [x])
    word = on_device(np.array([9, flag], np.int32), device)
    loaded.play_if([b.handle for b in buffers], word.handle, 4)
    wanted = x + 1
    wanted[8:10] = wanted[0:2]
    found = output_of(device, made, buffers)
    assert found.tolist() == (wanted if flag else np.zeros(N)).tolist()
    device.upload(word.buffer, 4, np.array([1 - min(flag, 1)], np.int32))
    loaded.play_if([b.handle for b in buffers], word.handle, 4)
    assert output_of(device, made, buffers).tolist() == wanted.tolist()


@pytest.mark.parametrize("flags", [(0, 0), (0, 1), (1, 0), (5, -1)])
def test_both_predicates_must_hold(device, flags):
    x = np.arange(N, dtype=np.float32)
    flag = TensorType((1,), int32)
    command = Copy(
        BufferRef(Space.INPUT, 0, 0, 4 * N),
        BufferRef(Space.OUTPUT, 0, 0, 4 * N),
        BufferRef(Space.INPUT, 1, 0, 4),
    )
    made = program([command], (), (WORDS, flag), (WORDS,))
    loaded = device.compile(made, OPTIONS)
    buffers = buffers_of(device, made, [x, np.array(flags[:1], np.int32)])
    word = on_device(np.array(flags[1:], np.int32), device)
    loaded.play_if([b.handle for b in buffers], word.handle, 0)
    assert output_of(device, made, buffers).any() == all(flags)


def test_slots_of_one_buffer_are_bound_once(device):
    x = np.arange(N, dtype=np.float32)
    whole = BufferRef(Space.OUTPUT, 0, 0, 4 * N)
    command = Dispatch(0, (BufferRef(Space.INPUT, 0, 0, 4 * N), whole, whole), (False, False, True))
    made = program([command] * 3, [adding()], (WORDS,), (WORDS,))
    loaded = device.compile(made, OPTIONS)
    (kernel,) = loaded.kernels.values()
    assert len(kernel.launches[0].arguments) == 2
    assert played(device, made, x).tolist() == (3 * x).tolist()


def test_bindings_must_be_aligned(device):
    refs = tuple(BufferRef(s, 0, 0, 4 * N) for s in (Space.INPUT, Space.ARENA, Space.OUTPUT))
    command = Dispatch(0, refs, (False, False, True))
    made = program([command], [adding()], (WORDS,), (WORDS,), 4 * N)
    loaded = device.compile(made, OPTIONS)
    big = device.allocate(8 * N)
    handles = [b.handle for b in buffers_of(device, made, [np.ones(N, np.float32)])]
    handles[0] = big.handle + 4
    with pytest.raises(DeviceError, match="multiples of") as error:
        loaded.play(handles)
    assert "4" in error.value.received and "copy" in error.value.advice
    with pytest.raises(CompilerBug, match="takes 3 buffers"):
        loaded.play(handles[:2])


def test_a_buffer_beyond_the_binding_limit(device):
    n = device.limits["max-storage-buffer-binding-size"] // 4 + 1000
    graph = nl.Graph()
    x = graph.placeholder((n,), nl.float32)
    run = graph.compile({x: x.type}, [x.reverse(0) + 1, x.sum()], device="webgpu")
    given = np.arange(n, dtype=np.float32) % 100
    reversed_, total = run.run([given])
    np.testing.assert_array_equal(reversed_.numpy(), given[::-1] + 1)
    np.testing.assert_allclose(total.numpy(), given.sum(dtype=np.float64), rtol=1e-5)


@pytest.fixture
def small_bindings(device, monkeypatch):
    """The device as if it bound no more than about 4 KiB at once."""
    target = dataclasses.replace(device.target, most_binding_bytes=4096 + 300)
    monkeypatch.setattr(device, "target", target)
    return device


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "int32", "int64", "bool_"])
def test_buffers_in_pieces(small_bindings, dtype):
    kind = getattr(nl, dtype)
    graph = nl.Graph()
    x = graph.placeholder((61, 83), kind)
    targets = [x.transpose((1, 0)), x[3:, ::-2], nl.concat([x, x], axis=1)]
    if kind is not nl.bool_:
        targets.append(x.sum(axes=(0,)))
    given = np.random.default_rng(1).integers(0, 2, (61, 83)).astype(kind.numpy)
    for target in targets:
        run = graph.compile({x: x.type}, [target], device="webgpu")
        same = graph.compile({x: x.type}, [target], device="numpy")
        assert "b0p1" in run.as_text("source")
        np.testing.assert_array_equal(run.run([given])[0].numpy(), same.run([given])[0].numpy())
        loaded = small_bindings.load(run.loaded.program, OPTIONS, run.loaded.image())
        assert loaded.image() == run.loaded.image()


def test_products_updates_and_copies_in_pieces(small_bindings):
    rng = np.random.default_rng(2)
    graph = nl.Graph()
    x = graph.placeholder((40, 64), nl.float32)
    rows = graph.placeholder((90,), nl.int32)
    table = graph.variable(rng.standard_normal((50, 64)).astype(np.float32))
    loss = (table.gather(rows, axis=0).matmul(x.transpose((1, 0)))).square().sum()
    step = table.assign(table - 0.01 * graph.gradients(loss, [table])[table])
    before = np.array(table.value)
    feeds = {
        x: rng.standard_normal((40, 64)).astype(np.float32),
        rows: rng.integers(0, 50, 90).astype(np.int32),
    }
    found = {}
    for name in ("webgpu", "numpy"):
        table.value = before
        out = graph.run(feeds, [loss], [step], device=name)
        found[name] = (np.asarray(out[loss].numpy()), np.array(table.value))
    for got, wanted in zip(found["webgpu"], found["numpy"], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=1e-4)


def test_too_many_pieces_are_refused(device, monkeypatch):
    target = dataclasses.replace(device.target, most_binding_bytes=256)
    monkeypatch.setattr(device, "target", target)
    graph = nl.Graph()
    x = graph.placeholder((64, 1000), nl.float32)
    with pytest.raises(LimitExceeded, match="buffers"):
        graph.compile({x: x.type}, [x + 1], device="webgpu")


def test_float64_is_refused(device):
    graph = nl.Graph()
    x = graph.placeholder((4,), nl.float64)
    with pytest.raises(UnsupportedDtype, match="float64"):
        graph.compile({x: x.type}, [x + 1], device="webgpu")
    y = graph.placeholder((4,), nl.float32)
    inside = nl.cast(nl.cast(y, nl.float64) * 2, nl.float32)
    with pytest.raises(UnsupportedDtype, match="float64"):
        graph.compile({y: y.type}, [inside], device="webgpu")


def test_library_calls_are_refused(device):
    ref = BufferRef(Space.OUTPUT, 0, 0, N)
    made = program([LibraryCall("blas.dot", (), (ref,), (True,))])
    with pytest.raises(UnsupportedOp, match="LibraryCall"):
        played(device, made, np.zeros(N, np.uint8))


def test_threads_take_turns(device):
    made = program([Fill(BufferRef(Space.OUTPUT, 0, 0, N), b"\x05")], (), (BYTES,), (BYTES,))
    loaded = device.compile(made, OPTIONS)
    sets = [buffers_of(device, made, [np.zeros(N, np.uint8)]) for _ in range(4)]

    def play(buffers) -> None:
        for _ in range(20):
            loaded.play([b.handle for b in buffers])

    threads = [threading.Thread(target=play, args=(b,)) for b in sets]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all((output_of(device, made, b) == 5).all() for b in sets)


# --- images


def image_of(device) -> tuple[Program, dict]:
    refs = tuple(BufferRef(s, 0, 0, 4 * N) for s in (Space.INPUT, Space.ARENA, Space.OUTPUT))
    made = program([Dispatch(0, refs, (False, False, True))], [adding()], (WORDS,), (WORDS,), 4 * N)
    return made, json.loads(device.compile(made, OPTIONS).image())


def test_an_image_is_text_that_says_how_to_launch(device):
    made, image = image_of(device)
    (kernel,) = image["kernels"]
    (launch,) = kernel["launches"]
    assert "@compute" in kernel["source"] and f"fn {launch['entry']}(" in kernel["source"]
    assert launch["grid"] == [1, 1, 1] and len(launch["arguments"]) == 3
    again = device.load(made, OPTIONS, json.dumps(image).encode())
    assert "adding" in again.source()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda i: i.update(format="niello wgsl 99"),
        lambda i: i.update(kernels=[]),
        lambda i: i["kernels"][0].update(source=7),
        lambda i: i["kernels"][0].update(kernel=3),
        lambda i: i["kernels"][0]["launches"][0].update(grid=[1, 1]),
        lambda i: i["kernels"][0]["launches"][0].update(grid=[1, 1, -1]),
        lambda i: i["kernels"][0]["launches"][0].update(arguments=[[9, None, True]]),
        lambda i: i["kernels"][0]["launches"][0].update(arguments=[[None, 0, True]]),
        lambda i: i["kernels"][0]["launches"][0].update(arguments=[[None, None, True]]),
        lambda i: i["kernels"][0].pop("scratch"),
    ],
)
def test_spoiled_images_are_refused(device, spoil):
    made, image = image_of(device)
    spoil(image)
    with pytest.raises(CorruptFile) as error:
        device.load(made, OPTIONS, json.dumps(image).encode())
    assert error.value.advice


def test_wgsl_that_does_not_compile_is_shown(device):
    made, image = image_of(device)
    image["kernels"][0]["source"] = "fn main( {"
    with pytest.raises(CompilerBug) as error:
        device.load(made, OPTIONS, json.dumps(image).encode())
    assert "fn main( {" in error.value.received


# --- through the graph


def training(device_name: str) -> list[float]:
    rng = np.random.default_rng(0)
    graph = nl.Graph()
    x = graph.placeholder((32, 20), nl.float32)
    label = graph.placeholder((32, 5), nl.float32)
    w = graph.variable(rng.standard_normal((20, 5)).astype(np.float32) * 0.1)
    loss = nl.softmax_cross_entropy(nl.matmul(x, w), label, axis=-1, reduction="mean")
    (gradient,) = graph.gradients(loss, [w]).values()
    step = w.assign(nl.sgd(0.5, w, gradient))
    data = rng.standard_normal((32, 20)).astype(np.float32)
    onehot = np.eye(5, dtype=np.float32)[rng.integers(0, 5, 32)]
    exe = graph.compile({x: x.type, label: label.type}, [loss], [step], device=device_name)
    return [float(exe.run([data, onehot])[0].item()) for _ in range(8)]


def test_training_is_that_of_the_cpu(device):
    losses = training("webgpu")
    assert losses[-1] < losses[0] * 0.8
    assert np.allclose(losses, training("cpu"), rtol=1e-4)


@pytest.mark.parametrize("name", ["popcount", "shift_right", "shift_left"])
def test_int64_that_fits_32_bits_has_64(device, name):
    """The code generation holds such numbers in 32 bits where nobody can tell."""
    values = np.array([-9, -2, -1, 0, 1, 2, 77], np.int64)
    graph = nl.Graph()
    x, amount = graph.placeholder(values.shape, nl.int64), graph.placeholder((), nl.int64)
    narrow = nl.clamp(x, -2, 2)
    if name == "popcount":
        exe = graph.compile({x: x.type}, [nl.popcount(narrow)], device="webgpu")
        assert exe.run([values])[0].tolist() == [63, 63, 64, 0, 1, 1, 1]
        return
    move = nl.bitwise_right_shift if name == "shift_right" else nl.bitwise_left_shift
    few = nl.clamp(amount, 0, 40)
    exe = graph.compile({x: x.type, amount: amount.type}, [move(narrow, few)], device="webgpu")
    for by in (1, 33, 40):
        wanted = (
            np.clip(values, -2, 2) >> by if name == "shift_right" else np.clip(values, -2, 2) << by
        )
        assert exe.run([values, np.int64(by)])[0].tolist() == wanted.tolist()


def test_results_stay_on_the_device(device):
    graph = nl.Graph()
    x = graph.placeholder((N,), nl.float32)
    exe = graph.compile({x: x.type}, [x * 2], device="webgpu")
    value = on_device(np.arange(N, dtype=np.float32), device)
    (once,) = exe.run([value])
    (twice,) = exe.run([once])
    assert twice.device is device and twice.tolist() == [4.0 * i for i in range(N)]
    into = np.zeros(N, np.float32)
    exe.run([twice], results=[into])
    assert into.tolist() == [8.0 * i for i in range(N)]
