"""Latency of whole networks, one sample at a time: ONNX models by Niello and by ONNX runtimes.

The large networks are built here with the layer shapes of their papers and random weights; small
trained ones are read from a folder of data and left out, with a line, where that is absent. What a
fresh process needs for ResNet-50 (time to the first result, memory) has rows of its own.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import (
    NIELLO,
    OPENVINO,
    ORT,
    Contender,
    Entry,
    Limit,
    Missing,
    Plan,
    Prepared,
    Row,
    Target,
    Work,
    measure,
)
from bench.libraries import import_peer, onnxruntime_session, openvino_model
from bench.networks import onnx_networks
from bench.networks.onnx_builder import Network
from bench.networks.quantized import quantized
from bench.overhead import child

TOPIC = "inference"
BEST = (ORT, OPENVINO)
GEOMETRIC_MEAN = 1.1
# A model that takes longer than this gets fewer rounds: its figures spread less as well.
SLOW_FLOPS = 2e10
# The network whose 8-bit form must be so many times as fast as itself.
FLOAT, INT8, GAIN = "ResNet-50", "ResNet-50 int8", 2.0
LIBRARIES = {NIELLO: "niello", ORT: "onnxruntime", OPENVINO: "openvino"}


@dataclass(frozen=True)
class Model:
    """A model that is measured: `make(onnx)` builds or reads it. Results agree within `atol`."""

    name: str
    make: Callable[[Any], Network]
    atol: float
    rtol: float = 1e-3


def data_folder() -> Path:
    """The folder of trained models: $NIELLO_TEST_DATA, or shared/data beside the checkout."""
    chosen = os.environ.get("NIELLO_TEST_DATA")
    root = Path(__file__).resolve().parents[2]
    return Path(chosen) if chosen else root / "shared" / "data"


def _stored(path: str, name: str, low: float, high: float, onnx: Any) -> Network:
    """A model from the folder of data, fed with evenly distributed values."""
    file = data_folder() / path
    if not file.is_file():
        raise Missing(f"needs {file}; NIELLO_TEST_DATA names another folder of data")
    model = onnx.load(file)
    known = {weight.name for weight in model.graph.initializer}
    random = np.random.default_rng(1)
    inputs = [
        random.uniform(low, high, [d.dim_value for d in i.type.tensor_type.shape.dim])
        for i in model.graph.input
        if i.name not in known
    ]
    return Network(name, file.read_bytes(), tuple(x.astype(np.float32) for x in inputs))


def _file(path: str, name: str, atol: float, span: tuple[float, float] = (-1.0, 1.0)) -> Model:
    return Model(name, partial(_stored, path, name, *span), atol)


BUILT = (
    Model("ResNet-50", onnx_networks.resnet50, 1e-3),
    Model("MobileNetV2", onnx_networks.mobilenet_v2, 1e-3),
    Model("BERT-base, 128 tokens", onnx_networks.bert_base, 1e-2),
    Model("U-Net 256 x 256", onnx_networks.unet, 1e-3),
    # Integer results differ by a step or two where a runtime rounds a product differently.
    Model(INT8, partial(quantized, onnx_networks.resnet50), 0.05),
    Model("MobileNetV2 int8", partial(quantized, onnx_networks.mobilenet_v2), 0.05),
)
STORED = (
    _file("onnx_derived/squeezenet1.0_fp32_op13.onnx", "SqueezeNet 1.0", 1e-3, (-100, 100)),
    _file("onnx_derived/squeezenet1.0_int8_qdq.onnx", "SqueezeNet 1.0 int8", 0.1, (-100, 100)),
    _file("onnx/ultraface_RFB-320.onnx", "UltraFace RFB-320", 1e-3),
    _file("onnx/style_candy_nc16_256_onnxjs.onnx", "fast style transfer 256 x 256", 0.5, (0, 255)),
    _file("onnx/yolo_fastestv2.onnx", "YOLO-Fastest v2", 1e-2, (0, 1)),
)
MODELS = BUILT + STORED


def niello_model(network: Network) -> Contender:
    """The model compiled from ONNX by Niello."""

    def make() -> Prepared:
        import_peer("niello")
        frontend = import_peer("niello.frontends.onnx")
        executable = frontend.load(network.file).compile(device="cpu")
        feeds = list(network.inputs)
        return Prepared(
            lambda: executable.run(feeds),
            lambda: [np.array(np.asarray(found)) for found in executable.run(feeds)],
        )

    return Contender(NIELLO, "", make)


def latency_work(model: Model) -> Work:
    """One run of the model with its inputs in memory. Raises Missing without its file."""
    network = model.make(import_peer("onnx"))

    def proto(onnx: Any) -> Any:
        return onnx.load_from_string(network.file)

    inputs = network.inputs
    return Work(
        model.name,
        (
            niello_model(network),
            onnxruntime_session(proto, inputs),
            openvino_model(proto, inputs),
        ),
        flops=network.flops,
        rtol=model.rtol,
        atol=model.atol,
        targets=(Target(1.0, BEST),),
    )


@dataclass(frozen=True)
class Fresh:
    """A row whose contenders each start in a fresh process; `figure` is one of `bench.fresh`."""

    name: str
    figure: str
    unit: str
    targets: tuple[Target | Limit, ...]


FRESH = (
    Fresh("ResNet-50, to the first result", "first", "ms", (Limit(60.0), Target(5.0, (ORT,)))),
    Fresh("ResNet-50, process with imports", "whole", "ms", (Target(1.0, (ORT,)),)),
    Fresh("ResNet-50, compiled from ONNX, cold", "compile", "s", (Limit(3.0),)),
    Fresh("ResNet-50, peak memory", "peak", "MiB", (Target(1.0, (ORT,)),)),
    Fresh("ResNet-50, peak memory from ONNX", "peak_onnx", "MiB", (Target(1.0, (ORT,)),)),
)


@cache
def _saved(folder: str) -> None:
    """ResNet-50 as a file of ONNX and as a package, written by a process of its own."""
    child(["-m", "bench.fresh", "save", folder])


def _environment(figure: str, folder: str) -> dict[str, str]:
    """Caches in `folder`: of Python's byte code, as an installed package has it, and Niello's,
    where a package's hash is noted; a cold compilation has none of the latter."""
    return {
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(Path(folder) / "byte_code"),
        "NIELLO_CACHE": "0" if figure == "compile" else "1",
        "NIELLO_CACHE_DIR": str(Path(folder) / "cache"),
    }


def fresh_row(fresh: Fresh, folder: str, rounds: int, without: set[str]) -> Row:
    """Niello runs a package (or compiles the ONNX file), the others run the ONNX file."""
    _saved(folder)
    entries = [Entry(peer, "") for peer in LIBRARIES if peer not in without]
    for number in range(rounds + 1):
        for entry in entries:
            if entry.status != "ok":
                continue
            arguments = ["-m", "bench.fresh", fresh.figure, folder, LIBRARIES[entry.peer]]
            try:
                found = json.loads(child(arguments, **_environment(fresh.figure, folder)))
            except RuntimeError as error:
                absent = "ModuleNotFoundError" in str(error) or "Missing" in str(error)
                entry.status, entry.note = "missing" if absent else "failed", str(error)
                continue
            # The first round fills the caches, the one of files among them.
            if number:
                entry.samples.append(found[fresh.figure])
    work = Work(fresh.name, (), unit=fresh.unit, targets=fresh.targets)
    return Row(TOPIC, work, entries)


def ratio(row: Row) -> float | None:
    """Time of the best of the peers over Niello's."""
    own, best = row.best((NIELLO,)), row.best(BEST)
    return best.median / own.median if own and best else None


def summary(rows: Sequence[Row]) -> list[str]:
    """The geometric mean over the models that were measured, and what 8 bits gain, as lines for the
    terminal."""
    return [*_mean(rows), *_gain(rows)]


def _gain(rows: Sequence[Row]) -> list[str]:
    found = {row.work.name: own for row in rows if (own := row.best((NIELLO,))) is not None}
    if FLOAT not in found or INT8 not in found:
        return []
    gain = found[FLOAT].median / found[INT8].median
    met = "met" if gain >= GAIN else "missed"
    return [f"{INT8}: {gain:.2f}x Niello's own float32 (target {GAIN}x, {met})"]


def _mean(rows: Sequence[Row]) -> list[str]:
    names = {model.name for model in MODELS}
    found = [r for row in rows if row.work.name in names and (r := ratio(row)) is not None]
    if len(found) < 2:
        return []
    mean = math.exp(sum(map(math.log, found)) / len(found))
    met = "met" if mean >= GEOMETRIC_MEAN else "missed"
    return [
        f"geometric mean of {len(found)} models: {mean:.2f}x the best of ONNX Runtime and OpenVINO "
        f"(target {GEOMETRIC_MEAN}x, {met})"
    ]


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All rows of this topic, or those whose name contains `plan.only`."""
    found = []
    for model in MODELS:
        if plan.only not in model.name:
            continue
        try:
            work = latency_work(model)
        except Missing as reason:
            print(f"left out: {model.name}: {reason}", file=sys.stderr)
            continue
        slow = work.flops > SLOW_FLOPS
        chosen = replace(plan, rounds=min(plan.rounds, 4)) if slow else plan
        found.append(measure(TOPIC, work, chosen, without))
    with tempfile.TemporaryDirectory() as folder:
        asked = [fresh for fresh in FRESH if plan.only in fresh.name]
        found += [fresh_row(f, folder, min(plan.rounds, 3), without) for f in asked]
    return found
