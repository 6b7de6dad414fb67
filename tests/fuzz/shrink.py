"""Makes a failing graph small: fewer results, and placeholders in place of what made their values,
as long as it still fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from compare_runs import Way, disagreements, listing
from random_graphs import Case
from rebuilt_cases import rebuilt
from shaken_values import ancestors, values_of

from niello.core.errors import NielloError
from niello.graph.structural import Constant, Placeholder, ReadVariable
from niello.graph.tensor import Tensor

Fails = Callable[[Case], bool]
Assigns = list


def kind_of(problems: list[str]) -> str:
    """What sort of failure it is: the name of an exception, or a wrong value."""
    if not problems:
        return ""
    text = problems[0].split(": ", 2)
    name = text[1].split(":")[0] if len(text) > 1 else ""
    return name if name.endswith(("Error", "Bug", "Exceeded", "Lost")) else "value"


def failing_as(case: Case, ways: list[Way]) -> Fails:
    """Whether another case fails as this one does, by the first way that fails."""
    for way in ways:
        kind = kind_of(disagreements(case, [way]))
        if kind:
            return lambda other: kind_of(disagreements(other, [way])) == kind
    return lambda other: False


def shrunk(case: Case, ways: list[Way], seconds: float = 60.0) -> Case:
    """The smallest case found in the time that fails in the same manner."""
    fails, stop = failing_as(case, ways), time.monotonic() + seconds
    case = _known(case)
    for targets, assigns in _parts(case):
        made = _tried(case, targets, assigns, set(), fails)
        if made is not None:
            case = made
            break
    progress = True
    while progress and time.monotonic() < stop:
        progress = False
        for tensor in _cuts(case):
            made = _tried(case, case.targets, case.assigns, {tensor}, fails)
            if made is not None:
                case, progress = made, True
                break
            if time.monotonic() > stop:
                break
    return case


def _known(case: Case) -> Case:
    """The case with the values of all its tensors."""
    roots = [*case.targets, *(value for _, value, _ in case.assigns)]
    leaves = {t: case.values[t] for t in (*case.feeds, *case.initial)}
    tensors = [
        t
        for o in ancestors([t for t in roots if t not in case.reads])
        for t in o.outputs
        if t not in case.values
    ]
    found = values_of(tensors, leaves, case.callables)
    case.values.update(zip(tensors, found, strict=True))
    return case


def _parts(case: Case) -> list[tuple[list[Tensor], Assigns]]:
    """One result or one assignment at a time, those with the least behind them first."""
    plain = [t for t in case.targets if t not in case.reads]
    parts: list[tuple[list[Tensor], Assigns]] = [([t], []) for t in dict.fromkeys(plain)]
    parts += [([], [a]) for a in case.assigns]
    parts.sort(key=lambda p: len(ancestors([*p[0], *(value for _, value, _ in p[1])])))
    return [*parts, (case.targets, case.assigns)]


def _tried(
    case: Case, targets: list[Tensor], assigns: Assigns, cut: set[Tensor], fails: Fails
) -> Case | None:
    try:
        made, _ = rebuilt(case, targets, assigns, cut=cut)
    except NielloError:
        return None
    return made if fails(made) else None


def _cuts(case: Case) -> list[Tensor]:
    """Tensors that a placeholder may replace, those with the most behind them first."""
    roots = [*case.targets, *(value for _, value, _ in case.assigns)]
    stored = {variable for variable, _, _ in case.assigns}
    found = [
        t
        for o in ancestors(roots)
        for t in o.outputs
        if not isinstance(o.op, (Placeholder, Constant, ReadVariable)) and t in case.values
        if t not in stored
    ]
    return sorted(found, key=lambda t: -len(ancestors([t])))


def write(case: Case, problems: list[str], command: str, path: Path) -> None:
    """The graph, what it is fed and what is wrong, as text; the arrays beside it (.npz)."""
    arrays = {t.name: a for t, a in {**case.feeds, **case.initial}.items()}
    expected = {f"expected {t.name}": case.values[case.reads.get(t, t)] for t in case.targets}
    shown = [
        f"{name} = {a.dtype}{list(a.shape)} {a.tolist()!r}"[:2000] for name, a in arrays.items()
    ]
    text = ["# " + command, *(f"# {p}" for p in problems), "", listing(case), "", *shown]
    text += [f"{name} = {a.tolist()!r}"[:2000] for name, a in expected.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text) + "\n")
    raw = {n: np.frombuffer(a.tobytes(), np.uint8) for n, a in {**arrays, **expected}.items()}
    np.savez(path.with_suffix(".npz"), **raw)
