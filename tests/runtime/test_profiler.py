"""Spans, their table and their trace."""

from __future__ import annotations

import json
import threading
import time

import pytest

from niello.runtime import profiler
from niello.runtime.profiler import Profiler


def test_spans_record_time_bytes_and_operations():
    with Profiler() as profile, profile.span("work", bytes=1000, flops=2000):
        time.sleep(0.01)
    (span,) = profile.spans
    assert (span.name, span.bytes, span.flops) == ("work", 1000, 2000)
    assert 0.01 <= span.duration < 1 and span.start >= 0
    assert span.gigabytes_per_second == pytest.approx(1000 / span.duration / 1e9)
    assert span.gigaflops == pytest.approx(2000 / span.duration / 1e9)


def test_span_is_recorded_when_the_block_raises():
    profile = Profiler()
    with pytest.raises(ZeroDivisionError), profile.span("bad"):
        _ = 1 // 0
    assert [s.name for s in profile.spans] == ["bad"]


def test_active_profiler_is_that_of_the_enclosing_block():
    assert profiler.active() is None
    with Profiler() as outer:
        assert profiler.active() is outer
        with Profiler() as inner:
            assert profiler.active() is inner
        assert profiler.active() is outer
    assert profiler.active() is None


def test_table_adds_up_and_sorts():
    profile = Profiler()
    now = time.perf_counter()
    profile.add("small", now, 0.001)
    for _ in range(3):
        profile.add("large", now, 0.002, bytes=2_000_000, flops=4_000_000)
    lines = profile.table().splitlines()
    assert lines[0].split()[:2] == ["name", "calls"]
    assert lines[1].split() == ["large", "3", "6.000", "2000.0", "85.7%", "1.0", "2.0"]
    assert lines[2].split() == ["small", "1", "1.000", "1000.0", "14.3%", "0.0", "0.0"]
    assert profile.table(rows=1).endswith("and 1 more names")


def test_empty_profile():
    profile = Profiler()
    assert len(profile.table().splitlines()) == 1
    assert profile.chrome_trace()["traceEvents"] == []


def test_chrome_trace(tmp_path):
    profile = Profiler()
    profile.add("k", time.perf_counter(), 0.5, bytes=8, category="copy")
    path = tmp_path / "trace.json"
    profile.save_trace(path)
    (event,) = json.loads(path.read_text())["traceEvents"]
    assert (event["name"], event["ph"], event["cat"]) == ("k", "X", "copy")
    assert event["dur"] == pytest.approx(5e5) and event["args"] == {"bytes": 8, "flops": 0}


def test_threads_add_at_once():
    profile = Profiler()

    def work() -> None:
        for _ in range(500):
            profile.add("x", time.perf_counter(), 0.0)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert len(profile.spans) == 2000
    assert profile.spans[0].gigabytes_per_second == 0.0
