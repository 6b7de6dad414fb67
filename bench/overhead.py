"""What a user waits for besides arithmetic: one tiny run, the import, and a cold compilation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import (
    JAX,
    NIELLO,
    ORT,
    TORCH_COMPILED,
    TORCH_EAGER,
    Contender,
    Entry,
    Limit,
    Plan,
    Row,
    Work,
    measure,
)
from bench.libraries import (
    jax_jit,
    niello_executable,
    onnx_model,
    onnxruntime_session,
    torch_compiled,
    torch_eager,
)
from bench.limits import aligned

COUNT = 4
ROOT = Path(__file__).resolve().parent.parent
# Beyond this, a child process hangs rather than compiles.
CHILD_SECONDS = 300.0


def _tiny_onnx(onnx: Any) -> Any:
    node = onnx.helper.make_node
    nodes = [
        node("Mul", ["x", "two"], ["double"]),
        node("Add", ["double", "one"], ["sum"]),
        node("Relu", ["sum"], ["y"]),
    ]
    constants = {"two": np.array(2, np.float32), "one": np.array(1, np.float32)}
    return onnx_model(onnx, nodes, {"x": (COUNT,)}, ("y", (COUNT,)), constants)


def tiny_work(reuse: bool) -> Work:
    """relu(2 x + 1) on four floats: everything is the cost of a call."""
    x = aligned((COUNT,), np.arange(COUNT, dtype=np.float32) - 2)

    def into(torch: Any, out: Any, t: Any) -> Any:
        return torch.mul(t, 2.0, out=out).add_(1.0).relu_()

    contenders: tuple[Contender, ...] = (
        niello_executable(lambda nl, t: (t * 2.0 + 1.0).relu(), [x], reuse=reuse),
        torch_compiled(lambda torch, t: torch.relu(t * 2.0 + 1.0), [x], reuse=reuse),
        torch_eager(lambda torch, t: torch.relu(t * 2.0 + 1.0), [x], into=into if reuse else None),
        jax_jit(lambda jax, t: jax.nn.relu(t * 2.0 + 1.0), [x], reuse=reuse),
        onnxruntime_session(_tiny_onnx, [x], reuse=reuse),
    )
    mode = "reused result" if reuse else "fresh result"
    return Work(
        f"positional run of one kernel on 4 floats, {mode}",
        contenders,
        unit="µs",
        targets=(Limit(5.0),),
    )


def child(arguments: list[str], **environment: str) -> str:
    """Standard output of a fresh interpreter. Raises RuntimeError with its last words."""
    found = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=CHILD_SECONDS,
        check=False,
    )
    if found.returncode:
        lines = found.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(lines[-1][:300])
    return found.stdout.strip().splitlines()[-1]


def _import_seconds(module: str) -> float:
    code = f"import time; s = time.perf_counter(); import {module}; print(time.perf_counter() - s)"
    return float(child(["-c", code]))


def _cold_seconds(library: str) -> float:
    """Building and compiling the training step, with empty caches, in a fresh interpreter."""
    with tempfile.TemporaryDirectory() as empty:
        text = child(
            ["-m", "bench.cold", library],
            TORCHINDUCTOR_CACHE_DIR=empty,
            NIELLO_CACHE_DIR=empty,
            NIELLO_CACHE="0",
        )
    return float(json.loads(text)["seconds"])


def _children_row(
    work: Work, sources: Mapping[str, Callable[[], float]], rounds: int, without: set[str]
) -> Row:
    """Contenders that need a process each, started in turns."""
    entries = {peer: Entry(peer, "") for peer in sources if peer not in without}
    for number in range(rounds + 1):
        for peer, entry in entries.items():
            if entry.status != "ok":
                continue
            try:
                seconds = sources[peer]()
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                text = str(error)
                absent = "ModuleNotFoundError" in text or "Missing" in text
                entry.status, entry.note = "missing" if absent else "failed", text
                continue
            # The first round reads files from disk; the figure is for a warm file cache.
            if number or rounds == 0:
                entry.samples.append(seconds)
    return Row("overhead", work, list(entries.values()))


def import_row(plan: Plan, without: set[str]) -> Row:
    """Seconds from `import X` to the next statement."""
    modules = {NIELLO: "niello", TORCH_EAGER: "torch", JAX: "jax", ORT: "onnxruntime"}
    sources = {peer: partial(_import_seconds, m) for peer, m in modules.items()}
    work = Work("import", (), unit="s", targets=(Limit(0.25),))
    return _children_row(work, sources, min(plan.rounds, 5), without)


def cold_row(plan: Plan, without: set[str]) -> Row:
    """Seconds from an imported library to a compiled training step, nothing cached."""
    names = {NIELLO: "niello", TORCH_COMPILED: "torch", JAX: "jax"}
    sources = {peer: partial(_cold_seconds, n) for peer, n in names.items()}
    work = Work("cold compile of the digit training step", (), unit="s", targets=(Limit(1.0),))
    return _children_row(work, sources, min(plan.rounds, 3) - 1, without)


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All rows of this topic."""
    return [
        measure("overhead", tiny_work(False), plan, without),
        measure("overhead", tiny_work(True), plan, without),
        import_row(plan, without),
        cold_row(plan, without),
    ]
