"""The examples run and find what they say; so does the code in README.md and docs/."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / f"examples/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gelu_is_one_kernel() -> None:
    assert load("gelu_in_one_kernel").main() == 1


def test_a_line_is_fitted() -> None:
    slope, offset = load("fit_a_line").main()
    assert slope == pytest.approx(3, abs=0.05)
    assert offset == pytest.approx(-1, abs=0.05)


def test_newton_finds_the_minimum() -> None:
    found = load("second_derivatives").main()
    assert np.tanh(found - 2) + found / 5 == pytest.approx(0, abs=1e-5)


def test_runs_in_flight() -> None:
    assert load("runs_in_flight").main() == pytest.approx([256.0] * 6, rel=1e-5)


def test_every_example_is_tested_and_short() -> None:
    text = Path(__file__).read_text()
    for path in EXAMPLES:
        assert f'load("{path.stem}")' in text, f"{path.name} is not run here"
        assert len(path.read_text().splitlines()) < 80


def blocks(path: Path) -> list[str]:
    """The Python code of a Markdown file."""
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def run(code: str) -> str:
    """Output of a program, run on its own (an operation is registered once in a process)."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_readme_example() -> None:
    (code,) = blocks(ROOT / "README.md")
    assert len(code.strip().splitlines()) <= 20
    lines = run(code).splitlines()
    assert float(lines[0]) < 0.05, "the loss after training"
    assert lines[1].startswith("<Executable of 'graph' for "), lines[1]


CHECK = """
import niello as nl
from niello.graph.opdef import functions
graph = nl.Graph()
x = graph.placeholder((2, 3), nl.float32)
a = np.arange(6, dtype=np.float32).reshape(2, 3)
y = functions()["mirror"](x)
(g,) = graph.gradients(y * np.float32([1, 2, 3]), [x]).values()
out = graph.run({x: a}, [y, g, functions()["hypotenuse"](x, 1.0)])
values = [np.asarray(v) for v in out.values()]
np.testing.assert_array_equal(values[0], a[:, ::-1])
np.testing.assert_array_equal(values[1], [[3, 2, 1]] * 2)
np.testing.assert_allclose(values[2], np.hypot(a, 1), rtol=1e-6)
print("good")
"""


def test_the_operations_of_the_guide_work() -> None:
    assert run("\n".join([*blocks(ROOT / "docs/add_an_op.md"), CHECK])) == "good\n"


def test_generated_pages_are_current() -> None:
    from tools.docs import stale

    assert not stale(), "run `make docs`"


def test_links_between_pages_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        words = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", words):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
