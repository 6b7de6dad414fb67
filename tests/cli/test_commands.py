"""The `niello` command from outside: what it prints, writes and returns."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from idx_files import write
from typer.testing import CliRunner, Result

import niello as nl
from niello import backends
from niello.cli.app import app

ROOT = Path(__file__).parents[2]


@pytest.fixture
def niello(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return run


GRAPH = """\
import niello as nl

graph = nl.Graph("tiny")
x = graph.placeholder((None, 8), nl.float32, name="x")
w = graph.variable([[0.5]] * 8, name="w")
y = (x @ w).relu()
step = w.assign(w * 0.5)
number = 3


def build():
    other = nl.Graph("built")
    a = other.placeholder(None, nl.float32, name="a")
    a.exp().sum()
    return other
"""


# --- devices
def test_devices_lists_every_back_end(niello) -> None:
    done = niello("devices")
    assert done.exit_code == 0
    for name in backends.names():
        assert re.search(rf"│ {name}( \(default\))? +│ (yes|no|compiles only) ", done.output)
    assert f"{nl.default_device()} (default)" in done.output


def test_an_absent_back_end_is_shown_with_its_reason(niello, monkeypatch) -> None:
    record = nl.DeviceRecord("abacus", False, "abacus: no beads[3] were found.", None, False)
    monkeypatch.setattr(nl, "devices", lambda: (record,))
    done = niello("devices")
    assert done.exit_code == 0
    assert re.search(r"abacus +│ no +│ abacus: no beads\[3\] were found\.", done.output)


# --- inspect
def test_inspect_prints_graph_kernels_and_memory(niello) -> None:
    done = niello("inspect", "digits")
    assert done.exit_code == 0, done.output
    for words in ("%image = placeholder()", "convolution_add_relu", "adam/step", "memory plan"):
        assert words in done.output
    assert re.search(r"\d+ operations, \d+ after optimisation, in \d+ kernels for", done.output)


@pytest.mark.parametrize("stage", ["input", "graph", "schedule", "kernels", "source"])
def test_inspect_prints_one_stage(niello, stage: str) -> None:
    done = niello("inspect", "digits-inference", "--stage", stage, "--device", "numpy")
    assert done.exit_code == 0, done.output
    assert done.output.strip()


def test_inspect_takes_python_files(niello, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(GRAPH)
    done = niello("inspect", "model.py:graph", "--unknown", "5")
    assert done.exit_code == 0, done.output
    assert "float32[5, 8]" in done.output and "w" in done.output
    done = niello("inspect", "model.py:build", "--shape", "a=2,3")
    assert done.exit_code == 0, done.output
    assert "float32[2, 3]" in done.output


def test_inspect_takes_text(niello, tmp_path: Path) -> None:
    graph = nl.Graph("saved")
    graph.placeholder((None, 4), nl.float32, name="x").exp().sum(axes=-1)
    (tmp_path / "saved.txt").write_text(nl.print_graph(graph))
    done = niello("inspect", "saved.txt", "--shape", "x=3,4")
    assert done.exit_code == 0, done.output
    assert 'graph "saved"' in done.output and "float32[3, 4]" in done.output


def test_inspect_writes_a_page_that_needs_nothing_else(niello, tmp_path: Path) -> None:
    done = niello("inspect", "digits", "--picture", "digits.html", "--stage", "schedule")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "digits.html").read_text()
    assert text.startswith("<!doctype html>")
    assert not re.search(r"""(src|href)\s*=|@import|url\((?!#)""", text), "an external resource"
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert text.count('class="box"') > 10 and "conv1/weights" in text


def test_inspect_writes_a_sound_svg(niello, tmp_path: Path) -> None:
    done = niello("inspect", "digits", "--picture", "digits.svg", "--stage", "schedule")
    assert done.exit_code == 0, done.output
    root = ET.parse(tmp_path / "digits.svg").getroot()
    names = {e.get("data-name") for e in root.iter() if e.get("data-name")}
    assert {"image", "label", "conv1/weights", "conv2/relu", "dense2/matmul"} <= names
    ends = {e.get("id") for e in root.iter() if e.get("id")}
    edges = [e for e in root.iter() if e.get("data-from")]
    assert edges
    assert all(e.get("data-from") in ends and e.get("data-to") in ends for e in edges)


INSPECT_MISTAKES = {
    "no file": (["nowhere.txt"], "there is no such file; received nowhere.txt"),
    "no graph": (["model.py"], "name the graph in the file"),
    "no python file": (["absent.py:graph"], "absent.py: No such file"),
    "not a graph": (["model.py:number"], "Graphs in the file: graph"),
    "not text": (["bytes.bin"], "not a graph in text form"),
    "bad text": (["bad.txt"], "line 1"),
    "picture": (["digits", "--picture", "x.png"], "must end in .html or .svg; received x.png"),
    "stage": (["digits", "--stage", "soup"], "a stage is one of"),
    "device": (["digits", "--device", "abacus"], "no such back end; received 'abacus'"),
    "shape": (["digits", "--shape", "image"], "must be NAME=SIZE,SIZE"),
    "input": (["digits", "--shape", "cat=1,2"], "there is no input 'cat'"),
    "rank": (["model.py:build"], "no known rank"),
    "folder": (["digits", "--picture", "absent/x.svg"], "absent/x.svg: No such file"),
}


@pytest.mark.parametrize("case", list(INSPECT_MISTAKES))
def test_mistakes_get_one_sentence(niello, tmp_path: Path, case: str) -> None:
    (tmp_path / "model.py").write_text(GRAPH)
    (tmp_path / "bytes.bin").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "bad.txt").write_text("tree {}")
    arguments, words = INSPECT_MISTAKES[case]
    done = niello("inspect", *arguments)
    assert done.exit_code == 2, done.output
    assert words in done.output
    assert "Traceback" not in done.output and done.output.count("error:") == 1


# --- demo
def test_demo_trains_draws_saves_and_reads(niello, tmp_path: Path) -> None:
    done = niello("demo", "digits", "--epochs", "2", "--out", "here", "--target-accuracy", "0.5")
    assert done.exit_code == 0, done.output
    assert "1437 training and 360 held-out images of 8x8 pixels" in done.output
    assert "Reached the target accuracy of 50.00%" in done.output
    assert re.search(r"into a new graph: \d\d\.\d\d% of 360 held-out images", done.output)
    assert (tmp_path / "here/digits.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "here/digits.safetensors").stat().st_size > 1 << 20


DEMO_MISTAKES = {
    "no directory": (["--data", "absent"], "absent: No such directory."),
    "no file": (["--data", "empty"], "train-images-idx3-ubyte: No such file, nor with .gz."),
    "truncated": (["--data", "short"], "bytes of data; received"),
    "target": (["--target-accuracy", "99"], "at most 1; received 99"),
    "batch": (["--batch", "5000"], "from 1 to the 1437 training images; received 5000"),
    "device": (["--device", "abacus"], "no such back end"),
    "resume": (["--resume"], "digits.safetensors: No such file"),
}


@pytest.mark.parametrize("case", list(DEMO_MISTAKES))
def test_demo_mistakes_get_one_sentence(niello, tmp_path: Path, case: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "short").mkdir()
    cut = write(tmp_path / "short") / "train-images-idx3-ubyte"
    cut.write_bytes(cut.read_bytes()[:1000])
    arguments, words = DEMO_MISTAKES[case]
    done = niello("demo", "digits", "--epochs", "1", *arguments)
    assert done.exit_code == 2, done.output
    assert words in done.output.replace("\n", " ")
    assert "Traceback" not in done.output and done.output.count("error:") == 1


def test_traceback_when_asked(niello) -> None:
    done = niello("demo", "digits", "--data", "absent", "--traceback")
    assert isinstance(done.exception, FileNotFoundError)


@pytest.mark.slow
def test_interrupt_leaves_a_checkpoint_and_resume_ends_alike(tmp_path: Path) -> None:
    """A real Ctrl-C of a real process, then --resume: the same bytes as without the interrupt."""
    base = [sys.executable, "-m", "niello.cli", "demo", "digits", "--seed", "4", "--epochs", "12"]
    base += ["--target-accuracy", "1", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(*more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*base, *more], cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    parts = start("--out", "parts")
    assert parts.stdout is not None
    for line in parts.stdout:
        if line.startswith("epoch  3"):
            break
    time.sleep(0.05)
    parts.send_signal(signal.SIGINT)
    said = parts.stdout.read()
    assert parts.wait(60) == 130, said
    assert "Interrupted after epoch" in said and "--resume" in said
    resumed = start("--out", "parts", "--resume")
    assert "Resuming parts/digits.safetensors" in resumed.communicate(timeout=120)[0]
    assert resumed.returncode == 0
    whole = start("--out", "whole")
    assert whole.communicate(timeout=120)[0]
    saved = [(tmp_path / name / "digits.safetensors").read_bytes() for name in ("parts", "whole")]
    assert saved[0] == saved[1]


@pytest.mark.slow
def test_mnist_is_read_by_three_epochs(niello, shared_data) -> None:
    """The accuracy that three epochs must reach on the real set of 60000 images."""
    folder = shared_data("mnist")
    done = niello(
        "demo", "digits", "--data", str(folder), "--epochs", "3", "--target-accuracy", "1"
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = re.search(r"into a new graph: (\d\d\.\d\d)% of 10000", done.output)
    assert found is not None and float(found[1]) >= 98.8


# --- the command itself
def test_help_and_missing_arguments(niello) -> None:
    assert niello("--help").exit_code == 0
    assert "digits" in niello("demo", "--help").output
    assert niello("inspect").exit_code == 2
    assert niello("demo", "digits", "--batch", "0").exit_code == 2


def test_without_typer_the_command_says_what_to_install() -> None:
    program = "import sys; sys.modules['typer'] = None\nfrom niello.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "needs typer, which is not installed" in done.stderr
    assert "Traceback" not in done.stderr
