"""`niello convert`, `run`, `benchmark` and `inspect` on models and packages, from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import niello as nl
from niello.cli.app import app

ROOT = Path(__file__).parents[2]
onnx = pytest.importorskip("onnx")


@pytest.fixture
def niello(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, list(map(str, arguments)))

    return run


def network(path: Path, batch: Any = 1) -> Path:
    """A convolution with batch normalisation, and a layer that names four classes."""
    rng = np.random.default_rng(0)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT

    def weights(name: str, *shape: int) -> Any:
        values = rng.uniform(0.1, 1.0, shape).astype(np.float32)
        return onnx.numpy_helper.from_array(values, name)

    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "d"], ["scores"], transB=1),
    ]
    held = [weights("w", 4, 3, 3, 3), weights("d", 6, 4)]
    held += [weights(n, 4) for n in "gbmv"]
    inputs = [helper.make_tensor_value_info("image", kind, [batch, 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("scores", kind, [batch, 6])]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, held)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def layer(path: Path) -> Path:
    """A dense layer for any number of rows."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    w = onnx.numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    x = helper.make_tensor_value_info("x", kind, ["rows", 3])
    y = helper.make_tensor_value_info("y", kind, ["rows", 4])
    opset = [helper.make_opsetid("", 17)]
    graph = helper.make_graph(nodes, "layer", [x], [y], [w])
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return network(tmp_path / "model.onnx")


@pytest.fixture
def package(niello, model: Path, tmp_path: Path) -> Path:
    assert niello("convert", model, "-o", "model.niello").exit_code == 0
    return tmp_path / "model.niello"


# --- convert
def test_convert_makes_a_package_for_each_target(niello, model: Path, tmp_path: Path) -> None:
    done = niello("convert", model, "-o", "out.niello", "--target", "cpu", "--target", "numpy")
    assert done.exit_code == 0, done.output
    found = nl.Package(tmp_path / "out.niello")
    assert [v.device for v in found.variants] == ["cpu", "numpy"]
    assert found.functions[0].inputs == ("image",)
    assert found.functions[0].results == ("scores",)
    assert found.metadata == {"source": "model.onnx", "kind": "ONNX"}
    assert re.search(r"cpu: \d+ kernels, arena .* compiled in", done.output)
    assert "Wrote out.niello" in done.output


def test_convert_checks_against_the_source_runtime(niello, model: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = niello("convert", model, "-o", "out.niello", "--check", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    check = facts["checks"][0]
    assert check["output"] == "scores" and check["within"] and check["error"] < 1e-5
    assert facts["targets"][0]["inputs"] == {"image": "float32[1, 3, 8, 8]"}
    assert facts["bytes"] == Path("out.niello").stat().st_size
    strict = niello("convert", model, "-o", "out.niello", "--check", "--tolerance", "1e-12")
    assert strict.exit_code == 1
    assert "outside" in strict.output


def test_convert_appends_levels_and_shapes(niello, tmp_path: Path) -> None:
    layer(tmp_path / "open.onnx")
    assert niello("convert", "open.onnx", "-o", "out.niello").exit_code == 0
    more = ("--append", "--shape", "x=4,3", "--target", "cpu:baseline")
    done = niello("convert", "out.niello", "-o", "out.niello", *more)
    assert done.exit_code == 0, done.output
    found = nl.Package("out.niello").variants
    assert [v.inputs[0].shape for v in found] == [(1, 3), (4, 3)]
    assert found[1].options.target == "baseline" and "avx2" not in found[1].needs


def test_convert_writes_directories_and_no_graph(niello, model: Path) -> None:
    done = niello("convert", model, "-o", "out", "--directory", "--no-graph", "--half", "bfloat16")
    assert done.exit_code == 0, done.output
    found = nl.Package("out")
    assert not found.manifest.graph
    assert found.variants[0].options.autocast is nl.bfloat16


def test_convert_ahead_of_time(niello, model: Path) -> None:
    done = niello("convert", model, "-o", "out.niello", "--target", "webgpu:portable")
    assert done.exit_code == 0, done.output
    variant = nl.Package("out.niello").variants[0]
    assert (variant.device, variant.needs) == ("webgpu", ())
    assert b"@compute" in nl.Package("out.niello").read(variant.code)


def test_convert_ahead_for_a_gpu(niello, model: Path) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    done = niello("convert", model, "-o", "out.niello", "--target", "cuda:sm_90")
    assert done.exit_code == 0, done.output
    variant = nl.Package("out.niello").variants[0]
    assert (variant.device, variant.needs) == ("cuda", ("sm_90",))
    assert b"\x7fELF" in nl.Package("out.niello").read(variant.code)


INTERRUPTED = """
import sys
from niello.cli.app import app
from niello.cli.models import convert
import niello as nl
compile_for = convert.compile_for
def slow(*arguments):
    print("compiling", flush=True)
    import time; time.sleep(30)
convert.compile_for = slow
sys.argv = ["niello", "convert", "model.onnx", "-o", "out.niello"]
app()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends an interrupt")
def test_an_interrupted_conversion_leaves_nothing(model: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == "compiling\n"
    time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    said = started.stdout.read()
    assert started.wait(30) == 130, said
    assert "Interrupted: nothing was written." in said and "Traceback" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


# --- run
def test_run_gives_the_same_from_model_and_package(niello, model: Path, package: Path) -> None:
    np.save("x.npy", np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32))
    results = []
    for source in (model, package):
        done = niello("run", source, "--input", "image=x.npy", "--output", "scores=s.npy")
        assert done.exit_code == 0, done.output
        assert "float32[1, 6]" in done.output and "largest of 6" in done.output
        results.append(np.load("s.npy"))
    np.testing.assert_array_equal(*results)


def test_run_speaks_json(niello, package: Path) -> None:
    done = niello("run", package, "--input", "image=zeros", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["outputs"]["scores"]["shape"] == [1, 6]
    assert len(facts["outputs"]["scores"]["values"]) == 6
    assert niello("run", package, "--input", "image=0", "--json").stdout.count("values") == 1


def test_run_takes_pictures_and_labels(niello, package: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (30, 20), (255, 0, 0)).save("red.png")
    (tmp_path / "labels.txt").write_text("\n".join(["cat", "dog", "cow", "bee", "ant", "owl"]))
    ranges = {
        "0..255": [255, 0, 0], "0..1": [1, 0, 0], "-1..1": [1, -1, -1],
        "imagenet": [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225],
    }  # fmt: skip
    for name, pixel in ranges.items():
        done = niello(
            "run", package, "--input", "image=red.png", "--image-range", name, "--labels",
            "labels.txt", "--output", "scores=s.npy",
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        assert re.search(r"\d (cat|dog|cow|bee|ant|owl)", done.output)
        red = np.zeros((1, 3, 8, 8), np.float32) + np.float32(pixel).reshape(3, 1, 1)
        expected = nl.load(package).run([red])[0].numpy()
        np.testing.assert_allclose(np.load("s.npy"), expected, rtol=1e-5)


def test_run_takes_sizes_from_files(niello, tmp_path: Path) -> None:
    network(tmp_path / "open.onnx", "batch")
    np.save("x.npy", np.zeros((5, 3, 8, 8), np.float32))
    done = niello("run", "open.onnx", "--input", "image=x.npy", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["outputs"]["scores"]["shape"] == [5, 6]
    done = niello("run", "open.onnx", "--shape", "image=2,3,8,8", "--json")
    assert json.loads(done.stdout)["outputs"]["scores"]["shape"] == [2, 6]


def test_run_chooses_functions(niello, tmp_path: Path) -> None:
    graph = nl.Graph()
    x = graph.placeholder((2,), name="x")
    one, two = (graph.compile({x: (2,)}, [y]) for y in (x + 1.0, x + 2.0))
    nl.save("two.niello", {"one": one, "two": two})
    done = niello("run", "two.niello", "--function", "two", "--input", "x=5", "--json")
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["outputs"].values()
    assert result["values"] == [7.0, 7.0]
    done = niello("run", "two.niello")
    assert done.exit_code == 2 and "It has one, two" in done.output


# --- benchmark
def test_benchmark_prints_everything(niello, package: Path) -> None:
    done = niello("benchmark", package, "--seconds", "0.05")
    assert done.exit_code == 0, done.output
    for words in ("50 %", "99 %", "runs/s", "kernels, arena", "peak", "GFLOP/s"):
        assert words in done.output, words


def test_benchmark_measures_a_peer(niello, model: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    done = niello("benchmark", model, "--seconds", "0.05", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    own, peer = facts["latency"]
    assert own["name"] == "niello" and peer["name"] == f"onnxruntime {runtime.__version__}"
    assert own["runs"] >= 5 and own["least"] <= own["percentiles"]["50"] <= own["percentiles"]["99"]
    assert facts["commands"] and all(c["seconds"] > 0 for c in facts["commands"])
    assert facts["peak_bytes"] > 0 and facts["process_peak_bytes"] > facts["weight_bytes"]
    done = niello("benchmark", model, "--seconds", "0", "--no-peer", "--no-kernels", "--json")
    facts = json.loads(done.stdout)
    assert len(facts["latency"]) == 1 and not facts["commands"]


# --- inspect
@pytest.mark.parametrize("source", ["model.onnx", "model.niello"])
def test_inspect_counts(niello, package: Path, source: str) -> None:
    done = niello("inspect", source, "--time", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["inputs"] == {"image": "float32[1, 3, 8, 8]"}
    assert facts["outputs"] == {"scores": "float32[1, 6]"}
    assert facts["operations"]["relu"] == 1 and facts["operations"]["convolution"] == 1
    assert facts["parameters"]["count"] >= 4 * 27 + 24 + 16
    assert facts["kernels"] == len(facts["commands"]) and facts["seconds"] > 0


def test_inspect_prints_inputs_and_times(niello, package: Path) -> None:
    done = niello("inspect", package, "--time")
    assert done.exit_code == 0, done.output
    for words in ("image: float32[1, 3, 8, 8]", "scores: float32[1, 6]", "parameters", " ms"):
        assert words in done.output, words


def test_inspect_draws_a_page_that_works_offline(niello, package: Path, tmp_path: Path) -> None:
    done = niello("inspect", package, "--time", "--picture", "model.html")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "model.html").read_text()
    assert not re.search(r"""(src|href)\s*=|@import|url\((?!#)""", text), "an external resource"
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1].replace("<\\/", "</"))
    assert all(b["time"].endswith(" ms") for b in data["boxes"])
    ids = set(re.findall(r'id="(box\d+)"', text))
    assert {f"box{b['number']}" for b in data["boxes"]} == ids
    drawn = set(re.findall(r'data-name="([^"]+)"', text))
    assert {n for b in data["boxes"] for n in b["operations"]} <= drawn
    assert "image: float32[1, 3, 8, 8]" in text


# --- mistakes
def broken(path: Path) -> None:
    network(path / "good.onnx")
    whole = (path / "good.onnx").read_bytes()
    (path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (path / "text.onnx").write_text("this is no model")
    (path / "bad.niello").write_bytes(b"PK and nothing else")
    (path / "bad.npy").write_bytes(b"\x93NUMPY and nothing else")
    (path / "bad.png").write_text("no picture")
    np.save(path / "wrong.npy", np.zeros((1, 3, 9, 9), np.float32))
    np.save(path / "objects.npy", np.array([{}], object))
    network(path / "open.onnx", "batch")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    values = [helper.make_tensor_value_info(n, kind, ["a", "b"]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, ir_version=8), path / "sizes.onnx")
    node = helper.make_node("Frobnicate", ["x"], ["y"])
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, ir_version=8), path / "unknown.onnx")


MISTAKES = {
    "no file": (["run", "absent.onnx"], "absent.onnx: No such file"),
    "no kind": (["run", "bad.npy"], "the kind of file is not known by its name"),
    "cut": (["run", "cut.onnx"], "ONNX model"),
    "text": (["run", "text.onnx"], "ONNX model"),
    "unknown operator": (["run", "unknown.onnx"], "Frobnicate"),
    "package": (["run", "bad.niello"], "not a complete package"),
    "core ml": (["run", "some.mlmodel"], "some.mlmodel: No such file"),
    "input name": (["run", "good.onnx", "--input", "cat=zeros"], "there is no input 'cat'"),
    "input form": (["run", "good.onnx", "--input", "image"], "must be NAME=VALUE"),
    "input value": (["run", "good.onnx", "--input", "image=soup"], "a number; received soup"),
    "input file": (["run", "good.onnx", "--input", "image=absent.npy"], "absent.npy: No such file"),
    "npy": (["run", "good.onnx", "--input", "image=bad.npy"], "not a complete .npy file"),
    "objects": (["run", "good.onnx", "--input", "image=objects.npy"], "not a complete .npy file"),
    "picture": (["run", "good.onnx", "--input", "image=bad.png"], "no picture"),
    "shape of values": (["run", "good.onnx", "--input", "image=wrong.npy"], "[1, 3, 9, 9]"),
    "range": (["run", "good.onnx", "--image-range", "hot"], "is one of 0..255"),
    "output name": (["run", "good.onnx", "--output", "cat=x.npy"], "there is no result 'cat'"),
    "output kind": (["run", "good.onnx", "--output", "scores=x.txt"], "written as .npy files"),
    "output folder": (
        ["run", "good.onnx", "--output", "scores=no/x.npy"], "no/x.npy: No such file"
    ),
    "device": (["run", "good.onnx", "--device", "abacus"], "no such back end"),
    "open sizes": (["run", "sizes.onnx"], "--shape x=SIZE,SIZE"),
    "shape name": (["run", "sizes.onnx", "--shape", "z=1,2"], "there is no input 'z'"),
    "shape form": (["run", "sizes.onnx", "--shape", "x=a"], "must be NAME=SIZE,SIZE"),
    "labels": (["run", "good.onnx", "--labels", "absent.txt"], "absent.txt: No such file"),
    "target": (["convert", "good.onnx", "-o", "o.niello", "--target", "gpu"], "DEVICE:LEVEL"),
    "level": (["convert", "good.onnx", "-o", "o.niello", "--target", "cpu:mmx"], "no such CPU"),
    "ahead": (["convert", "good.onnx", "-o", "o.niello", "--target", "cuda:9"], "GPU generation"),
    "half": (["convert", "good.onnx", "-o", "o.niello", "--half", "float8"], "is float16 or"),
    "folder": (["convert", "good.onnx", "-o", "no/o.niello"], "No such file"),
    "append": (["convert", "good.onnx", "-o", "new.niello", "--append"], "new.niello: No such"),
    "benchmark": (["benchmark", "absent.onnx"], "absent.onnx: No such file"),
    "inspect": (["inspect", "bad.niello"], "not a complete package"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(MISTAKES))
def test_mistakes_get_one_sentence(niello, tmp_path: Path, case: str) -> None:
    broken(tmp_path)
    before = sorted(p.name for p in tmp_path.iterdir())
    arguments, words = MISTAKES[case]
    done = niello(*arguments)
    assert done.exit_code == 2, done.output
    assert words in done.output.replace("\n", " "), done.output
    assert "Traceback" not in done.output and done.output.count("error:") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before, "something was left behind"


def test_a_traceback_where_asked(niello, tmp_path: Path) -> None:
    broken(tmp_path)
    done = niello("run", "cut.onnx", "--traceback")
    assert isinstance(done.exception, nl.errors.NielloError)


def test_an_extra_that_is_not_installed_is_named(
    niello, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network(tmp_path / "good.onnx")
    monkeypatch.setitem(sys.modules, "niello.frontends.onnx", None)
    done = niello("run", "good.onnx")
    assert done.exit_code == 2
    assert "pip install 'niello[onnx]'" in done.output
