"""What a fresh process needs for ResNet-50: `python -m bench.fresh FIGURE FOLDER LIBRARY`.

FIGURE is one of

- `save`: write the model into FOLDER as ONNX and as a package (no LIBRARY);
- `first`: seconds from imported libraries to the first result: Niello loads the package, another
  library reads the ONNX file, makes a session and runs it once;
- `whole`: the same with the start of Python and all imports;
- `compile`: from the ONNX file to the first result for every library, with nothing cached;
- `peak`: the most memory of a process that does what `first` does, and runs ten times more;
- `peak_onnx`: the same where every library reads the ONNX file;
- `parts`: where the time of `first` goes, for Niello only: seconds by part.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import machine

MORE_RUNS = 10
ONNX, PACKAGE, IMAGE = "resnet50.onnx", "resnet50.niello", "image.npy"


def _save(folder: Path) -> None:
    import numpy as np

    from bench.libraries import import_peer
    from bench.networks import onnx_networks
    from niello.frontends.onnx import load

    network = onnx_networks.resnet50(import_peer("onnx"))
    (folder / ONNX).write_bytes(network.file)
    np.save(folder / IMAGE, network.inputs[0])
    load(network.file).compile(device="cpu").save(folder / PACKAGE)


def _niello(folder: Path, image: Any) -> Callable[[], Any]:
    import niello as nl

    executable = nl.load(folder / PACKAGE)
    return lambda: executable.run([image])


def _parts(folder: Path, image: Any) -> dict[str, float]:
    """Seconds of the parts of a load, the first run and a later one."""
    import niello as nl
    from niello import backends

    marks = [time.perf_counter()]

    def lap() -> float:
        marks.append(time.perf_counter())
        return marks[-1] - marks[-2]

    found: dict[str, float] = {}
    package = nl.Package(folder / PACKAGE)
    found["open: directory, manifest, hash of the weights noted"] = lap()
    backends.device("cpu")
    found["device: import, no compiler"] = lap()
    executable = package.load()
    found["load: command list, link of the code, map of the weights"] = lap()
    executable.run([image])
    found["first run"] = lap()
    executable.run([image])
    found["second run"] = lap()
    return found


def _niello_onnx(folder: Path, image: Any) -> Callable[[], Any]:
    from niello.frontends.onnx import load

    executable = load(folder / ONNX).compile(device="cpu")
    return lambda: executable.run([image])


def _onnxruntime(folder: Path, image: Any) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = machine.THREADS
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / ONNX), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"image": image})


def _openvino(folder: Path, image: Any) -> Callable[[], Any]:
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": machine.THREADS,
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.Core().compile_model(str(folder / ONNX), "CPU", options)
    request = model.create_infer_request()
    return lambda: request.infer([image])


def _peak() -> int:
    """The most memory that this process had, in bytes.

    Linux passes the maximum of getrusage on from the process that started this one, so it is read
    from /proc there, which begins anew with each program.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# What is imported before the clock starts.
IMPORTS = {
    "niello": ("niello",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}


def _seconds_since_start() -> float:
    """Since this process began, by the clock that the system keeps of it."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def main() -> None:
    """Print {FIGURE: value}: seconds, or bytes."""
    machine.claim_two_cores()
    figure, folder = sys.argv[1], Path(sys.argv[2])
    if figure == "save":
        _save(folder)
        print(json.dumps({"save": True}))
        return
    library = sys.argv[3]

    from importlib import import_module

    import numpy as np

    for name in IMPORTS[library]:
        import_module(name)
    if figure in ("compile", "peak_onnx") and library == "niello":
        import_module("onnx")
    image = np.load(folder / IMAGE)
    if figure == "parts":
        print(json.dumps({figure: _parts(folder, image)}))
        return
    own = _niello_onnx if figure in ("compile", "peak_onnx") else _niello
    make = {"niello": own, "onnxruntime": _onnxruntime, "openvino": _openvino}[library]
    start = time.perf_counter()
    run = make(folder, image)
    run()
    seconds = time.perf_counter() - start
    if figure == "whole":
        seconds = _seconds_since_start()
    peak = figure.startswith("peak")
    if peak:
        for _ in range(MORE_RUNS):
            run()
    print(json.dumps({figure: _peak() if peak else seconds}))


if __name__ == "__main__":
    main()
