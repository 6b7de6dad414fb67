"""Thousands of random graphs on all cores: what `make nightly` runs.

    python tests/fuzz/nightly.py --graphs 10000 --workers 4
    python tests/fuzz/nightly.py --suite mixed --seed 1234          (one graph, again)
    python tests/fuzz/nightly.py --graphs 300 --device cuda         (mixed graphs on a device)

Each worker is a process that takes seeds in batches; one that dies or hangs is a failure of the
seed at which it did, and is replaced. A failing graph is made small and written to --out.
"""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
BATCH = 20  # seeds
PATIENCE = 300.0  # seconds for one graph, made small too when it fails
SHARES = {"mixed": 0.7, "plain": 0.16, "special": 0.06, "large": 0.08}

Batch = tuple[str, int, int]  # suite, first seed, count


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; the number of failing graphs, 100 at most."""
    options = _parser().parse_args(arguments)
    if options.seed is not None:
        return _alone(options)
    if options.batch:
        return _work(options)
    return min(_Run(options).all(), 100)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--graphs", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--first", type=int, default=0, help="the first seed of each suite")
    parser.add_argument("--device", help="compare this back end with the reference, not the cpu")
    parser.add_argument("--suite", choices=tuple(SHARES), help="only graphs of this suite")
    parser.add_argument("--seed", type=int, help="only this graph of --suite, explained")
    parser.add_argument("--seconds", type=float, help="start no more graphs after this time")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="for what fails")
    parser.add_argument("--batch", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser


# --- in a worker
def _prepare() -> None:
    os.environ.setdefault("NIELLO_CACHE", "0")
    os.environ.setdefault("NIELLO_VERIFY", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    root = HERE.parents[1]
    sys.path[:0] = [str(root), str(HERE)]


def _work(options: argparse.Namespace) -> int:
    """Seeds of one batch; a line before and after each."""
    _prepare()
    import warnings

    warnings.simplefilter("ignore")
    first, count = options.batch
    for seed in range(first, first + count):
        print("start", seed, flush=True)
        problems, differentiated, drawn = _checked(options, seed)
        for text in problems:
            print("problem", text.replace("\n", " ")[:600], flush=True)
        print("end", int(differentiated), *sorted(drawn), flush=True)
    return 0


def _checked(options: argparse.Namespace, seed: int) -> tuple[list[str], bool, set[str]]:
    from suites import drawn, outcome

    try:
        found = outcome(options.suite, seed, options.device)
    except Exception as error:  # the graph cannot be built or evaluated: a failure like others
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        return [text], False, set()
    if found.problems:
        _keep(options, seed, found)
    return found.problems, found.differentiated, drawn(found.case)


def _keep(options: argparse.Namespace, seed: int, found: object) -> None:
    from shrink import shrunk, write
    from suites import ways

    path = options.out / f"{options.suite}_{seed}.txt"
    case, problems = found.case, found.problems
    try:
        case = shrunk(case, ways(options.suite, case, options.device))
    except Exception as error:
        problems = [*problems, f"it could not be made smaller: {type(error).__name__}: {error}"]
    write(case, problems, replay(options.suite, seed, options.device), path)


def replay(suite: str, seed: int, device: str | None) -> str:
    """The command that runs one graph again."""
    return f"python tests/fuzz/nightly.py --suite {suite} --seed {seed}" + (
        f" --device {device}" if device else ""
    )


def _alone(options: argparse.Namespace) -> int:
    """One graph, with its listing."""
    _prepare()
    options.suite = options.suite or "mixed"
    from compare_runs import listing
    from suites import outcome

    found = outcome(options.suite, options.seed, options.device)
    print(listing(found.case))
    print("\n".join(found.problems) or "every way gives the same")
    if found.problems:
        _keep(options, options.seed, found)
        print(f"made small: {options.out / f'{options.suite}_{options.seed}.txt'}")
    return bool(found.problems)


# --- around the workers
class _Run:
    """Batches of seeds on several processes, and what came of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.left: queue.Queue[Batch] = queue.Queue()
        self.done, self.compared = 0, 0
        self.failures: list[tuple[str, int, list[str]]] = []
        self.counts: Counter[str] = Counter()
        self.drawn: set[str] = set()  # operation:dtype of its first input or output
        self.lock = threading.Lock()
        self.started = time.monotonic()

    def all(self) -> int:
        for batch in self._batches():
            self.left.put(batch)
        total = self.left.qsize() * BATCH
        print(f"{total} graphs, {self.options.workers} workers, seeds from {self.options.first}")
        threads = [threading.Thread(target=self._take) for _ in range(self.options.workers)]
        for thread in threads:
            thread.start()
        while any(t.is_alive() for t in threads):
            for thread in threads:
                thread.join(10.0 / len(threads))
            self._say(total)
        self._say(total)
        print("suites:", ", ".join(f"{n} {c}" for n, c in sorted(self.counts.items())))
        print(f"gradients compared with differences: {self.compared}")
        names = {pair.split(":")[0] for pair in self.drawn}
        print(f"drawn: {len(names)} operations, {len(self.drawn)} with different dtypes")
        for suite, seed, problems in sorted(self.failures):
            print(f"\nFAILED {replay(suite, seed, self.options.device)}")
            print("\n".join(f"  {p}" for p in problems[:4]))
        return len(self.failures)

    def _batches(self) -> Iterator[Batch]:
        shares = {self.options.suite: 1.0} if self.options.suite else SHARES
        shares = {"mixed": 1.0} if self.options.device else shares
        first = self.options.first
        made = []
        for suite, share in shares.items():
            count = -(-int(self.options.graphs * share) // BATCH)
            made += [(i / count, (suite, first + BATCH * i, BATCH)) for i in range(count)]
        return (batch for _, batch in sorted(made))

    def _say(self, total: int) -> None:
        seconds = time.monotonic() - self.started
        rate = self.done / max(seconds, 1e-9)
        print(
            f"{seconds:6.0f} s  {self.done} of {total}  {rate:.1f}/s  {len(self.failures)} failed",
            flush=True,
        )

    def _take(self) -> None:
        limit = self.options.seconds
        while limit is None or time.monotonic() - self.started < limit:
            try:
                suite, first, count = self.left.get_nowait()
            except queue.Empty:
                return
            reached = self._batch(suite, first, count)
            if reached is not None and reached + 1 < first + count:
                self.left.put((suite, reached + 1, first + count - reached - 1))

    def _batch(self, suite: str, first: int, count: int) -> int | None:
        """Run a batch; the seed at which its process died, or None."""
        command = [sys.executable, str(HERE / "nightly.py"), "--suite", suite]
        command += ["--batch", str(first), str(count), "--out", str(self.options.out)]
        command += ["--device", self.options.device] if self.options.device else []
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        watch = _Watch(process)
        seed, problems, said = None, [], ""
        for line in process.stdout:
            word, _, rest = line.rstrip("\n").partition(" ")
            if word == "start":
                seed, problems = int(rest), []
                watch.touch()
            elif word == "problem":
                problems.append(rest)
            elif word == "end":
                compared, *drawn = rest.split()
                self._note(suite, seed, problems, compared == "1", drawn)
                seed = None
            else:
                said = (said + line)[-600:]
        code = process.wait()
        watch.stop()
        if code == 0 and seed is None:
            return None
        seed = first if seed is None else seed
        self._note(suite, seed, [f"its process ended with {code}: {said}"])
        return seed

    def _note(
        self,
        suite: str,
        seed: int,
        problems: list[str],
        compared: bool = False,
        drawn: Sequence[str] = (),
    ) -> None:
        with self.lock:
            self.done += 1
            self.counts[suite] += 1
            self.compared += compared
            self.drawn.update(drawn)
            if problems:
                self.failures.append((suite, seed, problems))
                print(f"FAILED {replay(suite, seed, self.options.device)}: {problems[0][:300]}")


class _Watch:
    """Ends a process in which one graph takes too long."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.timer = process, threading.Timer(PATIENCE, process.kill)
        self.timer.start()

    def touch(self) -> None:
        self.timer.cancel()
        self.timer = threading.Timer(PATIENCE, self.process.kill)
        self.timer.start()

    def stop(self) -> None:
        self.timer.cancel()


if __name__ == "__main__":
    sys.exit(main())
