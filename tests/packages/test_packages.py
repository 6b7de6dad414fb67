"""Packages: what is saved runs elsewhere and later, with the same bits."""

from __future__ import annotations

import dataclasses
import json
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from package_files import (
    batch,
    features,
    member_of,
    members,
    network,
    run_in_new_process,
    sealed,
    training,
    write,
)
from safetensors.numpy import load as read_safetensors

import niello as nl
from niello import backends
from niello.core.dtypes import BY_NAME
from niello.core.errors import FeedError, GraphError, PackageError, Recompiled
from niello.executable import compat


@pytest.fixture
def package(tmp_path: Path) -> Path:
    graph, x, y = network()
    nl.save(tmp_path / "network.niello", [graph.compile({x: (n, 8)}, [y]) for n in (4, 6)])
    return tmp_path / "network.niello"


# --- saved and loaded
@pytest.mark.parametrize("device", ["cpu", "numpy"])
@pytest.mark.parametrize("directory", [False, True])
def test_the_same_bits_come_back(tmp_path: Path, device: str, directory: bool) -> None:
    graph, x, y = network()
    made = graph.compile({x: (4, 8)}, [y], device=device)
    made.save(tmp_path / "p.niello", directory=directory)
    assert (tmp_path / "p.niello").is_dir() == directory
    found = nl.load(tmp_path / "p.niello")
    assert (found.device.name, found.input_types, found.output_types) == (
        device, made.input_types, made.output_types,
    )  # fmt: skip
    assert found.program.commands == made.program.commands
    assert tuple(found.program.kernels) == tuple(made.program.kernels)
    expected = made.run([features()])[0].numpy()
    np.testing.assert_array_equal(found.run([features()])[0].numpy(), expected)
    np.testing.assert_array_equal(found.run({"x": features()})["y"].numpy(), expected)
    by_tensor = found.run({found.inputs[0]: features()})
    np.testing.assert_array_equal(by_tensor[found.targets[0]].numpy(), expected)


def test_every_stage_of_a_loaded_executable_has_text(package: Path) -> None:
    graph, x, y = network()
    made = graph.compile({x: (4, 8)}, [y])
    found = nl.load(package, inputs={"x": (4, 8)})
    for stage in ("input", "graph", "schedule", "kernels", "source"):
        assert found.as_text(stage).splitlines()[1:] == made.as_text(stage).splitlines()[1:], stage


def test_element_types_and_odd_shapes_survive(tmp_path: Path) -> None:
    graph = nl.Graph()
    rng = np.random.default_rng(0)
    kinds = [nl.bool_, nl.int8, nl.uint16, nl.int64, nl.float16, nl.bfloat16, nl.float64]
    targets = []
    for n, kind in enumerate(kinds):
        value = rng.integers(0, 2, (3, 7 + n)).astype(kind.numpy)
        targets.append(graph.constant(value).reshape((7 + n, 3)))
    targets.append(graph.constant(np.zeros((0, 3), np.float32)).reshape((3, 0)))
    x = graph.placeholder((), name="x")
    made = graph.compile({x: ()}, [*targets, x + np.float32(np.inf)], device="numpy")
    made.save(tmp_path / "p.niello")
    inputs = [np.float32(1)]
    for a, b in zip(made.run(inputs), nl.load(tmp_path / "p.niello").run(inputs), strict=True):
        assert a.type == b.type
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_input_types_are_chosen(package: Path) -> None:
    for n in (4, 6):
        for asked in ({"x": (n, 8)}, [(n, 8)], [nl.TensorType((n, 8))]):
            assert nl.load(package, inputs=asked).input_types == (nl.TensorType((n, 8)),)
    assert nl.load(package).input_types == (nl.TensorType((4, 8)),)


def test_other_input_types_are_compiled_with_a_warning(package: Path) -> None:
    with pytest.warns(Recompiled, match=r"compiled from the graph for cpu, because it holds main"):
        found = nl.load(package, inputs={"x": (9, 8)})
    graph, x, y = network()
    expected = graph.run({x: features(9)}, [y])[y].numpy()
    np.testing.assert_array_equal(found.run([features(9)])[0].numpy(), expected)


def test_another_device_is_compiled_with_a_warning(package: Path) -> None:
    with pytest.warns(Recompiled, match="for numpy, because"):
        found = nl.load(package, "numpy")
    assert found.device.name == "numpy"


def test_input_types_that_cannot_be_are_refused(package: Path) -> None:
    with pytest.raises(FeedError, match="the inputs are x"):
        nl.load(package, inputs={"z": (4, 8)})
    with pytest.warns(Recompiled), pytest.raises(FeedError, match="placeholder is"):
        nl.load(package, inputs={"x": (4, 9)})
    with pytest.raises(GraphError, match="no such function"):
        nl.load(package, function="other")


def test_without_machine_code_nothing_of_it_is_loaded(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = type(nl.device("cpu"))
    monkeypatch.setattr(device, "load", lambda *a: pytest.fail("machine code was loaded"))
    found = nl.load(package, machine_code=False)
    assert found.input_types == (nl.TensorType((4, 8)),)
    found.run([features()])


# --- other machines
def test_code_needs_are_stated_and_checked(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = nl.Package(package).variants[0].needs
    assert needs == compat.needs_of(nl.device("cpu"), nl.CompileOptions())
    assert needs
    device = nl.device("cpu")
    lacks = type(device).lacks
    assert lacks(device, ("made-up",)) == ("made-up",)
    monkeypatch.setattr(type(device), "lacks", lambda self, needs: ("avx99",))
    with pytest.warns(Recompiled, match="its code for cpu needs avx99, not found here"):
        found = nl.load(package)
    graph, x, y = network()
    expected = graph.run({x: features()}, [y])[y].numpy()
    np.testing.assert_array_equal(found.run([features()])[0].numpy(), expected)


def test_a_lower_level_runs_on_this_machine(tmp_path: Path) -> None:
    graph, x, y = network()
    options = nl.CompileOptions(target="baseline")
    graph.compile({x: (4, 8)}, [y], device="cpu", options=options).save(tmp_path / "p.niello")
    variant = nl.Package(tmp_path / "p.niello").variants[0]
    assert "avx2" not in variant.needs
    assert variant.options == options
    found = nl.load(tmp_path / "p.niello").run([features()])[0].numpy()
    np.testing.assert_allclose(found, graph.run({x: features()}, [y])[y].numpy(), rtol=1e-5)


def test_without_a_graph_there_is_only_machine_code(tmp_path: Path) -> None:
    graph, x, y = network()
    path = tmp_path / "p.niello"
    graph.compile({x: (4, 8)}, [y]).save(path, graph=False)
    assert not [n for n in members(path) if n.startswith("graph/")]
    assert nl.load(path).run([features()])[0].shape == (4, 5)
    with pytest.raises(nl.errors.BackendUnavailable, match="no graph to compile from"):
        nl.load(path, "numpy")
    with pytest.raises(PackageError, match="it holds no graph"):
        _ = nl.load(path).graph


OPTIONS = [
    nl.CompileOptions(autocast=nl.bfloat16, threads=1),
    nl.CompileOptions(autocast=nl.precision.Autocast(nl.float16, ops={"exp": "half"})),
    nl.CompileOptions(optimise=False, tf32=True),
]


@pytest.mark.parametrize("options", OPTIONS, ids=["half", "record", "plain"])
def test_options_come_back(tmp_path: Path, options: nl.CompileOptions) -> None:
    graph, x, y = network()
    made = graph.compile({x: (4, 8)}, [y], options=options)
    made.save(tmp_path / "p.niello")
    found = nl.load(tmp_path / "p.niello")
    assert found.options == options
    np.testing.assert_array_equal(
        found.run([features()])[0].numpy(), made.run([features()])[0].numpy()
    )
    with pytest.warns(Recompiled):
        assert nl.load(tmp_path / "p.niello", "numpy").options == options


VALUES = [
    None, True, 3, -1.5, float("inf"), float("-inf"), "text", b"bytes", nl.float16, (1, (2.0, "x")),
    nl.TensorType((2, None)), nl.TensorType(None, nl.int8), nl.CompileOptions(threads=2),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_of_attributes_survive_json(value: object) -> None:
    """What settings of library calls may hold."""
    from niello.executable.package_values import decode, encode

    text = json.dumps(encode(value), allow_nan=False)
    found = decode(json.loads(text), object)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_weights_of_every_element_type(tmp_path: Path, name: str) -> None:
    kind = BY_NAME[name]
    rng = np.random.default_rng(0)
    graph = nl.Graph()
    values = rng.integers(0, 2, (3, 7)).astype(kind.numpy)
    large = rng.integers(0, 2, (5, 9)).astype(kind.numpy)
    v = graph.variable(values, kind, name="v")
    x = graph.placeholder((), name="x")
    made = graph.compile({x: ()}, [v.read(), graph.constant(large, kind), x + 1.0])
    made.save(tmp_path / "p.niello")
    found = nl.load(tmp_path / "p.niello", verify=True)
    results = [r.numpy() for r in found.run([np.float32(1)])[:2]]
    for a, b in zip(results, (values, large), strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes()
    assert found.graph.variables[0].value.tobytes() == values.tobytes()


def test_index_checks_come_along(tmp_path: Path) -> None:
    graph = nl.Graph()
    x, at = graph.placeholder((4,), name="x"), graph.placeholder((2,), nl.int32, name="at")
    options = nl.CompileOptions(check_indices=True)
    types = {x: (4,), at: nl.TensorType((2,), nl.int32)}
    made = graph.compile(types, [nl.gather(x, at, axis=0)], options=options)
    made.save(tmp_path / "p.niello")
    values = np.arange(4, dtype=np.float32)
    for found in (made, nl.load(tmp_path / "p.niello")):
        assert found.run([values, np.int32([3, 1])])[0].tolist() == [3.0, 1.0]
        with pytest.raises(nl.errors.IndexOutOfRange, match="axis of size 4"):
            found.run([values, np.int32([0, 4])])


# --- every back end
RUNNING = [n for n in backends.names() if n == "webgpu" or backends.backend(n).runs]


@pytest.mark.parametrize("device", RUNNING)
def test_every_back_end_loads_its_own_code(tmp_path: Path, device: str) -> None:
    """Training and lazy weights, without compiling anything."""
    try:
        opened = backends.device(device)
    except nl.errors.BackendUnavailable as error:
        pytest.skip(str(error))
    graph, x, y = network()
    made = graph.compile({x: (4, 8)}, [y], device=device)
    path = tmp_path / "p.niello"
    made.save(path)
    expected = made.run([features()])[0].numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(opened), "compile", lambda *a: pytest.fail("it was compiled"))
        found = nl.load(path, device, weights="lazy")
        np.testing.assert_array_equal(found.run([features()])[0].numpy(), expected)
        found.purge_weights()
        np.testing.assert_array_equal(found.run([features()])[0].numpy(), expected)
    variable = nl.Graph()
    v = variable.variable(np.zeros(3, np.float32), name="v")
    step = variable.compile({}, [v + 0.0], [v.assign(v + 1.0)], device=device)
    step.run([])
    step.save(path)
    again = nl.load(path, device)
    again.run([])
    assert again.graph.variables[0].value.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("target", ["webgpu:portable", "cuda:sm_90"])
def test_code_compiled_ahead_runs_where_the_device_is(tmp_path: Path, target: str) -> None:
    name = target.partition(":")[0]
    graph, x, y = network()
    try:
        made = graph.compile({x: (4, 8)}, [y], device=target)
    except nl.errors.BackendUnavailable as error:
        pytest.skip(str(error))
    assert not made.runs_here
    with pytest.raises(nl.errors.DeviceError, match="compiled ahead for another machine"):
        made.run([features()])
    made.save(tmp_path / "p.niello")
    assert nl.Package(tmp_path / "p.niello").variants[0].code
    try:
        backends.device(name)
    except nl.errors.BackendUnavailable:
        with pytest.warns(Recompiled):  # the graph is compiled for what is here
            found = nl.load(tmp_path / "p.niello")
    else:
        found = nl.load(tmp_path / "p.niello")
        assert found.device.name == name
    expected = graph.run({x: features()}, [y])[y].numpy()
    np.testing.assert_allclose(found.run([features()])[0].numpy(), expected, rtol=1e-5)


# --- appending
def test_append_adds_targets_and_input_types(package: Path) -> None:
    before = members(package)
    graph, x, y = network()
    graph.compile({x: (4, 8)}, [y], device="numpy").save(package, append=True)
    after = nl.Package(package)
    held = [(v.device, v.inputs[0].static_shape) for v in after.variants]
    assert held == [("cpu", (4, 8)), ("cpu", (6, 8)), ("numpy", (4, 8))]
    kept = {n: d for n, d in before.items() if n != "manifest.json"}
    assert kept.items() <= members(package).items()
    assert after.load("numpy").device.name == "numpy"


def test_append_replaces_what_is_there(package: Path) -> None:
    graph, x, y = network()
    graph.compile({x: (6, 8)}, [y]).save(package, append=True)
    assert len(nl.Package(package).variants) == 2


def test_append_adds_functions_of_the_same_graph(package: Path) -> None:
    loaded = nl.Package(package)
    graph = loaded.graph
    x = graph.placeholders[0]
    largest = graph.operation("y").outputs[0].max(axes=-1, name="largest")
    nl.save(package, {"largest": graph.compile({x: (4, 8)}, [largest])}, append=True)
    found = nl.load(package, function="largest").run([features()])[0].numpy()
    whole = nl.load(package, function="main", inputs=[(4, 8)]).run([features()])[0].numpy()
    np.testing.assert_array_equal(found, whole.max(-1))


def test_append_refuses_another_graph(package: Path) -> None:
    before = package.read_bytes()
    graph, x, y = network(seed=3)
    with pytest.raises(PackageError, match="holds another graph"):
        graph.compile({x: (4, 8)}, [y]).save(package, append=True)
    assert package.read_bytes() == before


def test_mistakes_of_save(tmp_path: Path) -> None:
    graph, x, y = network()
    other, z, t = network()
    one, two = graph.compile({x: (4, 8)}, [y]), other.compile({z: (4, 8)}, [t])
    path = tmp_path / "p.niello"
    with pytest.raises(GraphError, match="different graphs"):
        nl.save(path, [one, two])
    with pytest.raises(GraphError, match="computes something else"):
        nl.save(path, [one, graph.compile({x: (4, 8)}, [y + 1.0])])
    with pytest.raises(GraphError, match="no executable"):
        nl.save(path, [])
    with pytest.raises(GraphError, match="takes executables"):
        nl.save(path, [graph])  # type: ignore[list-item]
    with pytest.raises(FileNotFoundError):
        one.save(path, append=True)
    assert not path.exists()


# --- training
PROGRAM = """
import sys, numpy as np, niello as nl
sys.path.insert(0, "tests/packages")
from package_files import run_in_new_process, batch
step = nl.load(sys.argv[1], function="train")
for _ in range(5):
    loss = step.run(batch())[0].item()
print(float(loss).hex(), *(v.value.tobytes().hex() for v in step.graph.variables))
"""


def test_training_continues_elsewhere_bit_for_bit(tmp_path: Path) -> None:
    graph, step, predict = training()
    for _ in range(3):
        step.run(batch())
    nl.save(tmp_path / "p.niello", {"train": step, "predict": predict})
    saved = {v.name: v.value for v in graph.variables}
    elsewhere = run_in_new_process(PROGRAM, tmp_path / "p.niello").split()
    for _ in range(5):
        loss = step.run(batch())[0].item()
    here = [float(loss).hex(), *(v.value.tobytes().hex() for v in graph.variables)]
    assert elsewhere == here
    again = nl.Package(tmp_path / "p.niello")
    assert all((again.variable(n).read() == v).all() for n, v in saved.items()), "file changed"


def test_executables_of_one_package_share_variables(tmp_path: Path) -> None:
    graph, step, predict = training()
    nl.save(tmp_path / "p.niello", {"train": step, "predict": predict})
    package = nl.Package(tmp_path / "p.niello")
    train, use = package.load(function="train"), package.load(function="predict")
    first = use.run(batch()[:1])[0].numpy()
    train.run(batch())
    step.run(batch())
    second = use.run(batch()[:1])[0].numpy()
    assert (first != second).any()
    np.testing.assert_array_equal(second, predict.run(batch()[:1])[0].numpy())
    np.testing.assert_array_equal(package.graph.variables[0].value, graph.variables[0].value)


def test_saving_what_was_trained_after_loading(tmp_path: Path) -> None:
    _, step, predict = training()
    nl.save(tmp_path / "a.niello", {"train": step, "predict": predict})
    package = nl.Package(tmp_path / "a.niello")
    train = package.load(function="train")
    train.run(batch())
    nl.save(tmp_path / "a.niello", {"train": train}, append=True)
    again = nl.load(tmp_path / "a.niello", function="train")
    step.run(batch())
    step.run(batch())
    again.run(batch())
    for a, b in zip(again.graph.variables, step.graph.variables, strict=True):
        np.testing.assert_array_equal(a.value, b.value)


# --- weights
def test_mapped_constants_are_pages_of_the_file(package: Path) -> None:
    found = nl.Package(package)
    array = found.constant(found.constant_names()[0])
    assert not array.flags.writeable
    assert array.ctypes.data % 64 == 0
    raw = package.read_bytes()
    assert raw.count(array.tobytes()) == 1


@pytest.mark.parametrize("weights", ["mapped", "lazy"])
def test_purged_weights_come_back(package: Path, weights: str) -> None:
    found = nl.load(package, weights=weights)
    expected = found.run([features()])[0].numpy().copy()
    for _ in range(2):
        found.purge_weights()
        assert found._constants == [] and found._tail == []
        np.testing.assert_array_equal(found.run([features()])[0].numpy(), expected)


def test_lazy_weights_come_with_the_first_run(package: Path) -> None:
    found = nl.load(package, weights="lazy")
    assert not found._tail
    found.run([features()])
    assert len(found._tail) == len(found.program.constants) > 0


def test_purging_waits_for_runs(package: Path) -> None:
    found = nl.load(package)
    expected = found.run([features()])[0].numpy().copy()
    wrong: list[object] = []

    def play() -> None:
        for _ in range(200):
            if not np.array_equal(found.run([features()])[0].numpy(), expected):
                wrong.append("other values")

    threads = [threading.Thread(target=play) for _ in range(3)]
    for t in threads:
        t.start()
    for _ in range(20):
        found.purge_weights()
    for t in threads:
        t.join()
    assert not wrong


def test_copied_weights_need_no_file(package: Path) -> None:
    found = nl.load(package, weights="copied")
    expected = found.run([features()])[0].numpy().copy()
    with package.open("r+b") as file:
        file.truncate(10)
    np.testing.assert_array_equal(found.run([features()])[0].numpy(), expected)
    with pytest.raises(GraphError, match="would be lost"):
        found.purge_weights()


def test_weights_are_ordinary_safetensors(package: Path) -> None:
    found = nl.Package(package)
    content = members(package)
    tensors = read_safetensors(content[member_of(content, "weights")])
    for name in found.constant_names():
        np.testing.assert_array_equal(tensors[name], found.constant(name))


def test_equal_packages_are_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        graph, x, y = network()
        graph.compile({x: (4, 8)}, [y]).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_package_that_was_packed_again_still_loads(package: Path, tmp_path: Path) -> None:
    """Another archiver: members in another order, at any offset."""
    content = members(package)
    with zipfile.ZipFile(tmp_path / "again", "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content, reverse=True):
            archive.writestr(name, content[name])
    expected = nl.load(package).run([features()])[0].numpy()
    np.testing.assert_array_equal(
        nl.load(tmp_path / "again").run([features()])[0].numpy(), expected
    )


# --- formats
RELEASED = sorted((Path(__file__).parent / "released").glob("format*.niello"))


@pytest.mark.parametrize("path", RELEASED, ids=lambda p: p.name)
@pytest.mark.filterwarnings("ignore::niello.core.errors.Recompiled")
def test_released_formats_load_and_run(path: Path) -> None:
    """One package for each format that was ever released, made by make_released.py."""
    expected = json.loads(path.with_suffix(".json").read_text())
    package = nl.Package(path, verify=True)
    assert {f.name for f in package.functions} == {"predict", "train"}
    inputs = [np.asarray(v, np.float32) for v in expected["inputs"]]
    for device in ("numpy", "cpu"):
        found = package.load(device, function="predict").run(inputs[:1])[0].numpy()
        np.testing.assert_allclose(found, expected["predicted"], rtol=1e-5, atol=1e-6)
    for loss in expected["losses"]:
        found = package.load("numpy", function="train").run(inputs)[0].item()
        assert found == pytest.approx(loss, rel=1e-4)


def test_every_format_has_a_released_package() -> None:
    from niello.executable.package_manifest import FORMAT

    assert [p.stem for p in RELEASED] == [f"format{n}" for n in range(1, FORMAT + 1)]


def test_a_later_format_says_so(package: Path) -> None:
    content = members(package)
    outer = json.loads(content["manifest.json"])
    path = write(package, {**content, "manifest.json": json.dumps({**outer, "format": 2}).encode()})
    with pytest.raises(PackageError, match=r"reads packages of format 1; received format 2.*Upd"):
        nl.load(path)


def test_records_of_the_manifest_are_plain_data(package: Path) -> None:
    found = nl.Package(package)
    assert dataclasses.is_dataclass(found.functions[0])
    assert str(found.variants[0]) == "main for cpu on float32[4, 8]"
    assert found.metadata == {}
    write(package, sealed(members(package), lambda c: c.update(metadata=[["note", "mine"]])))
    assert nl.Package(package).metadata == {"note": "mine"}
