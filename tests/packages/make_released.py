"""Makes the released package of the current format: python tests/packages/make_released.py.

Run it once when a format is released, never again: the file stands for those that users have.
"""

from __future__ import annotations

import json
from pathlib import Path

import niello as nl
from niello.executable.package_manifest import FORMAT

from package_files import batch, training  # isort: skip


def main() -> None:
    path = Path(__file__).parent / "released" / f"format{FORMAT}.niello"
    if path.exists():
        raise SystemExit(f"{path} is there already")
    graph, step, predict = training()
    x, label = graph.placeholders
    variants: dict[str, list[nl.Executable]] = {"predict": [], "train": []}
    for device, level in (("numpy", "host"), ("cpu", "baseline")):
        options = nl.CompileOptions(target=level)
        types = {x: (16, 8), label: (16, 4)}
        variants["predict"].append(
            graph.compile({x: (16, 8)}, predict.targets, device=device, options=options)
        )
        effects = step.computation.operations
        variants["train"].append(
            graph.compile(types, step.targets, effects, device=device, options=options)
        )
    nl.save(path, variants)
    package = nl.Package(path)
    inputs = batch()
    predicted = package.load("numpy", function="predict").run(inputs[:1])[0].tolist()
    step = package.load("numpy", function="train")
    losses = [step.run(inputs)[0].item() for _ in range(3)]
    facts = {"inputs": [a.tolist() for a in inputs], "predicted": predicted, "losses": losses}
    path.with_suffix(".json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
