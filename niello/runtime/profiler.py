"""What took how long: spans with bytes and floating point operations, as a table or a trace."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar, Token
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Span:
    """One thing that took time: seconds since the profiler began, seconds, bytes, operations."""

    name: str
    start: float
    duration: float
    bytes: int = 0
    flops: int = 0
    category: str = "kernel"
    thread: int = 0

    @property
    def gigabytes_per_second(self) -> float:
        """Bytes moved per second, in 1e9."""
        return self.bytes / self.duration / 1e9 if self.duration > 0 else 0.0

    @property
    def gigaflops(self) -> float:
        """Floating point operations per second, in 1e9."""
        return self.flops / self.duration / 1e9 if self.duration > 0 else 0.0


_active: ContextVar[Profiler | None] = ContextVar("niello_profiler", default=None)


def active() -> Profiler | None:
    """The profiler of the enclosing `with` block, or None."""
    return _active.get()


class Profiler:
    """Collects spans, from the runtime while its `with` block is open and from the user.

    Example:
        >>> with Profiler() as profile:
        ...     with profile.span("load", bytes=1000):
        ...         pass
        >>> [s.name for s in profile.spans]
        ['load']
    """

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._lock = threading.Lock()
        self._began = time.perf_counter()
        self._tokens: list[Token[Profiler | None]] = []

    @property
    def spans(self) -> tuple[Span, ...]:
        """All spans so far, in the order they ended."""
        with self._lock:
            return tuple(self._spans)

    def add(
        self,
        name: str,
        start: float,
        duration: float,
        *,
        bytes: int = 0,
        flops: int = 0,
        category: str = "kernel",
    ) -> None:
        """Records a span. `start` is a time of time.perf_counter, `duration` seconds."""
        span = Span(
            name, start - self._began, duration, bytes, flops, category, threading.get_ident()
        )
        with self._lock:
            self._spans.append(span)

    @contextlib.contextmanager
    def span(
        self, name: str, *, bytes: int = 0, flops: int = 0, category: str = "user"
    ) -> Iterator[None]:
        """Records how long the `with` block takes, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            duration = time.perf_counter() - start
            self.add(name, start, duration, bytes=bytes, flops=flops, category=category)

    def __enter__(self) -> Profiler:
        self._tokens.append(_active.set(self))
        return self

    def __exit__(self, *exception: object) -> None:
        _active.reset(self._tokens.pop())

    def table(self, rows: int = 40) -> str:
        """Spans of one name added up, the longest first, as text."""
        totals: dict[str, list[float]] = {}
        for s in self.spans:
            entry = totals.setdefault(s.name, [0, 0.0, 0, 0])
            entry[0] += 1
            entry[1] += s.duration
            entry[2] += s.bytes
            entry[3] += s.flops
        whole = sum(t[1] for t in totals.values())
        ranked = sorted(totals.items(), key=lambda item: -item[1][1])
        width = max([4, *(len(name) for name, _ in ranked[:rows])])
        head = f"{'name':{width}}  {'calls':>7}  {'total ms':>10}  {'mean us':>10}"
        lines = [f"{head}  {'share':>6}  {'GB/s':>8}  {'GFLOP/s':>9}"]
        for name, (calls, seconds, size, flops) in ranked[:rows]:
            share = seconds / whole if whole else 0.0
            rate = size / seconds / 1e9 if seconds else 0.0
            speed = flops / seconds / 1e9 if seconds else 0.0
            lines.append(
                f"{name:{width}}  {calls:7.0f}  {seconds * 1e3:10.3f}  "
                f"{seconds / calls * 1e6:10.1f}  {share:6.1%}  {rate:8.1f}  {speed:9.1f}"
            )
        if len(ranked) > rows:
            lines.append(f"and {len(ranked) - rows} more names")
        return "\n".join(lines)

    def chrome_trace(self) -> dict[str, Any]:
        """The spans as a Chrome trace (chrome://tracing, Perfetto); times in microseconds."""
        process = os.getpid()
        events = [
            {
                "name": s.name,
                "cat": s.category,
                "ph": "X",
                "ts": s.start * 1e6,
                "dur": s.duration * 1e6,
                "pid": process,
                "tid": s.thread,
                "args": {"bytes": s.bytes, "flops": s.flops},
            }
            for s in self.spans
        ]
        return {"traceEvents": events, "displayTimeUnit": "ns"}

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Writes the Chrome trace to a JSON file."""
        Path(path).write_text(json.dumps(self.chrome_trace()))
