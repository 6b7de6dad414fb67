"""Everything that needs a CUDA machine, in one go: `python -m tools.cuda_suite [part...]`.

Parts run one after the other, each in a process of its own with a time limit, so that a hang or a
crash in one leaves the others their turn. Output goes to the folder given by --out as it comes:
one log for each part, and summary.txt.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", "-rf")


@dataclass(frozen=True)
class Part:
    """A command, how long it may take in seconds, and extra environment variables."""

    command: tuple[str, ...]
    limit: int
    environment: tuple[tuple[str, str], ...] = ()


PARTS = {
    "environment": Part((sys.executable, "-m", "tools.cuda_environment"), 60),
    "conformance": Part(
        (*PYTEST, "--backend", "cuda", "tests/backends/conformance", "--maxfail", "40"), 120
    ),
    "device": Part(
        (*PYTEST, "tests/backends/test_cuda_device.py", "tests/backends/test_cuda_operations.py"),
        150,
    ),
    "large": Part((*PYTEST, "tests/backends/test_large_tensors.py", "-k", "not cpu"), 200),
    "sweep": Part(
        (
            *PYTEST,
            "--backend",
            "cuda",
            "tests/contract/test_backends.py",
            "-k",
            "cuda",
            "-n",
            "8",
            "--tb",
            "short",
        ),
        400,
        (("NIELLO_VERIFY", "0"),),
    ),
    "digits": Part((sys.executable, "-m", "tools.cuda_digits"), 120),
    "bench": Part((sys.executable, "-m", "bench.cuda"), 900),
}


def run(name: str, part: Part, out: Path, limit: int | None) -> str:
    """Run one part; returns its line of the summary."""
    started = time.monotonic()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **dict(part.environment)}
    environment.setdefault("NIELLO_CACHE", "0")
    allowed = part.limit if limit is None else min(limit, part.limit)
    with (out / f"{name}.log").open("w") as log:
        try:
            code: int | str = subprocess.run(
                part.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**environment, "CUDA_SUITE_OUT": str(out)},
                timeout=allowed,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = f"stopped after {allowed} s"
    verdict = "passed" if code == 0 else f"FAILED ({code})"
    return f"{name:12} {verdict:24} {time.monotonic() - started:7.1f} s"


def main() -> int:
    """Run the parts that were asked for, all by default; 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.cuda_suite", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=Path("cuda-results"), metavar="DIR")
    parser.add_argument("--limit", type=int, metavar="S", help="most seconds for each part")
    parser.add_argument("--tail", type=int, default=15, metavar="N", help="lines shown of each log")
    options = parser.parse_args()
    unknown = [p for p in options.parts if p not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; there are {', '.join(PARTS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for name in options.parts or PARTS:
        line = run(name, PARTS[name], options.out, options.limit)
        lines.append(line)
        (options.out / "summary.txt").write_text("\n".join(lines) + "\n")
        log = (options.out / f"{name}.log").read_text(errors="replace").splitlines()
        print(f"=== {line}", *log[-options.tail :], sep="\n", flush=True)
    print("=== summary", *lines, sep="\n")
    return int(any("FAILED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
