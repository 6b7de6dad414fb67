"""Other runtimes beside Niello, where they are installed: ONNX Runtime for ONNX models."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import niello as nl
from niello import errors
from niello.cli.models.sources import FRONT_ENDS, Model

ONNX = FRONT_ENDS[".onnx"].title


def onnx_runtime() -> Any:
    """The module, or None."""
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError:
        return None


class Session:
    """A model in ONNX Runtime on as many threads as Niello has."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        runtime = onnx_runtime()
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = nl.thread_count() if threads is None else threads
        options.inter_op_num_threads = 1
        started = time.perf_counter()
        self.session = runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.seconds = time.perf_counter() - started
        self.outputs = [o.name for o in self.session.get_outputs()]

    def run(self, values: Mapping[str, np.ndarray]) -> list[Any]:
        """Results in the order of `outputs`."""
        taken = {i.name for i in self.session.get_inputs()}
        return self.session.run(None, {n: v for n, v in values.items() if n in taken})  # type: ignore[no-any-return]


def source_results(model: Model, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The results of the runtime that the model comes from.

    ONNX models run in ONNX Runtime, which must be installed; packages on the default device
    without optimisation, operation by operation. Raises ConfigError.
    """
    if model.title == ONNX:
        if onnx_runtime() is None:
            raise errors.ConfigError(
                "--check",
                "comparing an ONNX model needs onnxruntime, which is not installed",
                advice="Install it with: pip install onnxruntime, or leave --check out",
            )
        session = Session(model.path)
        results = session.run(values)
        return _flat(dict(zip(session.outputs, results, strict=True)))
    sizes = {n: v.shape for n, v in values.items()}
    reference = model.computed(sizes, {}).compile(None, nl.CompileOptions(optimise=False))
    return {n: v.numpy() for n, v in reference.run(dict(values)).items()}


def _flat(results: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Sequences as one entry for each item, as Niello names them."""
    found: dict[str, np.ndarray] = {}
    for name, value in results.items():
        if isinstance(value, list):
            found |= {f"{name}[{i}]": np.asarray(v) for i, v in enumerate(value)}
        elif value is not None:
            found[name] = np.asarray(value)
    return found
