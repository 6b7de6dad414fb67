"""Programs written by hand, compiled, played, stored and loaded by every device."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from niello import backends
from niello.core.dtypes import FLOATS, bfloat16, bool_, float16, float32, int32
from niello.core.errors import CorruptFile, DeviceError, UnsupportedDtype
from niello.core.types import TensorType
from niello.kernel import ir
from niello.runtime.commands import (
    BufferRef,
    Command,
    Copy,
    Dispatch,
    Fill,
    Program,
    Space,
    Variable,
)
from niello.runtime.target import CompileOptions

N = 1000


def whole(space: Space, index: int, type: TensorType) -> BufferRef:
    return BufferRef(space, index, 0, type.bytes)


def affine(dtype=float32, n: int = N, slope: float = 2, shift: float = 1) -> ir.Kernel:
    """out[i] = x[i] * slope + shift"""
    x, out = ir.Param(0, dtype, n, False), ir.Param(1, dtype, n, True)
    i = ir.Range("i", n)
    value = ir.Load(x, i, None)
    compute = float32 if dtype.is_half else dtype
    wide = ir.Cast(value, compute) if dtype.is_half else value
    result = wide * ir.const(slope, compute) + ir.const(shift, compute)
    stored = ir.Cast(result, dtype) if dtype.is_half else result
    return ir.Kernel("affine", (x, out), (ir.Store(out, (i,), i, stored, None, None),))


def matmul(m: int, n: int, k: int) -> ir.Kernel:
    a, b = ir.Param(0, float32, m * k, False), ir.Param(1, float32, k * n, False)
    c = ir.Param(2, float32, m * n, True)
    i, j, q = ir.Range("i", m), ir.Range("j", n), ir.Range("q", k)
    product = ir.Contract((q,), ir.Load(a, i * k + q, None), ir.Load(b, q * n + j, None), float32)
    store = ir.Store(c, (i, j), i * n + j, product, None, None)
    return ir.Kernel("matmul", (a, b, c), (store,))


def row_sums(rows: int, columns: int) -> ir.Kernel:
    x, out = ir.Param(0, float32, rows * columns, False), ir.Param(1, float32, rows, True)
    i, j = ir.Range("i", rows), ir.Range("j", columns)
    total = ir.Reduce("add", (j,), ir.Load(x, i * columns + j, None))
    return ir.Kernel("row_sums", (x, out), (ir.Store(out, (i,), i, total, None, None),))


def dispatch(kernel: int, *buffers: BufferRef, predicate: BufferRef | None = None) -> Dispatch:
    """A launch whose last buffer is the one written."""
    written = (*(False,) * (len(buffers) - 1), True)
    return Dispatch(kernel, buffers, written, (), predicate)


class Played:
    """A program with its buffers on a device."""

    def __init__(self, device, program: Program, inputs, variables=(), options=None) -> None:
        self.program = program
        self.device = device
        self.loaded = device.compile(program, options or CompileOptions())
        self.buffers = []
        given = {
            **{(Space.INPUT, i): a for i, a in enumerate(inputs)},
            **{(Space.VARIABLE, i): a for i, a in enumerate(variables)},
            **{(Space.CONSTANT, i): a for i, a in enumerate(program.constants)},
        }
        for space, index, size in program.buffers():
            buffer = device.allocate(size)
            if (space, index) in given:
                array = np.ascontiguousarray(given[space, index])
                assert array.nbytes == size
                device.upload(buffer, 0, array)
            self.buffers.append(buffer)

    def play(self) -> list[np.ndarray]:
        self.loaded.play([b.handle for b in self.buffers])
        return [self.value(Space.OUTPUT, i, t) for i, t in enumerate(self.program.outputs)]

    def value(self, space: Space, index: int, type: TensorType) -> np.ndarray:
        buffer = self.buffers[self.program.argument(space, index)]
        value = np.empty(type.static_shape, type.dtype.numpy)
        self.device.download(buffer, 0, value)
        return value


def single(kernel: ir.Kernel, inputs: tuple[TensorType, ...], output: TensorType) -> Program:
    refs = [whole(Space.INPUT, i, t) for i, t in enumerate(inputs)]
    command = dispatch(0, *refs, whole(Space.OUTPUT, 0, output))
    return Program((kernel,), (command,), inputs, (output,), (), (), 0)


def commands(kernels, listed: tuple[Command, ...], arena: int = 0, inputs=1) -> Program:
    kind = TensorType((N,), float32)
    flag = TensorType((1,), int32)
    types = (kind, flag)[:inputs]
    return Program(tuple(kernels), listed, types, (kind,), (), (), arena)


KIND = TensorType((N,), float32)
INPUT = whole(Space.INPUT, 0, KIND)
OUTPUT = whole(Space.OUTPUT, 0, KIND)
FLAG = BufferRef(Space.INPUT, 1, 0, 4)
X = np.linspace(-3, 3, N, dtype=np.float32)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: d.name)
def test_elementwise(running, dtype):
    kind = TensorType((N,), dtype)
    x = X.astype(dtype.numpy)
    program = single(affine(dtype), (kind,), kind)
    if dtype not in backends.backend(running.name).limits.dtypes:
        with pytest.raises(UnsupportedDtype, match=dtype.name):
            running.compile(program, CompileOptions())
        return
    (y,) = Played(running, program, [x]).play()
    wide = x.astype(np.float64) * 2 + 1
    tolerance = {float16: 1e-3, bfloat16: 8e-3, float32: 3e-7}.get(dtype, 1e-15)
    assert np.allclose(y.astype(np.float64), wide, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 100, 4097])
def test_sizes_around_the_vector_width(running, n):
    kind = TensorType((n,), float32)
    x = np.arange(n, dtype=np.float32)
    (y,) = Played(running, single(affine(n=n), (kind,), kind), [x]).play()
    assert (y == x * 2 + 1).all()


def test_integers(running):
    kind = TensorType((N,), int32)
    x = np.arange(N, dtype=np.int32) - 500
    (y,) = Played(running, single(affine(int32, slope=3, shift=-7), (kind,), kind), [x]).play()
    assert (y == x * 3 - 7).all()


def test_comparison_to_bool(running):
    x, out = ir.Param(0, float32, N, False), ir.Param(1, bool_, N, True)
    i = ir.Range("i", N)
    value = ir.Load(x, i, None) < ir.const(0.5, float32)
    kernel = ir.Kernel("less", (x, out), (ir.Store(out, (i,), i, value, None, None),))
    (y,) = Played(running, single(kernel, (KIND,), TensorType((N,), bool_)), [X]).play()
    assert y.dtype == np.bool_ and (y == (X < 0.5)).all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 17), (64, 100), (1000, 1)])
def test_reduction(running, rows, columns):
    x = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    types = TensorType((rows, columns), float32), TensorType((rows,), float32)
    (y,) = Played(running, single(row_sums(rows, columns), types[:1], types[1]), [x]).play()
    assert np.allclose(y, x.astype(np.float64).sum(1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (33, 50, 64), (128, 96, 70)])
def test_contraction(running, shape):
    m, n, k = shape
    rng = np.random.default_rng(1)
    a = rng.standard_normal((m, k)).astype(np.float32)
    b = rng.standard_normal((k, n)).astype(np.float32)
    types = TensorType((m, k), float32), TensorType((k, n), float32)
    out = TensorType((m, n), float32)
    (c,) = Played(running, single(matmul(m, n, k), types, out), [a, b]).play()
    assert np.allclose(c, a.astype(np.float64) @ b.astype(np.float64), rtol=1e-4, atol=1e-4)


def test_arena_and_order(running):
    start = backends.backend(running.name).limits.buffer_alignment
    middle = BufferRef(Space.ARENA, 0, start, KIND.bytes)
    listed = (dispatch(0, INPUT, middle), dispatch(0, middle, OUTPUT))
    (y,) = Played(running, commands([affine()], listed, start + KIND.bytes), [X]).play()
    assert np.allclose(y, (X * 2 + 1) * 2 + 1)


def test_in_place(running):
    listed = (Copy(INPUT, OUTPUT), dispatch(0, OUTPUT, OUTPUT))
    (y,) = Played(running, commands([affine()], listed), [X]).play()
    assert np.allclose(y, X * 2 + 1)


def test_copy_of_a_part(running):
    source, target = BufferRef(Space.INPUT, 0, 40, 100), BufferRef(Space.OUTPUT, 0, 8, 100)
    listed = (Fill(OUTPUT, bytes(4)), Copy(source, target))
    (y,) = Played(running, commands([], listed), [X]).play()
    assert (y[2:27] == X[10:35]).all() and not y[:2].any() and not y[27:].any()


@pytest.mark.parametrize("pattern", [b"\x07", b"\x01\x02", b"\x00\x00\x80\x3f", bytes(range(8))])
@pytest.mark.parametrize("size", [8, 80, 4000])
def test_fill(running, pattern, size):
    listed = (Fill(OUTPUT, bytes(1)), Fill(BufferRef(Space.OUTPUT, 0, 0, size), pattern))
    (y,) = Played(running, commands([], listed), [X]).play()
    data = y.tobytes()
    assert data[:size] == pattern * (size // len(pattern)) and not any(data[size:])


@pytest.mark.parametrize("flag", [0, 1, -1, 1 << 30])
def test_predicates(running, flag):
    listed = (
        Fill(OUTPUT, bytes(4)),
        dispatch(0, INPUT, OUTPUT, predicate=FLAG),
    )
    given = [X, np.array([flag], np.int32)]
    (y,) = Played(running, commands([affine()], listed, inputs=2), given).play()
    assert np.allclose(y, X * 2 + 1) if flag else not y.any()


@pytest.mark.parametrize("flag", [0, 5])
def test_predicates_of_copy_and_fill(running, flag):
    half = KIND.bytes // 2
    listed = (
        Fill(OUTPUT, bytes(4)),
        Copy(BufferRef(Space.INPUT, 0, 0, half), BufferRef(Space.OUTPUT, 0, 0, half), FLAG),
        Fill(BufferRef(Space.OUTPUT, 0, half, half), b"\x00\x00\x80\x3f", FLAG),
    )
    given = [X, np.array([flag], np.int32)]
    (y,) = Played(running, commands([], listed, inputs=2), given).play()
    wanted = np.concatenate([X[: N // 2], np.ones(N // 2)]) if flag else np.zeros(N)
    assert (y == wanted).all()


def test_a_predicate_computed_by_an_earlier_command(running):
    x, out = ir.Param(0, int32, 1, False), ir.Param(1, int32, 1, True)
    i = ir.Range("i", 1)
    value = ir.Cast(ir.fn("lt", ir.const(2, int32), ir.Load(x, i, None)), int32)
    more = ir.Kernel("more", (x, out), (ir.Store(out, (i,), i, value, None, None),))
    chosen = BufferRef(Space.ARENA, 0, 0, 4)
    listed = (
        Fill(OUTPUT, bytes(4)),
        dispatch(1, FLAG, chosen),
        dispatch(0, INPUT, OUTPUT, predicate=chosen),
    )
    program = commands([affine(), more], listed, arena=64, inputs=2)
    for flag in (2, 3):
        (y,) = Played(running, program, [X, np.array([flag], np.int32)]).play()
        assert np.allclose(y, X * 2 + 1) if flag > 2 else not y.any()


def test_variables_keep_their_value(running):
    variable = whole(Space.VARIABLE, 0, KIND)
    listed = (dispatch(0, variable, variable), Copy(variable, OUTPUT))
    program = Program(
        (affine(slope=1, shift=1),), listed, (), (KIND,), (Variable("v", KIND),), (), 0
    )
    played = Played(running, program, [], [np.zeros(N, np.float32)])
    for turn in (1, 2, 3):
        (y,) = played.play()
        assert (y == turn).all()


def test_constants(running):
    listed = (dispatch(0, whole(Space.CONSTANT, 0, KIND), OUTPUT),)
    program = Program((affine(),), listed, (KIND,), (KIND,), (), (X,), 0)
    (y,) = Played(running, program, [np.zeros(N, np.float32)]).play()
    assert np.allclose(y, X * 2 + 1)


def test_nan_and_infinity(running):
    x = np.resize(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32), N)
    (y,) = Played(running, single(affine(slope=1, shift=0), (KIND,), KIND), [x]).play()
    assert np.array_equal(y, x + np.float32(0), equal_nan=True)


def test_empty_program(running):
    played = Played(running, Program((), (), (), (), (), (), 0), [])
    assert played.play() == []


def test_same_bits_every_time(running):
    x = np.random.default_rng(2).standard_normal((64, 333)).astype(np.float32)
    types = TensorType((64, 333), float32), TensorType((64,), float32)
    played = Played(running, single(row_sums(64, 333), types[:1], types[1]), [x])
    first = played.play()[0].tobytes()
    assert all(played.play()[0].tobytes() == first for _ in range(10))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_thread_counts(running, count):
    rng = np.random.default_rng(3)
    a = rng.standard_normal((70, 40)).astype(np.float32)
    b = rng.standard_normal((40, 90)).astype(np.float32)
    types = TensorType((70, 40), float32), TensorType((40, 90), float32)
    program = single(matmul(70, 90, 40), types, TensorType((70, 90), float32))
    options = CompileOptions(threads=count)
    (c,) = Played(running, program, [a, b], options=options).play()
    assert np.allclose(c, a @ b, rtol=1e-4, atol=1e-4)


def test_python_threads_play_at_once(running):
    program = single(affine(), (KIND,), KIND)
    loaded = running.compile(program, CompileOptions())
    wrong: list[object] = []

    def work(number: int) -> None:
        try:
            played = Played(running, program, [X + number])
            played.loaded = loaded
            for _ in range(10):
                if not np.allclose(played.play()[0], (X + number) * 2 + 1, atol=1e-5):
                    wrong.append(number)
        except BaseException as error:
            wrong.append(error)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(60)
    assert not wrong and not any(w.is_alive() for w in workers)


def test_independent_commands_do_not_share_scratch(running):
    shapes = ((96, 64, 48), (40, 200, 333), (17, 33, 1000))
    rng = np.random.default_rng(4)
    kernels, types, outputs, inputs, listed = [], [], [], [], []
    for number, (m, n, k) in enumerate(shapes):
        kernels.append(matmul(m, n, k))
        types += [TensorType((m, k), float32), TensorType((k, n), float32)]
        outputs.append(TensorType((m, n), float32))
        inputs += [rng.standard_normal(t.static_shape).astype(np.float32) for t in types[-2:]]
        given = [whole(Space.INPUT, 2 * number + i, types[2 * number + i]) for i in (0, 1)]
        listed.append(dispatch(number, *given, whole(Space.OUTPUT, number, outputs[-1])))
    program = Program(tuple(kernels), tuple(listed), tuple(types), tuple(outputs), (), (), 0)
    played = Played(running, program, inputs, options=CompileOptions(threads=3))
    for _ in range(3):
        results = played.play()
        for number, c in enumerate(results):
            wanted = inputs[2 * number].astype(np.float64) @ inputs[2 * number + 1]
            assert np.allclose(c, wanted, rtol=1e-4, atol=1e-3)


def test_source_is_text(device):
    loaded = device.compile(single(affine(), (KIND,), KIND), CompileOptions())
    assert isinstance(loaded.source(), str) and loaded.source().strip()
    assert isinstance(loaded.image(), bytes)
    assert loaded.program.kernels[0].name == "affine"


def test_devices_that_only_compile_say_so(device):
    if backends.backend(device.name).runs:
        pytest.skip(f"{device.name} runs")
    played = Played(device, single(affine(), (KIND,), KIND), [X])
    with pytest.raises(DeviceError, match=device.name):
        played.play()


def test_image_plays_like_the_original(running):
    program = single(affine(), (KIND,), KIND)
    played = Played(running, program, [X])
    (first,) = played.play()
    played.loaded = running.load(program, CompileOptions(), played.loaded.image())
    running.upload(played.buffers[1], 0, np.zeros(N, np.float32))
    (second,) = played.play()
    assert first.tobytes() == second.tobytes()


def test_images_are_deterministic(device):
    program = single(affine(), (KIND,), KIND)
    images = {device.compile(program, CompileOptions()).image() for _ in range(2)}
    assert len(images) == 1


def test_damaged_images_are_refused(device):
    program = single(affine(), (KIND,), KIND)
    image = device.compile(program, CompileOptions()).image()
    if not image:
        pytest.skip(f"{device.name} has no machine code")
    for broken in (b"", image[: len(image) // 2], b"\0" * len(image)):
        with pytest.raises(CorruptFile):
            device.load(program, CompileOptions(), broken)


def test_cache_survives_damage(running, tmp_path, monkeypatch):
    monkeypatch.setenv("NIELLO_CACHE", "1")
    monkeypatch.setenv("NIELLO_CACHE_DIR", str(tmp_path))
    program = single(affine(slope=5), (KIND,), KIND)
    (first,) = Played(running, program, [X]).play()
    for path in tmp_path.rglob("*.code"):
        path.write_bytes(b"damaged")
    (second,) = Played(running, program, [X]).play()
    assert first.tobytes() == second.tobytes() and np.allclose(first, X * 5 + 1)
