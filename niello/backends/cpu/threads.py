"""Worker threads that play a native function together (SPMD).

A run is one native function `void run(ptr arguments, ptr scratch, i64 thread, i64 threads,
ptr barrier)`. The Python thread that starts it is thread 0; parked workers are threads 1 and up.
The workers are system threads without Python state: they never take the GIL, cost nothing when
idle (a short spin after a run, then sleep) and nothing at exit.

Several Python threads may run at once. Runs with one thread go side by side; runs with more wait
for the pool, because playing them with fewer threads could change the bits of the result.
A child of fork starts its own workers at its first run. Ctrl-C during a run takes effect when the
run is over.
"""

from __future__ import annotations

import ctypes
import math
import os
import signal
import sys
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

from niello.backends.cpu import thread_code
from niello.backends.cpu.code import LoadedCode, load_code
from niello.backends.cpu.target import links_elf, select_target, triple
from niello.core import config
from niello.core.errors import ConfigError, DeviceError

# How long threads spin before they sleep. Between runs: long enough for a Python loop that runs
# again at once. Inside a run: about what a sleep and a wake cost together, several times over.
IDLE_SPIN_SECONDS = 100e-6
RUN_SPIN_SECONDS = 200e-6

RUN = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
)

_chosen_threads = 0


def barrier_text(triple: str) -> str:
    """IR text that defines `niello_barrier(ptr barrier, i64 thread, i64 threads)`.

    Each module of a program includes it once; it is inlined where it is called, does nothing for
    one thread, and is the same on all targets so far.
    """
    return thread_code.BARRIER


def set_threads(count: int | None) -> None:
    """Sets the number of threads that runs use from now on; None goes back to the default.

    The default is NIELLO_THREADS, or else the number of usable cores. Results depend on the
    thread count only through the order of sums. Raises ConfigError outside 1 to 1024.
    """
    global _chosen_threads
    if count is not None and not 1 <= count <= thread_code.MAX_THREADS:
        raise ConfigError(
            "set_threads",
            f"the number of threads must be from 1 to {thread_code.MAX_THREADS}",
            received=repr(count),
            advice="Use None for the number of usable cores",
        )
    _chosen_threads = count or 0
    _POOL.shrink(thread_count())


def thread_count() -> int:
    """The number of threads that runs use: set_threads, NIELLO_THREADS, or the usable cores."""
    if _chosen_threads:
        return _chosen_threads
    return config.THREADS.integer(0, thread_code.MAX_THREADS) or usable_cores()


@cache
def usable_cores() -> int:
    """Cores this process may use: its affinity, without hyper-threads, within its CPU quota."""
    if hasattr(os, "sched_getaffinity"):
        processors = os.sched_getaffinity(0)
        cores = len({_siblings(p) for p in processors})
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _cpu_quota(), thread_code.MAX_THREADS))


def _siblings(processor: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
    try:
        return path.read_text()
    except OSError:
        return str(processor)


def _cpu_quota() -> int:
    """Whole processors that the control group grants, at least one; unlimited when it does not."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return thread_code.MAX_THREADS


@cache
def pool_object() -> bytes:
    """The object file of the worker pool, which runs on every machine of this kind of system;
    empty where LLVM links objects, so that nobody asks for one without it."""
    return _compiled_pool(None) if links_elf() else b""


def provide_pool(data: bytes) -> None:
    """Takes the worker pool from an object file that `pool_object` gave, in this process or another
    one, unless there is one already. Raises CorruptFile."""
    _POOL.provide(data)


def _compiled_pool(sleep: str | None) -> bytes:
    from niello.backends.cpu.jit import cached_object

    return cached_object(thread_code.pool_text(triple(), sleep), select_target("baseline"))


class Runner:
    """A native run function, ready to be called by any Python thread.

    `code` is the loaded code that `address` belongs to; it lives as long as the runner.
    """

    __slots__ = ("_address", "_alone", "_code")

    def __init__(self, code: LoadedCode, name: str) -> None:
        self._code = code
        self._address = code.address(name)
        self._alone = RUN(self._address)

    def __call__(self, arguments: int, scratch: int, threads: int = 0) -> None:
        """Plays the function with `threads` threads (0: thread_count()) and waits for its end.

        `arguments` and `scratch` are addresses; concurrent calls need a scratch of their own.
        """
        threads = threads or thread_count()
        if threads == 1:
            self._alone(arguments, scratch, 0, 1, None)
        else:
            _POOL.run(self._address, arguments, scratch, threads)


class Pool:
    """The workers of this process. Runs go through `run`; everything else is set-up.

    `sleep` chooses how threads sleep (futex, condition), for tests; None is the system's best.
    """

    def __init__(self, sleep: str | None = None) -> None:
        self._sleep = sleep
        self._resizing = threading.Lock()
        self._code: LoadedCode | None = None
        self._dispatch: Any = None
        self._control = 0

    @property
    def workers(self) -> int:
        """Number of worker threads that are alive or starting."""
        return self._word(thread_code.ALIVE).value if self._control else 0

    def run(self, address: int, arguments: int, scratch: int, threads: int) -> None:
        """Plays the native function at `address` with `threads` >= 2 threads.

        Raises DeviceError when the system refuses to start the threads.
        """
        while self._dispatch is None or self._dispatch(address, arguments, scratch, threads):
            self._grow(threads)

    def shrink(self, threads: int) -> None:
        """Ends the workers beyond `threads`; runs that are under way finish first."""
        with self._resizing:
            if self._control and self._word(thread_code.READY).value > threads:
                self._retire(threads)

    def forget_workers(self) -> None:
        """After fork: the threads are gone, and what they left half done with them."""
        self._resizing = threading.Lock()
        if self._control:
            self._initialise()

    def provide(self, data: bytes) -> None:
        """Links the pool's code from an object file, unless it is there."""
        with self._resizing:
            if self._code is None:
                self._load(data)

    def _word(self, offset: int) -> ctypes.c_int32:
        return ctypes.c_int32.from_address(self._control + offset)

    def _load(self, data: bytes) -> None:
        code = load_code(data, thread_code.POOL_EXPORTS, _system_symbols())
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._code = code
        self._control = code.address("niello_control")
        self._retire_code = code.function("niello_retire", None, ctypes.c_int32)
        self._spin = code.function("niello_spin", None, ctypes.c_int64)
        self._initialise()
        self._dispatch = code.function(
            "niello_dispatch", ctypes.c_int32, pointer, pointer, pointer, number
        )

    def _initialise(self) -> None:
        assert self._code is not None
        ctypes.memset(self._control, 0, thread_code.CONTROL_BYTES)
        meet = ctypes.c_uint64.from_address(self._control + thread_code.BARRIER_FUNCTION)
        meet.value = self._code.address("niello_meet")
        self._word(thread_code.READY).value = self._word(thread_code.WANTED).value = 1
        mode = self._sleep or thread_code.sleeps_by(triple())
        if mode == "condition":
            system = ctypes.CDLL(None)
            system.pthread_mutex_init(ctypes.c_void_p(self._control + thread_code.MUTEX), None)
            system.pthread_cond_init(ctypes.c_void_p(self._control + thread_code.CONDITION), None)

    def _grow(self, threads: int) -> None:
        with self._resizing:
            if self._code is None:
                self._load(_compiled_pool(self._sleep))
            ready, wanted = self._word(thread_code.READY), self._word(thread_code.WANTED)
            if ready.value >= threads:
                return
            self._set_spins(threads)
            # Other runs go on meanwhile: a worker must know that it is wanted before it sees
            # one of them, and runs must not count on it before it has started.
            wanted.value = threads
            try:
                for number in range(ready.value, threads):
                    self._start(number)
                    ready.value = number + 1
            finally:
                wanted.value = ready.value

    def _start(self, number: int) -> None:
        slot = self._control + thread_code.SLOTS + 64 * number
        ctypes.c_uint64.from_address(slot).value = self._control
        ctypes.c_int64.from_address(slot + 8).value = number
        ctypes.c_int32.from_address(slot + 16).value = self._word(0).value
        alive = self._word(thread_code.ALIVE)
        alive.value += 1
        assert self._code is not None
        error = _start_thread(self._code.address("niello_worker"), slot)
        if error:
            alive.value -= 1
            raise DeviceError(
                "cpu",
                f"the system refuses to start worker thread {number}: {os.strerror(error)}",
                received=f"{alive.value} workers running",
                advice="Ask for fewer with set_threads or NIELLO_THREADS",
            )

    def _retire(self, threads: int) -> None:
        self._retire_code(threads)
        # The slots of the leaving workers are used again, so wait until they are gone.
        while self._word(thread_code.ALIVE).value > threads - 1:
            time.sleep(0)
        self._set_spins(threads)

    def _set_spins(self, threads: int) -> None:
        # More threads than cores: whoever spins keeps the one that it waits for from running.
        crowded = threads > usable_cores()
        per_second = 0.0 if crowded else self._pauses_per_second()
        run, idle = (int(per_second * RUN_SPIN_SECONDS), int(per_second * IDLE_SPIN_SECONDS))
        self._word(thread_code.WORKER_SPINS).value = idle
        self._word(thread_code.BARRIER_SPINS).value = run
        self._word(thread_code.FINISHED_SPINS).value = run

    def _pauses_per_second(self) -> float:
        best = math.inf
        for _ in range(3):
            start = time.perf_counter()
            self._spin(1000)
            best = min(best, time.perf_counter() - start)
        return 1000 / best


@cache
def _system_symbols() -> dict[str, int]:
    """Addresses of system functions that the linker does not find in the process by itself."""
    if sys.platform != "win32":
        return {}
    synch = ctypes.WinDLL("api-ms-win-core-synch-l1-2-0.dll")  # type: ignore[unreachable]
    kernel = ctypes.WinDLL("kernel32")
    functions = {
        "WaitOnAddress": synch.WaitOnAddress,
        "WakeByAddressAll": synch.WakeByAddressAll,
        "SwitchToThread": kernel.SwitchToThread,
    }
    return {n: ctypes.cast(f, ctypes.c_void_p).value or 0 for n, f in functions.items()}


def _start_thread(entry: int, argument: int) -> int:
    """Starts a detached system thread. Returns 0, or the number of the system's error."""
    if sys.platform == "win32":
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.CreateThread.restype = ctypes.c_void_p
        pointers = (ctypes.c_void_p(entry), ctypes.c_void_p(argument))
        handle = kernel.CreateThread(None, ctypes.c_size_t(0), *pointers, 0, None)
        if not handle:
            return ctypes.get_last_error()
        kernel.CloseHandle(ctypes.c_void_p(handle))
        return 0
    system = ctypes.CDLL(None)
    thread = ctypes.c_void_p()
    pointers = (ctypes.c_void_p(entry), ctypes.c_void_p(argument))
    # Signals are for Python's threads: workers inherit a mask that blocks those that can wait.
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - faults)
    try:
        error: int = system.pthread_create(ctypes.byref(thread), None, *pointers)
        if not error:
            system.pthread_detach(thread)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return error


_POOL = Pool()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _POOL.forget_workers())
