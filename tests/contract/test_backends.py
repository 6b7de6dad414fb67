"""Every op on every back end that runs here, with all samples and dtypes in one graph per op."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello.backends import backend
from niello.core.dtypes import (
    ALL,
    DType,
    bool_,
    carrier,
    complex64,
    float16,
    float32,
    int32,
    int64,
    uint8,
)
from niello.core.errors import NielloError, UnsupportedDtype
from niello.core.types import TensorType
from niello.graph.opdef import Trait
from niello.runtime.target import CompileOptions
from tests.contract.contract_cases import Case, cases, mismatch, operations, registry, wide_cases

# Here these run on the processor, through a driver that compiles each kernel once more.
EMULATED = frozenset(("webgpu",))
# Packed bytes, packed halves, words, pairs of words.
KINDS_OF_ACCESS = frozenset((bool_, uint8, float16, int32, float32, int64, complex64))
KINDS_OF_LANES = frozenset((bool_, uint8, float16, float32))
CHUNK = 40  # cases per compilation: enough to share its cost, few enough to find a culprit


def held(type: TensorType) -> DType:
    """The dtype of the buffers that hold a tensor."""
    return carrier(type.dtype.plane)


def devices() -> list[str]:
    """Back ends that run here (null only compiles)."""
    return [name for name in nl.available_devices() if backend(name).runs]


def run_together(group: list[Case], device: str, target: str) -> list[list[np.ndarray]]:
    """All cases in one graph, run once; `target` is the machine level to compile for."""
    graph, feeds, made = nl.Graph(), {}, []
    for case in group:
        inputs = case.inputs_in(graph)
        feeds.update(zip(inputs, case.arrays, strict=True))
        made.append(graph.add(case.op, inputs).outputs)
    types = {t: TensorType(a.shape, a.dtype) for t, a in feeds.items()}
    targets = [t for outputs in made for t in outputs]
    options = CompileOptions(target=target)
    executable = graph.compile(types, targets, device=device, options=options)
    found = dict(zip(targets, executable.run(list(feeds.values())), strict=True))
    return [[np.asarray(found[t]) for t in outputs] for outputs in made]


def refused_rightly(error: Exception, device: str) -> bool:
    """An element type that the device does not have, named in the error."""
    supported = backend(device).limits.dtypes
    missing = [d.name for d in ALL if d not in supported]
    return isinstance(error, UnsupportedDtype) and any(n in str(error) for n in missing)


def thinned(chosen: list[Case], device: str, everything: bool, kinds: frozenset) -> list[Case]:
    """On a device that software emulates here, the dtypes that take different paths: all of them
    with `--everything`."""
    if everything or device not in EMULATED:
        return chosen
    return [c for c in chosen if c.dtype in kinds] or chosen[:1]


def problems_of(group: list[Case], device: str, target: str = "host") -> list[str]:
    try:
        results = run_together(group, device, target)
    except Exception as error:
        if len(group) == 1 and refused_rightly(error, device):
            return []
        if len(group) > 1:
            return [p for case in group for p in problems_of([case], device, target)]
        return [f"{group[0]}: {type(error).__name__}: {error}"]
    problems = []
    for case, found in zip(group, results, strict=True):
        sums = Trait.ELEMENTWISE not in case.op.traits
        for i, (e, f) in enumerate(zip(case.reference(), found, strict=True)):
            text = mismatch(np.asarray(e), f, case.sample.tolerance, sums)
            if text is not None:
                problems.append(f"{case}, output {i}: {text}")
    return problems


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("name", operations())
def test_backend_is_reference(name: str, device: str, everything: bool) -> None:
    supported = backend(device).limits.dtypes
    chosen = [c for c in cases(name) if all(held(t) in supported for t in c.types)]
    chosen = thinned(chosen, device, everything, KINDS_OF_ACCESS)
    assert chosen, f"{device} supports no dtype of {name}"
    problems = []
    for start in range(0, len(chosen), CHUNK):
        problems += problems_of(chosen[start : start + CHUNK], device)
    assert not problems, f"{len(problems)} problems\n" + "\n".join(problems[:12])


# Several vectors of every width and a remainder; not a multiple of anything.
WIDE = 1003


ELEMENTWISE = [n for n in operations() if Trait.ELEMENTWISE in registry()[n].traits]
LEVELS = [(d, "host") for d in devices() if d != "numpy"]
if "cpu" in devices():
    LEVELS.append(("cpu", "baseline"))


@pytest.mark.parametrize(("device", "target"), LEVELS)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_wide_elementwise_is_reference(
    name: str, device: str, target: str, everything: bool
) -> None:
    """Samples are small: this is where whole vectors are computed, special values in every lane."""
    supported = backend(device).limits.dtypes
    chosen = [c for c in wide_cases(name, WIDE) if all(held(t) in supported for t in c.types)]
    chosen = thinned(chosen, device, everything, KINDS_OF_LANES)
    problems = problems_of(chosen, device, target)
    assert not problems, f"{len(problems)} problems\n" + "\n".join(problems[:12])


def test_null_compiles_every_operation() -> None:
    """The back end for absent hardware takes each op through all of compilation."""
    refused = []
    for name in operations():
        case = next(iter(cases(name)))
        graph = nl.Graph()
        inputs = case.inputs_in(graph)
        outputs = graph.add(case.op, inputs).outputs
        try:
            graph.compile(dict(zip(inputs, case.types, strict=True)), list(outputs), device="null")
        except NielloError as error:
            refused.append(f"{case}: {error}")
    assert not refused, "\n".join(refused)
