"""The training step of the digit network: its time, and the memory of its activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.digits import JaxStep, NielloStep, TorchStep, step_flops
from bench.harness import (
    JAX,
    NIELLO,
    ORT,
    TORCH_COMPILED,
    TORCH_EAGER,
    Contender,
    Entry,
    Missing,
    Plan,
    Prepared,
    Row,
    Target,
    Work,
    measure,
)
from bench.libraries import absent, import_niello, import_peer

LAYOUTS = ("NCHW", "channels_last")
# Steps made before the weights are compared.
CHECKED_STEPS = 3
UNAVAILABLE = "trains only with its own training build"


def _contender(peer: str, variant: str, build: Callable[[], Any]) -> Contender:
    def make() -> Prepared:
        step = build()

        def outputs() -> list[np.ndarray]:
            # A contender of its own state: those that ran a step while compiling start again.
            fresh = build()
            losses = [float(np.asarray(fresh())) for _ in range(CHECKED_STEPS)]
            return [np.array(losses, np.float32), *fresh.export()]

        return Prepared(step, outputs)

    return Contender(peer, variant, make)


def _torch(style: str, layout: str) -> Contender:
    peer = TORCH_EAGER if style == "eager" else TORCH_COMPILED
    variant = layout if style == "eager" else f"{layout}, {style}"
    return _contender(
        peer, variant, lambda: TorchStep(import_peer("torch"), style, layout == "channels_last")
    )


def _jax(layout: str) -> Contender:
    return _contender(JAX, layout, lambda: JaxStep(import_peer("jax"), layout))


def step_work() -> Work:
    """One step at batch 64; every peer in its best layout and style."""
    contenders = [
        _contender(NIELLO, "", lambda: NielloStep(import_niello())),
        *(_jax(layout) for layout in ("NHWC", "NCHW")),
        *(_torch(s, n) for s in ("eager", "compiled", "functional") for n in LAYOUTS),
        absent(ORT, UNAVAILABLE),
    ]
    return Work(
        "digit network, training step, batch 64",
        tuple(contenders),
        flops=step_flops(),
        rtol=2e-3,
        atol=2e-5,
        targets=(
            Target(1.3, (TORCH_EAGER,)),
            Target(1.1, (TORCH_COMPILED,)),
            Target(1.0, (JAX,)),
        ),
    )


def torch_peak_bytes(step: Callable[[], Any], torch: Any) -> int:
    """Highest sum of what one step allocates and has not yet freed, by PyTorch's own profiler.

    Weights, images and labels exist before the step and are not in it; gradients are.
    """
    for _ in range(3):
        step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in profile.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    held = peak = 0
    for _, change in sorted(changes, key=lambda pair: pair[0]):
        held += change
        peak = max(peak, held)
    if not peak:
        raise Missing("the profiler of this PyTorch reports no allocations")
    return peak


def _jax_bytes(layout: str) -> int:
    step = JaxStep(import_peer("jax"), layout)
    compiled = step.compiled.lower(step.weights, step.images, step.labels).compile()
    return int(compiled.memory_analysis().temp_size_in_bytes)


def _niello_bytes() -> int:
    return int(NielloStep(import_niello()).executable.arena_bytes)


def _torch_bytes(style: str, layout: str) -> int:
    torch = import_peer("torch")
    return torch_peak_bytes(TorchStep(torch, style, layout == "channels_last"), torch)


def memory_row(without: set[str]) -> Row:
    """Peak bytes of one step beyond weights and inputs; no time is measured."""
    sizes: list[tuple[str, str, Callable[[], int]]] = [(NIELLO, "", _niello_bytes)]
    for name in LAYOUTS:
        sizes.append((TORCH_EAGER, name, partial(_torch_bytes, "eager", name)))
        for style in ("compiled", "functional"):
            variant = f"{name}, {style}"
            sizes.append((TORCH_COMPILED, variant, partial(_torch_bytes, style, name)))
    for name in ("NHWC", "NCHW"):
        sizes.append((JAX, name, partial(_jax_bytes, name)))
    entries = []
    for peer, variant, size in sizes:
        if peer in without:
            continue
        entry = Entry(peer, variant)
        try:
            entry.samples.append(float(size()))
        except Missing as reason:
            entry.status, entry.note = "missing", str(reason)
        except Exception as error:  # a peer that fails must not hide the others
            entry.status, entry.note = "failed", f"{type(error).__name__}: {error}"
        entries.append(entry)
    work = Work(
        "digit network, peak memory of a step",
        (),
        unit="MiB",
        targets=(Target(1.0, (TORCH_EAGER, TORCH_COMPILED)),),
    )
    return Row("training", work, entries)


def rows(plan: Plan, without: set[str]) -> list[Row]:
    """All rows of this topic."""
    return [measure("training", step_work(), plan, without), memory_row(without)]
