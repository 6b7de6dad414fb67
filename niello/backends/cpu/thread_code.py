"""LLVM IR text of the worker pool and of the barrier between commands.

Waiting is the same everywhere: spin on a word a bounded number of times, giving the processor to
other threads now and then, then sleep in the system until the word changes. Who changes a word
looks at the number of sleepers and wakes them only when there are some. Sleeping is a futex on
Linux, WaitOnAddress on Windows, and a condition variable elsewhere.

Memory layouts, as offsets in bytes; words that different threads write lie on different cache
lines:

    barrier   0 arrived   64 generation   68 sleepers   72 spins   80 function   128 mutex
              256 condition
    control   0 word (run number, threads)   8 function   16 arguments   24 scratch
              64 sleepers   68 spins   72 ready   76 wanted   128 pending
              192 finished   196 sleepers   200 spins   256 lock   260 alive
              1024 barrier   4096 slots of 64: control, thread, word when it started
"""

from __future__ import annotations

# Raise the number whenever threads.py needs other code than before: packages hold the pool's.
POOL_VERSION = 1
MAX_THREADS = 1024
SLOTS = 4096
CONTROL_BYTES = SLOTS + 64 * MAX_THREADS

WORKER_SPINS = 68
BARRIER_SPINS = 1024 + 72
BARRIER_FUNCTION = 1024 + 80
FINISHED_SPINS = 200
READY = 72  # threads that runs may use: their workers have started
WANTED = 76  # threads that are to stay: workers from this number on leave
ALIVE = 260
MUTEX = 1024 + 128
CONDITION = 1024 + 256

POOL_EXPORTS = (
    "niello_control",
    "niello_dispatch",
    "niello_meet",
    "niello_retire",
    "niello_spin",
    "niello_worker",
)

# What each program carries of the barrier: a call through the pool's memory, so that stored
# machine code does not depend on how a system puts threads to sleep.
BARRIER = """
define internal void @niello_barrier(
    ptr %barrier, i64 %thread, i64 %threads) alwaysinline nounwind {
entry:
  %several = icmp ugt i64 %threads, 1
  br i1 %several, label %meet, label %out
meet:
  %at = getelementptr i8, ptr %barrier, i64 80
  %function = load ptr, ptr %at, align 8
  call void %function(ptr %barrier, i64 %threads)
  br label %out
out:
  ret void
}
"""

_FUTEX_NUMBER = {"x86_64": 202, "aarch64": 98}


def sleeps_by(triple: str) -> str:
    """How threads sleep on a target: futex, address (Windows) or condition (POSIX)."""
    if "linux" in triple and triple.split("-", 1)[0] in _FUTEX_NUMBER:
        return "futex"
    return "address" if "windows" in triple else "condition"


def pool_text(triple: str, sleep: str | None = None) -> str:
    """IR of the worker pool: the functions in POOL_EXPORTS and the memory niello_control.

    `sleep` overrides how threads sleep, for tests.
    """
    control = f"@niello_control = global [{CONTROL_BYTES} x i8] zeroinitializer, align 128\n"
    waiting = _waiting(triple, sleep or sleeps_by(triple))
    return control + waiting + _MEET + _LOCK + _DISPATCH + _WORKER


def _waiting(triple: str, sleep: str) -> str:
    architecture = triple.split("-", 1)[0]
    if architecture == "x86_64":
        declare, pause = ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()")
    else:
        declare = "declare void @llvm.aarch64.hint(i32)"
        pause = "call void @llvm.aarch64.hint(i32 1)"
    if sleep == "futex":
        primitives = _FUTEX.replace("NUMBER", str(_FUTEX_NUMBER[architecture]))
    else:
        primitives = _ADDRESS if sleep == "address" else _CONDITION
    return declare + "\n" + primitives + _AWAIT.replace("PAUSE", pause)


_FUTEX = """
declare i64 @syscall(i64, ...)
declare i32 @sched_yield()

define internal void @niello_yield() noinline nounwind {
  %r = call i32 @sched_yield()
  ret void
}

define internal void @niello_sleep(ptr %word, i32 %seen, ptr %mutex) noinline nounwind {
  %expected = zext i32 %seen to i64
  %r = call i64 (i64, ...) @syscall(
      i64 NUMBER, ptr %word, i64 128, i64 %expected, ptr null, ptr null, i64 0)
  ret void
}

define internal void @niello_wake(ptr %word, ptr %mutex) noinline nounwind {
  %r = call i64 (i64, ...) @syscall(
      i64 NUMBER, ptr %word, i64 129, i64 2147483647, ptr null, ptr null, i64 0)
  ret void
}
"""

_ADDRESS = """
declare i32 @WaitOnAddress(ptr, ptr, i64, i32)
declare void @WakeByAddressAll(ptr)
declare i32 @SwitchToThread()

define internal void @niello_yield() noinline nounwind {
  %r = call i32 @SwitchToThread()
  ret void
}

define internal void @niello_sleep(ptr %word, i32 %seen, ptr %mutex) noinline nounwind {
  %expected = alloca i32, align 4
  store i32 %seen, ptr %expected, align 4
  %r = call i32 @WaitOnAddress(ptr %word, ptr %expected, i64 4, i32 -1)
  ret void
}

define internal void @niello_wake(ptr %word, ptr %mutex) noinline nounwind {
  call void @WakeByAddressAll(ptr %word)
  ret void
}
"""

_CONDITION = """
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @sched_yield()

define internal void @niello_yield() noinline nounwind {
  %r = call i32 @sched_yield()
  ret void
}

define internal void @niello_sleep(ptr %word, i32 %seen, ptr %mutex) noinline nounwind {
entry:
  %condition = getelementptr i8, ptr %mutex, i64 128
  %l = call i32 @pthread_mutex_lock(ptr %mutex)
  br label %check
check:
  %now = load atomic i32, ptr %word seq_cst, align 4
  %same = icmp eq i32 %now, %seen
  br i1 %same, label %wait, label %out
wait:
  %w = call i32 @pthread_cond_wait(ptr %condition, ptr %mutex)
  br label %check
out:
  %u = call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}

define internal void @niello_wake(ptr %word, ptr %mutex) noinline nounwind {
  %condition = getelementptr i8, ptr %mutex, i64 128
  %l = call i32 @pthread_mutex_lock(ptr %mutex)
  %b = call i32 @pthread_cond_broadcast(ptr %condition)
  %u = call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}
"""

# The sleeper counts itself before it looks at the word for the last time, and the waker changes
# the word before it looks at the count, all in one total order: one of the two sees the other.
_AWAIT = """
define internal i32 @niello_await(
    ptr %word, i32 %seen, ptr %sleepers, i32 %spins, ptr %mutex) noinline nounwind {
entry:
  br label %spin
spin:
  %n = phi i32 [ 0, %entry ], [ %n.next, %again ], [ %n.next, %yield ]
  %now = load atomic i32, ptr %word acquire, align 4
  %changed = icmp ne i32 %now, %seen
  br i1 %changed, label %out, label %more
more:
  %tired = icmp uge i32 %n, %spins
  br i1 %tired, label %announce, label %again
again:
  PAUSE
  %n.next = add i32 %n, 1
  %low = and i32 %n.next, 127
  %offer = icmp eq i32 %low, 0
  br i1 %offer, label %yield, label %spin
yield:
  call void @niello_yield()
  br label %spin
announce:
  %count = atomicrmw add ptr %sleepers, i32 1 seq_cst, align 4
  br label %check
check:
  %late = load atomic i32, ptr %word seq_cst, align 4
  %woken = icmp ne i32 %late, %seen
  br i1 %woken, label %leave, label %sleep
sleep:
  call void @niello_sleep(ptr %word, i32 %seen, ptr %mutex)
  br label %check
leave:
  %left = atomicrmw sub ptr %sleepers, i32 1 seq_cst, align 4
  br label %out
out:
  %value = phi i32 [ %now, %spin ], [ %late, %leave ]
  ret i32 %value
}

define internal void @niello_wake_sleepers(
    ptr %word, ptr %sleepers, ptr %mutex) alwaysinline nounwind {
entry:
  %count = load atomic i32, ptr %sleepers seq_cst, align 4
  %none = icmp eq i32 %count, 0
  br i1 %none, label %out, label %wake
wake:
  call void @niello_wake(ptr %word, ptr %mutex)
  br label %out
out:
  ret void
}

define void @niello_spin(i64 %n) nounwind {
entry:
  br label %spin
spin:
  %i = phi i64 [ 0, %entry ], [ %i.next, %spin ]
  PAUSE
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %n
  br i1 %more, label %spin, label %out
out:
  ret void
}
"""

_MEET = """
define void @niello_meet(ptr %barrier, i64 %threads) nounwind {
entry:
  %generation = getelementptr i8, ptr %barrier, i64 64
  %sleepers = getelementptr i8, ptr %barrier, i64 68
  %mutex = getelementptr i8, ptr %barrier, i64 128
  %seen = load atomic i32, ptr %generation acquire, align 4
  %before = atomicrmw add ptr %barrier, i32 1 acq_rel, align 4
  %count = trunc i64 %threads to i32
  %arrived = add i32 %before, 1
  %last = icmp eq i32 %arrived, %count
  br i1 %last, label %release, label %wait
release:
  store atomic i32 0, ptr %barrier monotonic, align 4
  %next = add i32 %seen, 1
  %old = atomicrmw xchg ptr %generation, i32 %next seq_cst, align 4
  call void @niello_wake_sleepers(ptr %generation, ptr %sleepers, ptr %mutex)
  ret void
wait:
  %limit = getelementptr i8, ptr %barrier, i64 72
  %spins = load i32, ptr %limit, align 4
  %now = call i32 @niello_await(ptr %generation, i32 %seen, ptr %sleepers, i32 %spins, ptr %mutex)
  ret void
}
"""

# A lock word is 0 free, 1 held, 2 held and somebody may be asleep on it.
_LOCK = """
define internal void @niello_lock(ptr %word, ptr %mutex) alwaysinline nounwind {
entry:
  %first = cmpxchg ptr %word, i32 0, i32 1 acquire monotonic, align 4
  %free = extractvalue { i32, i1 } %first, 1
  br i1 %free, label %out, label %contend
contend:
  %was = atomicrmw xchg ptr %word, i32 2 seq_cst, align 4
  %mine = icmp eq i32 %was, 0
  br i1 %mine, label %out, label %sleep
sleep:
  call void @niello_sleep(ptr %word, i32 2, ptr %mutex)
  br label %contend
out:
  ret void
}

define internal void @niello_unlock(ptr %word, ptr %mutex) alwaysinline nounwind {
entry:
  %was = atomicrmw xchg ptr %word, i32 0 seq_cst, align 4
  %wanted = icmp eq i32 %was, 2
  br i1 %wanted, label %wake, label %out
wake:
  call void @niello_wake(ptr %word, ptr %mutex)
  br label %out
out:
  ret void
}
"""

_DISPATCH = """
define internal void @niello_post(ptr %control, i32 %threads) alwaysinline nounwind {
  %mutex = getelementptr i8, ptr %control, i64 1152
  %sleepers = getelementptr i8, ptr %control, i64 64
  %old = load atomic i32, ptr %control monotonic, align 4
  %number = and i32 %old, -4096
  %bumped = add i32 %number, 4096
  %word = or i32 %bumped, %threads
  %was = atomicrmw xchg ptr %control, i32 %word seq_cst, align 4
  call void @niello_wake_sleepers(ptr %control, ptr %sleepers, ptr %mutex)
  ret void
}

define i32 @niello_dispatch(ptr %function, ptr %arguments, ptr %scratch, i64 %threads) nounwind {
entry:
  %mutex = getelementptr i8, ptr @niello_control, i64 1152
  %lock = getelementptr i8, ptr @niello_control, i64 256
  call void @niello_lock(ptr %lock, ptr %mutex)
  %ready.at = getelementptr i8, ptr @niello_control, i64 72
  %ready = load atomic i32, ptr %ready.at acquire, align 4
  %count = trunc i64 %threads to i32
  %enough = icmp uge i32 %ready, %count
  br i1 %enough, label %play, label %refuse
refuse:
  call void @niello_unlock(ptr %lock, ptr %mutex)
  ret i32 1
play:
  %function.at = getelementptr i8, ptr @niello_control, i64 8
  %arguments.at = getelementptr i8, ptr @niello_control, i64 16
  %scratch.at = getelementptr i8, ptr @niello_control, i64 24
  %pending = getelementptr i8, ptr @niello_control, i64 128
  %finished = getelementptr i8, ptr @niello_control, i64 192
  %sleepers = getelementptr i8, ptr @niello_control, i64 196
  %spins.at = getelementptr i8, ptr @niello_control, i64 200
  %barrier = getelementptr i8, ptr @niello_control, i64 1024
  store ptr %function, ptr %function.at, align 8
  store ptr %arguments, ptr %arguments.at, align 8
  store ptr %scratch, ptr %scratch.at, align 8
  %workers = sub i32 %count, 1
  store atomic i32 %workers, ptr %pending monotonic, align 4
  %seen = load atomic i32, ptr %finished monotonic, align 4
  call void @niello_post(ptr @niello_control, i32 %count)
  call void %function(ptr %arguments, ptr %scratch, i64 0, i64 %threads, ptr %barrier)
  %spins = load i32, ptr %spins.at, align 4
  %now = call i32 @niello_await(ptr %finished, i32 %seen, ptr %sleepers, i32 %spins, ptr %mutex)
  call void @niello_unlock(ptr %lock, ptr %mutex)
  ret i32 0
}

define void @niello_retire(i32 %limit) nounwind {
  %mutex = getelementptr i8, ptr @niello_control, i64 1152
  %lock = getelementptr i8, ptr @niello_control, i64 256
  call void @niello_lock(ptr %lock, ptr %mutex)
  %ready.at = getelementptr i8, ptr @niello_control, i64 72
  %wanted.at = getelementptr i8, ptr @niello_control, i64 76
  store atomic i32 %limit, ptr %ready.at seq_cst, align 4
  store atomic i32 %limit, ptr %wanted.at seq_cst, align 4
  call void @niello_post(ptr @niello_control, i32 0)
  call void @niello_unlock(ptr %lock, ptr %mutex)
  ret void
}
"""

# A worker that a run does not count learns it from the word itself and touches nothing else: the
# next run may already be writing its function and arguments.
_WORKER = """
define ptr @niello_worker(ptr %slot) nounwind {
entry:
  %control = load ptr, ptr %slot, align 8
  %thread.at = getelementptr i8, ptr %slot, i64 8
  %thread = load i64, ptr %thread.at, align 8
  %start.at = getelementptr i8, ptr %slot, i64 16
  %start = load i32, ptr %start.at, align 8
  %number = trunc i64 %thread to i32
  %sleepers = getelementptr i8, ptr %control, i64 64
  %spins.at = getelementptr i8, ptr %control, i64 68
  %wanted.at = getelementptr i8, ptr %control, i64 76
  %pending = getelementptr i8, ptr %control, i64 128
  %finished = getelementptr i8, ptr %control, i64 192
  %waiting = getelementptr i8, ptr %control, i64 196
  %alive = getelementptr i8, ptr %control, i64 260
  %barrier = getelementptr i8, ptr %control, i64 1024
  %mutex = getelementptr i8, ptr %control, i64 1152
  br label %idle
idle:
  %seen = phi i32 [ %start, %entry ], [ %word, %check ], [ %word, %play ], [ %word, %last ]
  %spins = load atomic i32, ptr %spins.at monotonic, align 4
  %word = call i32 @niello_await(ptr %control, i32 %seen, ptr %sleepers, i32 %spins, ptr %mutex)
  %wanted = load atomic i32, ptr %wanted.at seq_cst, align 4
  %surplus = icmp uge i32 %number, %wanted
  br i1 %surplus, label %leave, label %check
check:
  %threads = and i32 %word, 4095
  %counted = icmp ult i32 %number, %threads
  br i1 %counted, label %play, label %idle
play:
  %function.at = getelementptr i8, ptr %control, i64 8
  %arguments.at = getelementptr i8, ptr %control, i64 16
  %scratch.at = getelementptr i8, ptr %control, i64 24
  %function = load ptr, ptr %function.at, align 8
  %arguments = load ptr, ptr %arguments.at, align 8
  %scratch = load ptr, ptr %scratch.at, align 8
  %all = zext i32 %threads to i64
  call void %function(ptr %arguments, ptr %scratch, i64 %thread, i64 %all, ptr %barrier)
  %before = atomicrmw sub ptr %pending, i32 1 acq_rel, align 4
  %none = icmp eq i32 %before, 1
  br i1 %none, label %last, label %idle
last:
  %old = atomicrmw add ptr %finished, i32 1 seq_cst, align 4
  call void @niello_wake_sleepers(ptr %finished, ptr %waiting, ptr %mutex)
  br label %idle
leave:
  %gone = atomicrmw sub ptr %alive, i32 1 seq_cst, align 4
  ret ptr null
}
"""
