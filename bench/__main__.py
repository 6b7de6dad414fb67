"""Run the measurements: `python -m bench [topic...] [--json FILE] [--quick] [--without PEER]`."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from bench import machine

TOPICS = (
    "limits",
    "elementwise",
    "contraction",
    "convolutions",
    "classifiers",
    "training",
    "overhead",
    "command_buffers",
    "attention",
    "recurrent",
    "indexing",
    "order",
    "fourier",
    "linear_algebra",
    "inference",
)
TOLERATED_CORES = 0.1
NEED_PEAK = {"limits", "contraction", "convolutions", "training", "attention", "recurrent"}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("topics", nargs="*", metavar="topic", help=", ".join(TOPICS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="of topics with many rows, those named so"
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="PEER",
        help="leave a contender out, such as niello, jax or pytorch-compiled; may be repeated",
    )
    options = parser.parse_args()
    unknown = [topic for topic in options.topics if topic not in TOPICS]
    if unknown:
        parser.error(f"unknown topic {unknown[0]!r}; there are {', '.join(TOPICS)}")
    return options


def _left_out(names: list[str]) -> set[str]:
    from bench.harness import COPY, NIELLO, PEERS, UNSTITCHED

    known = {name.lower().replace(" ", "-"): name for name in (NIELLO, UNSTITCHED, *PEERS, COPY)}
    chosen = set()
    for name in names:
        key = name.lower().replace(" ", "-")
        if key not in known:
            sys.exit(f"--without {name}: no such contender; there are {', '.join(known)}")
        chosen.add(known[key])
    return chosen | {UNSTITCHED} if NIELLO in chosen else chosen


def main() -> int:
    """Measure, print, write JSON. Returns 1 when Niello failed or computed something else."""
    options = _arguments()
    cores = machine.claim_two_cores()

    from rich.console import Console

    from bench import report
    from bench.harness import NIELLO, QUICK, UNSTITCHED, Plan
    from bench.limits import matrix_peak

    console = Console(width=None if sys.stdout.isatty() else 200)
    plan = replace(QUICK if options.quick else Plan(), only=options.only)
    without = _left_out(options.without)
    description = machine.describe(cores)
    topics = options.topics or list(TOPICS)
    peak = matrix_peak() if NEED_PEAK & set(topics) else None
    rows = []
    neighbours: dict[str, float | None] = {}
    for topic in topics:
        watch = machine.Neighbours()
        module = import_module(f"bench.{topic}")
        found = module.rows(plan, without)
        report.show(found, peak if topic in NEED_PEAK else None, console)
        for line in getattr(module, "summary", lambda found: [])(found):
            console.print(line, highlight=False, markup=False)
        rows += found
        neighbours[topic] = cores_taken = watch.cores()
        if cores_taken is not None and cores_taken > TOLERATED_CORES:
            console.print(
                f"warning: other processes took {cores_taken:.2f} cores on average during "
                f"{topic}; its figures are not to be trusted"
            )
    description["cores_taken_by_others"] = neighbours
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = options.json or Path(__file__).parent / "results" / f"{stamp}.json"
    report.write(path, report.as_json(rows, peak, description))
    console.print(f"figures: {path}")
    own = {NIELLO, UNSTITCHED}
    bad = any(e.peer in own and e.status != "ok" for row in rows for e in row.entries)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
