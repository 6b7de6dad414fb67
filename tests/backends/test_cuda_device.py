"""The cuda device on a GPU: memory, transfers, graphs, DLPack, libraries. Skipped without one."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

import niello as nl
from niello import backends
from niello.core.errors import BackendUnavailable, CorruptFile, FeedError, OutOfMemory
from niello.runtime.commands import BufferRef, Copy, Fill, LibraryCall, Program, Space
from niello.runtime.target import CompileOptions
from niello.runtime.tensor_data import on_device


@pytest.fixture(scope="module")
def cuda():
    try:
        return backends.device("cuda")
    except BackendUnavailable as error:
        pytest.skip(str(error))


def test_describe_names_libraries(cuda):
    text = cuda.describe()
    assert text.startswith("cuda: ") and "cuBLASLt" in text and "cuDNN" in text and "sm_" in text


def test_buffers_are_aligned(cuda):
    assert all(cuda.allocate(size).handle % 256 == 0 for size in (1, 7, 300, 5000, 1 << 21))


def test_memory_comes_back_and_is_used_again(cuda):
    first = cuda.allocate(12345)
    address = first.handle
    del first
    assert cuda.allocate(12345).handle == address


@pytest.mark.parametrize("size", [1, 1000, (1 << 18) + 4, (1 << 24) + 12])
def test_transfers(cuda, size):
    data = np.random.default_rng(size).integers(0, 256, size).astype(np.uint8)
    buffer = cuda.allocate(size + 8)
    cuda.upload(buffer, 8, data)
    kept = data.copy()
    data[...] = 0  # what was given may change as soon as the call returns
    back = np.empty_like(data)
    cuda.download(buffer, 8, back)
    assert (back == kept).all()


def test_too_much_memory_leaves_the_device_working(cuda):
    total = cuda.driver.total_memory()
    held = cuda.allocate(1 << 20)
    with pytest.raises(OutOfMemory) as error:
        blocks = [cuda.allocate(total // 4) for _ in range(8)]
    assert error.value.fields["requested"] == total // 4
    assert error.value.fields["held"] >= 1 << 20
    blocks = None
    del held, error, blocks
    gc.collect()
    cuda.release_memory()
    assert on_device(np.arange(3.0), cuda).tolist() == [0, 1, 2]


def doubling(n: int = 1000) -> tuple[nl.Executable, np.ndarray]:
    graph = nl.Graph()
    x = graph.placeholder((n,), nl.float32)
    y = nl.sum(x * 2.0, axes=0) + x
    exe = graph.compile({x: nl.TensorType((n,))}, [y], device="cuda")
    return exe, np.arange(n, dtype=np.float32)


def test_repeated_runs_become_a_graph(cuda):
    exe, x = doubling()
    wanted = np.float32(2 * x.sum()) + x
    value = on_device(x, cuda)
    results = exe.run([value])
    for _ in range(4):
        exe.run([value], results=results)
    assert np.allclose(np.asarray(results[0]), wanted)
    steps = len(exe.loaded._steps)
    assert steps == 1 or len(exe.loaded._graphs) == 1
    cuda.upload(value.buffer, 0, x + 1)
    exe.run([value], results=results)
    assert np.allclose(np.asarray(results[0]), np.float32(2 * (x + 1).sum()) + x + 1)


def test_many_sets_of_buffers(cuda):
    exe, x = doubling()
    values = [on_device(x + i, cuda) for i in range(40)]
    for _ in range(3):
        results = [exe.run([v]) for v in values]
        for i, (found,) in enumerate(results):
            assert np.allclose(np.asarray(found), np.float32(2 * (x + i).sum()) + x + i)


def test_results_stay_on_the_device(cuda):
    exe, x = doubling()
    (first,) = exe.run([x])
    assert first.device is cuda
    (second,) = exe.run([first])
    once = 2 * x.sum() + x
    assert np.allclose(np.asarray(second), 2 * once.sum() + once)


def test_runs_from_several_threads(cuda):
    exe, x = doubling()
    wrong: list[object] = []

    def work(i: int) -> None:
        try:
            for _ in range(20):
                (y,) = exe.run([x + i])
                if not np.allclose(np.asarray(y), np.float32(2 * (x + i).sum()) + x + i):
                    wrong.append(i)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not wrong


@pytest.mark.parametrize("dtype", [nl.float64, nl.float16, nl.bfloat16], ids=lambda d: d.name)
@pytest.mark.parametrize("epilogue", ["", "bias", "relu", "gelu", "added"])
def test_products_by_the_library(cuda, dtype, epilogue):
    graph = nl.Graph()
    a, b = graph.placeholder((64, 96), dtype), graph.placeholder((96, 80), dtype)
    c, d = graph.placeholder((80,), dtype), graph.placeholder((64, 80), dtype)
    y = nl.matmul(a, b)
    if epilogue:
        y = y + c
    if epilogue == "added":
        y = y + d
    if epilogue in ("relu", "added"):
        y = y.relu()
    if epilogue == "gelu":
        y = nl.gelu(y)
    feeds = {"": [a, b], "added": [a, b, c, d]}.get(epilogue, [a, b, c])
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(t.type.static_shape).astype(dtype.numpy) for t in feeds]
    types = {t: t.type for t in feeds}
    exe = graph.compile(types, [y], device="cuda")
    kinds = [type(command) for command in exe.program.commands]
    assert LibraryCall in kinds
    if epilogue == "added" and dtype.is_half:  # cuBLASLt has no ReLU for float64
        assert kinds == [LibraryCall]
    found = np.asarray(exe.run(values)[0]).astype(np.float64)
    plain = graph.compile(types, [y], device="numpy")
    wanted = np.asarray(plain.run(values)[0]).astype(np.float64)
    tolerance = {"float64": 1e-12, "float16": 1e-2, "bfloat16": 8e-2}[dtype.name]
    assert np.allclose(found, wanted, rtol=tolerance, atol=tolerance * 4)


@pytest.mark.parametrize("form", ["tn", "nt", "tt", "batched", "shared"])
def test_layouts_of_products(cuda, form):
    graph = nl.Graph()
    shapes = {
        "tn": ((48, 64), (48, 80)),
        "nt": ((64, 48), (80, 48)),
        "tt": ((48, 64), (80, 48)),
        "batched": ((5, 3, 16, 24), (5, 3, 24, 32)),
        "shared": ((5, 16, 24), (24, 32)),
    }[form]
    a, b = (graph.placeholder(s, nl.float64) for s in shapes)
    left = nl.swap_axes(a, 0, 1) if form in ("tn", "tt") else a
    right = nl.swap_axes(b, 0, 1) if form in ("nt", "tt") else b
    exe = graph.compile({a: a.type, b: b.type}, [nl.matmul(left, right)], device="cuda")
    assert [type(c) for c in exe.program.commands] == [LibraryCall]
    rng = np.random.default_rng(1)
    values = [rng.standard_normal(s) for s in shapes]
    x = values[0].T if form in ("tn", "tt") else values[0]
    y = values[1].T if form in ("nt", "tt") else values[1]
    assert np.allclose(np.asarray(exe.run(values)[0]), x @ y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [nl.float32, nl.float16, nl.bfloat16], ids=lambda d: d.name)
@pytest.mark.parametrize("weights_layout", ["HWIO", "OIHW"])
@pytest.mark.parametrize("strides", [1, 2])
def test_convolutions_by_the_library(cuda, dtype, weights_layout, strides):
    graph = nl.Graph()
    shape = (3, 3, 32, 48) if weights_layout == "HWIO" else (48, 32, 3, 3)
    x = graph.placeholder((36, 15, 16, 32), dtype)
    w, b = graph.placeholder(shape, dtype), graph.placeholder((48,), dtype)
    y = nl.conv2d(
        x, w, padding="same", strides=strides, data_layout="NHWC", weights_layout=weights_layout
    )
    seed = graph.placeholder(y.type.static_shape, dtype)
    # A mask in between would turn rounding near zero into large differences.
    gradients = graph.gradients(y, [x, w], seed=seed)
    targets = [(y + b).relu(), gradients[x], gradients[w]]
    feeds = [x, w, b, seed]
    rng = np.random.default_rng(2)
    values = [(rng.standard_normal(t.type.static_shape) * 0.25).astype(dtype.numpy) for t in feeds]
    types = {t: t.type for t in feeds}
    exe = graph.compile(types, targets, device="cuda")
    found = exe.run(values)
    wanted = graph.compile(types, targets, device="cpu").run(values)
    calls = [c for c in exe.program.commands if isinstance(c, LibraryCall)]
    absent = cuda.libraries.get("cudnn") is None
    assert absent or bool(calls) == (dtype is not nl.float32)  # which generated kernels do better
    for f, t in zip(found, wanted, strict=True):
        one, other = np.asarray(f).astype(np.float64), np.asarray(t).astype(np.float64)
        size = float(np.sqrt(np.mean(other**2)))
        limit = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 6e-2}[dtype.name]
        assert np.abs(one - other).max() <= limit * max(size, 1.0)


@pytest.mark.parametrize("dtype", [nl.float16, nl.bfloat16], ids=lambda d: d.name)
@pytest.mark.parametrize("form", ["nn", "nt", "tn", "computed", "convolution"])
def test_half_contractions_without_libraries(cuda, monkeypatch, dtype, form):
    """Tensor cores by generated code, against float64."""
    monkeypatch.setattr(cuda, "usable_claims", lambda claims: ())
    graph = nl.Graph()
    shapes = {"nt": ((200, 136), (264, 136)), "tn": ((136, 200), (136, 264))}.get(
        form, ((200, 136), (136, 264))
    )
    if form == "convolution":
        shapes = ((4, 15, 16, 24), (40, 3, 3, 24))
    a, b = (graph.placeholder(s, dtype) for s in shapes)
    if form == "convolution":
        y = nl.conv2d(a, b, padding=1, strides=2, data_layout="NHWC", weights_layout="OHWI")
    else:
        left = nl.swap_axes(a, 0, 1) if form == "tn" else a.relu() if form == "computed" else a
        y = nl.matmul(left, nl.swap_axes(b, 0, 1) if form == "nt" else b)
    rng = np.random.default_rng(5)
    values = [rng.standard_normal(s).astype(dtype.numpy) for s in shapes]
    types = {t: t.type for t in (a, b)}
    exe = graph.compile(types, [y], device="cuda")
    assert "tensor tiles" in exe.loaded.source()
    found = np.asarray(exe.run(values)[0]).astype(np.float64)
    wanted = np.asarray(graph.compile(types, [y], device="numpy").run(values)[0])
    wanted = wanted.astype(np.float64)
    step = 2.0**-7 if dtype is nl.bfloat16 else 2.0**-10
    assert np.abs(found - wanted).max() <= step * np.abs(wanted).max()


def test_long_float32_sums_are_exact(cuda):
    """Gradients of weights over many points: float32 throughout, as it says."""
    graph = nl.Graph()
    x, g = graph.placeholder((64, 14, 14, 32)), graph.placeholder((64, 14, 14, 64))
    y = nl.conv2d_weights_gradient(
        g, x, (1, 1), padding="same", data_layout="NHWC", weights_layout="HWIO"
    )
    rng = np.random.default_rng(3)
    values = [rng.standard_normal(t.type.static_shape).astype(np.float32) for t in (x, g)]
    exe = graph.compile({x: x.type, g: g.type}, [y], device="cuda")
    found = np.asarray(exe.run(values)[0])[0, 0]
    wanted = values[0].reshape(-1, 32).astype(np.float64).T @ values[1].reshape(-1, 64)
    assert np.abs(found - wanted).max() <= 1e-5 * np.sqrt(np.mean(wanted**2))


@pytest.mark.parametrize("kinds", ["normal", "wide", "denormal", "special"])
def test_float32_products_on_tensor_cores_are_exact(cuda, kinds):
    """As close to float64 as float32 arithmetic is, whatever the factors are."""
    rng = np.random.default_rng(3)
    a, b = (rng.standard_normal(s) for s in ((256, 1024), (1024, 256)))
    if kinds == "wide":
        a, b = (np.sign(x) * np.exp(8 * rng.standard_normal(x.shape)) for x in (a, b))
    if kinds == "denormal":
        a, b = a * 1e-41, b * 1e10
    a, b = a.astype(np.float32), b.astype(np.float32)
    if kinds == "special":
        a[3, 5], b[7, 9], a[20, 8], a[40, 2] = np.inf, -np.inf, np.nan, 3.4e38
        b[2, :] = 0.5
    graph = nl.Graph()
    x, y = graph.placeholder(a.shape), graph.placeholder(b.shape)
    exe = graph.compile({x: x.type, y: y.type}, [nl.matmul(x, y)], device="cuda")
    found = np.asarray(exe.run([a, b])[0])
    with np.errstate(all="ignore"):
        want = a.astype(np.float64) @ b.astype(np.float64)
        most = np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)
        narrow = want.astype(np.float32)
    finite = np.isfinite(narrow)
    np.testing.assert_array_equal(found[~finite], narrow[~finite])
    error = np.abs(found[finite] - want[finite]) / most[finite]
    assert error.max() <= 1.5e-6
    if cuda.arch in ("sm_80", "sm_90", "sm_100", "sm_103"):
        assert "nl_split" in exe.loaded.source()


def test_a_fence_is_passed_when_earlier_work_is_done(cuda):
    exe, x = doubling(1 << 20)
    value = on_device(x, cuda)
    results = exe.run([value])
    for _ in range(20):
        exe.run([value], results=results)
    fence = cuda.fence()
    later = exe.run([value])
    fence()
    fence()  # a second time, and from another thread
    passed: list[bool] = []
    thread = threading.Thread(target=lambda: (fence(), passed.append(True)))
    thread.start()
    thread.join(30)
    assert passed == [True]
    assert np.allclose(np.asarray(later[0]), np.asarray(results[0]))


@pytest.mark.parametrize("dtype", [nl.float32, nl.bfloat16], ids=lambda d: d.name)
def test_nan_passes_through_libraries(cuda, dtype):
    """NaN stays NaN through a ReLU, also where a library does it."""
    graph = nl.Graph()
    a, b = graph.placeholder((64, 96), dtype), graph.placeholder((96, 80), dtype)
    x, w = graph.placeholder((16, 32, 32, 32), dtype), graph.placeholder((3, 3, 32, 64), dtype)
    c = graph.placeholder((64,), dtype)
    feeds = [a, b, x, w, c]
    y = nl.conv2d(x, w, padding=1, data_layout="NHWC", weights_layout="HWIO")
    targets = [nl.matmul(a, b).relu(), (y + c).relu()]
    exe = graph.compile({t: t.type for t in feeds}, targets, device="cuda")
    values = [np.ones(t.type.static_shape, dtype.numpy) for t in feeds]
    values[0][3, 5] = np.nan
    values[2][2, 7, 9, 11] = np.nan
    first, second = (np.asarray(t).astype(np.float32) for t in exe.run(values))
    assert np.isnan(first[3]).all() and not np.isnan(np.delete(first, 3, axis=0)).any()
    assert np.isnan(second[2, 6:9, 8:11]).all() and np.isnan(second).sum() == 9 * 64


@pytest.mark.parametrize("steps", [("gelu",), ("add", "relu"), ("silu", "mul")])
def test_convolutions_take_their_epilogue_along(cuda, steps):
    if cuda.libraries.get("cudnn") is None:
        pytest.skip("without cuDNN")
    graph = nl.Graph()
    x = graph.placeholder((8, 16, 16, 64), nl.bfloat16)
    w, b = graph.placeholder((3, 3, 64, 64), nl.bfloat16), graph.placeholder((64,), nl.bfloat16)
    t = nl.conv2d(x, w, padding=1, data_layout="NHWC", weights_layout="HWIO") + b
    for step in steps:
        t = {"add": lambda v: v + x, "mul": lambda v: v * x}.get(step, getattr(nl, step, None))(t)
    feeds = [x, w, b]
    rng = np.random.default_rng(3)
    values = [
        (rng.standard_normal(f.type.static_shape, np.float32) * 0.2).astype(nl.bfloat16.numpy)
        for f in feeds
    ]
    types = {f: f.type for f in feeds}
    exe = graph.compile(types, [t], device="cuda")
    found = np.asarray(exe.run(values)[0]).astype(np.float64)
    wanted = np.asarray(graph.compile(types, [t], device="cpu").run(values)[0]).astype(np.float64)
    assert np.allclose(found, wanted, rtol=2e-2, atol=2e-2)
    assert exe.program.commands[0].function == "cudnn.convolution"


def test_tf32_is_asked_for(cuda):
    graph = nl.Graph()
    a, b = graph.placeholder((256, 512)), graph.placeholder((512, 256))
    rng = np.random.default_rng(5)
    values = [rng.standard_normal(t.type.static_shape).astype(np.float32) for t in (a, b)]
    wanted = values[0].astype(np.float64) @ values[1]
    errors = []
    for tf32 in (False, True):
        options = CompileOptions(tf32=tf32)
        exe = graph.compile(
            {a: a.type, b: b.type}, [nl.matmul(a, b)], device="cuda", options=options
        )
        errors.append(float(np.abs(np.asarray(exe.run(values)[0]) - wanted).max()))
    assert errors[0] < 2e-4 and 1e-3 < errors[1] < 1e-1


def test_images(cuda):
    exe, x = doubling(300)
    image = exe.loaded.image()
    again = cuda.load(exe.program, CompileOptions(), image)
    assert again.image() == image
    with pytest.raises(CorruptFile):
        cuda.load(exe.program, CompileOptions(), image[:-1])
    handles = [on_device(x, cuda), on_device(np.zeros_like(x), cuda)]
    arena = cuda.allocate(max(exe.program.arena_bytes, 1))
    again.play([*(v.handle for v in handles), arena.handle])
    assert np.allclose(np.asarray(handles[1]), np.float32(2 * x.sum()) + x)


# --- DLPack ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "int64", "bool"])
def test_torch_shares_memory(cuda, name):
    torch = pytest.importorskip("torch")
    given = (torch.arange(24).reshape(2, 3, 4) % 2).to(getattr(torch, name)).cuda()
    value = cuda.import_dlpack(given)
    assert value.handle == given.data_ptr() and value.shape == (2, 3, 4)
    assert (value.numpy().astype(np.float64) == given.double().cpu().numpy()).all()
    back = torch.from_dlpack(value)
    assert back.data_ptr() == given.data_ptr() and back.dtype == given.dtype
    del value
    assert torch.equal(back, given)


def test_torch_values_feed_runs(cuda):
    torch = pytest.importorskip("torch")
    exe, x = doubling()
    for i in range(5):
        given = torch.from_numpy(x).cuda() + i
        (y,) = exe.run([given])
        del given
        t = torch.from_dlpack(y)
        del y
        wanted = 2 * float((x + i).sum()) + x + i
        assert np.allclose((t + 0).cpu().numpy(), wanted)


def test_strided_tensors_are_refused(cuda):
    torch = pytest.importorskip("torch")
    with pytest.raises(FeedError, match="row-major"):
        cuda.import_dlpack(torch.zeros(4, 6, device="cuda").T)


def test_unaligned_tensors_are_copied(cuda):
    torch = pytest.importorskip("torch")
    given = torch.arange(10.0, device="cuda")[1:]
    value = cuda.import_dlpack(given)
    assert value.handle % 16 == 0 and value.tolist() == list(range(1, 10))


def test_host_tensors_are_elsewhere(cuda):
    assert cuda.import_dlpack(np.zeros(3, np.float32)) is None


def test_jax_and_cupy_share_memory(cuda):
    value = on_device(np.arange(6, dtype=np.float32).reshape(2, 3), cuda)
    cupy = pytest.importorskip("cupy")
    there = cupy.from_dlpack(value)
    assert there.data.ptr == value.handle and float(there.sum()) == 15
    back = cuda.import_dlpack(there * 2)
    assert back.tolist() == [[0, 2, 4], [6, 8, 10]]


# --- predicates -----------------------------------------------------------------------------------


def test_runs_under_a_word_of_device_memory(cuda):
    exe, x = doubling(500)
    word = on_device(np.zeros(3, np.int32), cuda)
    value, out = on_device(x, cuda), on_device(np.full_like(x, -1), cuda)
    arena = cuda.allocate(max(exe.program.arena_bytes, 1))
    handles = [value.handle, out.handle, arena.handle]
    wanted = np.float32(2 * x.sum()) + x
    for flag in (0, 5, 0, -1):
        cuda.upload(word.buffer, 4, np.array([flag], np.int32))
        cuda.upload(out.buffer, 0, np.full_like(x, -1))
        exe.loaded.play_if(handles, word.handle, 4)
        found = np.asarray(out)
        assert np.allclose(found, wanted) if flag else (found == -1).all()


def test_words_that_the_program_makes(cuda):
    """Predicates inside a list, replayed: each run reads the word anew."""
    kind = nl.TensorType((64,), nl.float32)
    flag = BufferRef(Space.INPUT, 1, 0, 4)
    target = BufferRef(Space.OUTPUT, 0, 0, kind.bytes)
    listed = (
        Fill(target, bytes(4)),
        Copy(BufferRef(Space.INPUT, 0, 0, kind.bytes), target, flag),
        Fill(BufferRef(Space.OUTPUT, 0, 0, 8), b"\x00\x00\x80\x3f"),
    )
    one = nl.TensorType((1,), nl.int32)
    loaded = cuda.compile(Program((), listed, (kind, one), (kind,), (), (), 0), CompileOptions())
    x = np.arange(5, 69, dtype=np.float32)
    value, out = on_device(x, cuda), on_device(np.zeros_like(x), cuda)
    word, arena = on_device(np.zeros(1, np.int32), cuda), cuda.allocate(1)
    for chosen in (1, 0, 7, 0):
        cuda.upload(word.buffer, 0, np.array([chosen], np.int32))
        loaded.play([value.handle, word.handle, out.handle, arena.handle])
        found = np.asarray(out)
        assert (found[:2] == 1).all() and (found[2:] == (x[2:] if chosen else 0)).all()
    assert len(loaded._graphs) == 1


def test_training_gives_the_same_bits_again(cuda):
    """Commands that have nothing to do with each other run at once; nobody may notice."""
    from niello.cli.digits import network

    rng = np.random.default_rng(7)
    images = rng.standard_normal((5, 32, 28, 28, 1)).astype(np.float32)
    labels = np.eye(10, dtype=np.float32)[rng.integers(0, 10, (5, 32))]
    found = []
    for _ in range(3):
        model = network.build(28, seed=3)
        exe = model.graph.compile(
            {
                model.image: nl.TensorType((32, 28, 28, 1)),
                model.label: nl.TensorType((32, 10)),
            },
            [model.loss],
            network.training_step(model),
            device="cuda",
        )
        values = [
            (on_device(i, cuda), on_device(t, cuda)) for i, t in zip(images, labels, strict=True)
        ]
        losses = [exe.run(list(values[n % 5]))[0] for n in range(60)]
        found.append([float(loss).hex() for loss in losses])
    assert found[0] == found[1] == found[2]
