"""The worker pool: every thread plays, barriers hold, and nothing lingers."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from niello.backends.cpu import jit, thread_code, threads
from niello.core.errors import ConfigError, DeviceError

ROUNDS = 500

# Each thread writes the round's number, waits, looks at its neighbour's number, and waits again.
# A barrier that lets anyone through early is counted in scratch[thread].
CODE = """
define void @mark(ptr %a, ptr %s, i64 %t, i64 %n, ptr %b) {
  %p = getelementptr i64, ptr %a, i64 %t
  %v = load i64, ptr %p
  %w = add i64 %v, %n
  store i64 %w, ptr %p
  ret void
}

define void @check(ptr %a, ptr %s, i64 %t, i64 %n, ptr %b) {
entry:
  %next = add i64 %t, 1
  %wrap = icmp eq i64 %next, %n
  %other = select i1 %wrap, i64 0, i64 %next
  %mine = getelementptr i64, ptr %a, i64 %t
  %theirs = getelementptr i64, ptr %a, i64 %other
  %errors = getelementptr i64, ptr %s, i64 %t
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
  store i64 %i, ptr %mine
  call void @niello_barrier(ptr %b, i64 %t, i64 %n)
  %v = load i64, ptr %theirs
  %bad = icmp ne i64 %v, %i
  %one = zext i1 %bad to i64
  %e = load i64, ptr %errors
  %e.next = add i64 %e, %one
  store i64 %e.next, ptr %errors
  call void @niello_barrier(ptr %b, i64 %t, i64 %n)
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, ROUNDS
  br i1 %more, label %loop, label %out
out:
  ret void
}

; thread 0 counts to s[0]; the others reach the barrier at once and wait for it
define void @slow(ptr %a, ptr %s, i64 %t, i64 %n, ptr %b) {
entry:
  %first = icmp eq i64 %t, 0
  br i1 %first, label %work, label %meet
work:
  %k = load i64, ptr %s
  br label %loop
loop:
  %i = phi i64 [ 0, %work ], [ %i.next, %loop ]
  %i.next = add i64 %i, 1
  store volatile i64 %i.next, ptr %a
  %more = icmp ult i64 %i.next, %k
  br i1 %more, label %loop, label %meet
meet:
  call void @niello_barrier(ptr %b, i64 %t, i64 %n)
  ret void
}
""".replace("ROUNDS", str(ROUNDS))


@pytest.fixture(scope="module")
def code() -> jit.LoadedCode:
    text = threads.barrier_text(jit.host_target().triple) + CODE
    return jit.compile_and_load(text, ["mark", "check", "slow"])


@pytest.fixture(autouse=True)
def restore():
    yield
    threads.set_threads(None)


class Memory:
    """Arguments and scratch of 64 int64 each."""

    def __init__(self) -> None:
        self.a = (ctypes.c_int64 * 64)()
        self.s = (ctypes.c_int64 * 64)()
        self.arguments = ctypes.addressof(self.a)
        self.scratch = ctypes.addressof(self.s)


def check(runner: threads.Runner, count: int) -> None:
    memory = Memory()
    runner(memory.arguments, memory.scratch, count)
    assert list(memory.a[:count]) == [ROUNDS - 1] * count
    assert sum(memory.s) == 0


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_every_thread_plays_once(code, count):
    memory = Memory()
    threads.Runner(code, "mark")(memory.arguments, memory.scratch, count)
    assert list(memory.a[:count]) == [count] * count
    assert not any(memory.a[count:])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_barrier_holds(code, count):
    for _ in range(3):
        check(threads.Runner(code, "check"), count)


def test_thread_counts_may_alternate(code):
    runner = threads.Runner(code, "check")
    for count in (4, 2, 3, 2, 4, 1, 2):
        check(runner, count)


def test_many_short_runs(code):
    memory = Memory()
    runner = threads.Runner(code, "mark")
    for _ in range(2000):
        runner(memory.arguments, memory.scratch, 2)
    assert list(memory.a[:2]) == [4000, 4000]


def test_parked_workers_wake(code):
    runner = threads.Runner(code, "check")
    for _ in range(5):
        time.sleep(0.01)
        check(runner, 3)


def test_python_threads_run_at_once(code):
    failures: list[BaseException] = []

    def work(count: int) -> None:
        try:
            runner = threads.Runner(code, "check")
            for _ in range(5):
                check(runner, count)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3, 2, 1)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(60)
    assert not failures and not any(w.is_alive() for w in workers)


def test_resizing_while_others_run(code):
    end = time.monotonic() + 2
    failures: list[BaseException] = []

    def work(counts: tuple[int, ...]) -> None:
        try:
            mark = threads.Runner(code, "mark")
            while time.monotonic() < end:
                for count in counts:
                    memory = Memory()
                    for _ in range(50):
                        mark(memory.arguments, memory.scratch, count)
                    assert list(memory.a[:count]) == [50 * count] * count
                    check(threads.Runner(code, "check"), count)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(c,)) for c in ((2, 3), (5, 2), (1, 4, 2))]
    for w in workers:
        w.start()
    turns = 0
    while time.monotonic() < end:
        threads.set_threads((1, 4, 2, 3)[turns % 4])
        turns += 1
        time.sleep(0.002)
    for w in workers:
        w.join(60)
    assert not failures and not any(w.is_alive() for w in workers)
    assert turns > 10


def test_set_threads_ends_surplus_workers(code):
    check(threads.Runner(code, "check"), 6)
    assert threads._POOL.workers == 5
    threads.set_threads(2)
    assert threads._POOL.workers == 1
    check(threads.Runner(code, "check"), 2)


def test_default_thread_count(monkeypatch):
    monkeypatch.delenv("NIELLO_THREADS", raising=False)
    assert threads.thread_count() == threads.usable_cores()
    assert 1 <= threads.usable_cores() <= (os.cpu_count() or 1)
    monkeypatch.setenv("NIELLO_THREADS", "3")
    assert threads.thread_count() == 3
    threads.set_threads(2)
    assert threads.thread_count() == 2
    monkeypatch.setenv("NIELLO_THREADS", "many")
    assert threads.thread_count() == 2


@pytest.mark.parametrize("count", [0, -1, 1025])
def test_impossible_thread_counts(count):
    with pytest.raises(ConfigError) as error:
        threads.set_threads(count)
    assert error.value.received == repr(count)


def test_bad_flag(monkeypatch):
    monkeypatch.setenv("NIELLO_THREADS", "many")
    with pytest.raises(ConfigError, match="many"):
        threads.thread_count()


def test_refused_threads_are_reported(code, monkeypatch):
    pool = threads.Pool()
    monkeypatch.setattr(threads, "_start_thread", lambda entry, slot: 11)
    memory = Memory()
    with pytest.raises(DeviceError, match="refuses"):
        pool.run(code.address("mark"), memory.arguments, memory.scratch, 2)
    monkeypatch.undo()
    pool.run(code.address("mark"), memory.arguments, memory.scratch, 2)
    assert list(memory.a[:2]) == [2, 2]
    pool.shrink(1)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX condition variables")
def test_sleeping_on_condition_variables(code):
    pool = threads.Pool("condition")
    for count in (2, 4, 3):
        memory = Memory()
        pool.run(code.address("check"), memory.arguments, memory.scratch, count)
        assert list(memory.a[:count]) == [ROUNDS - 1] * count and sum(memory.s) == 0
        time.sleep(0.005)
    pool.shrink(1)
    assert pool.workers == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_of_fork_starts_its_own_workers(code):
    runner = threads.Runner(code, "check")
    check(runner, 3)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        status = 1
        try:
            check(runner, 3)
            check(runner, 2)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    check(runner, 3)


def test_gil_is_free_during_a_run(code):
    memory = Memory()
    memory.s[0] = 300_000_000
    counted = 0
    worker = threading.Thread(
        target=threads.Runner(code, "slow"), args=(memory.arguments, memory.scratch, 1)
    )
    worker.start()
    while worker.is_alive():
        counted += 1
    assert memory.a[0] == memory.s[0]
    assert counted > 1000


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_interrupt_arrives_after_the_run(code):
    memory = Memory()
    memory.s[0] = 200_000_000
    runner = threads.Runner(code, "slow")

    def play() -> None:
        for _ in range(1000):
            memory.a[0] = 0
            runner(memory.arguments, memory.scratch, 2)

    timer = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            play()
    finally:
        timer.cancel()
    assert memory.a[0] == memory.s[0]
    check(threads.Runner(code, "check"), 2)


def test_idle_workers_use_no_time(code):
    check(threads.Runner(code, "check"), 3)
    time.sleep(0.02)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.02


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_workers_are_no_python_threads(code):
    check(threads.Runner(code, "check"), 4)
    assert all("niello" not in t.name for t in threading.enumerate())
    assert len(os.listdir("/proc/self/task")) >= 4


def test_process_exits_at_once_with_workers_running():
    script = """
import ctypes, time
from niello.backends.cpu import jit, threads
code = jit.compile_and_load(
    "define void @f(ptr %a, ptr %s, i64 %t, i64 %n, ptr %b) { ret void }", ["f"])
run = threads.Runner(code, "f")
for _ in range(100):
    run(0, 0, 4)
print("done")
"""
    root = Path(jit.__file__).parents[3]
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=root, timeout=60
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize(
    "triple",
    [
        "x86_64-unknown-linux-gnu",
        "x86_64-apple-macosx",
        "x86_64-pc-windows-msvc",
        "aarch64-unknown-linux-gnu",
        "arm64-apple-macosx",
    ],
)
def test_texts_of_other_systems_compile(triple):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(reloc="pic")
    with llvm.parse_assembly(thread_code.pool_text(triple)) as module:
        module.verify()
        assert len(machine.emit_object(module)) > 100
