"""Command queues and command buffers: work is recorded first and played later, in order.

A buffer is encoded, committed, and played by its queue. The results of `encode` are there at once
and hold their values when the buffer is completed; they can be inputs of later encodes. Work is
divided into parts: `commit_and_continue` ends a part and starts it, `commit` ends the last one.
"""

from __future__ import annotations

import enum
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from niello.core.errors import AttributeValueError, CommandError, DeviceError, EventTimeout
from niello.runtime.command_queue import CommandQueue
from niello.runtime.event import SharedEvent, check_value
from niello.runtime.handlers import deliver
from niello.runtime.predicate import Predicate

CompletedHandler = Callable[["CommandBuffer", BaseException | None], None]
ScheduledHandler = Callable[["CommandBuffer"], None]


class Work(Protocol):
    """A run whose inputs are checked and whose results have memory; it can be played once."""

    results: Any

    def play(self, predicate: Predicate | None) -> None:
        """Run it, or queue it on the device, unless the predicate is zero."""


class Encodable(Protocol):
    """What a command buffer encodes: an Executable."""

    device: Any

    @property
    def kernel_count(self) -> int:
        """Kernels of one run."""

    @property
    def bytes_moved(self) -> int:
        """Bytes that the commands of one run read and write."""

    def prepare(self, inputs: Any, results: Sequence[Any] | None, *, zeroed: bool) -> Work:
        """Check inputs and results and give the results memory, filled with zeros if asked."""


class CommandStatus(enum.Enum):
    """Where a command buffer is on its way."""

    ENCODING = "encoding"  # takes work; parts of it may be running (commit_and_continue)
    COMMITTED = "committed"  # takes no more; waits for its turn
    SCHEDULED = "scheduled"  # committed, and its work is being played
    COMPLETED = "completed"  # all of it is done
    FAILED = "failed"  # it ended with `error`; what came after the failure did not run


class CommandBuffer:
    """Work for a queue's device, recorded by `encode` and played after `commit`.

    `predicate`, when set, applies to every encode that names none. With `commit_after_kernels` or
    `commit_after_bytes` (bytes that the encoded commands read and write) the buffer commits and
    continues by itself when that much has been encoded.

    A buffer is encoded by one thread at a time; waiting and reading are safe from any thread.

    Example:
        >>> import numpy as np
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> x = graph.placeholder((3,), name="x")
        >>> double = graph.compile({x: (3,)}, [x * 2.0], device="cpu")
        >>> buffer = nl.CommandBuffer(nl.CommandQueue("cpu"))
        >>> (once,) = buffer.encode(double, [np.ones(3, np.float32)])
        >>> (twice,) = buffer.encode(double, [once])
        >>> buffer.commit()
        >>> buffer.wait_until_completed()
        >>> twice.tolist()
        [4.0, 4.0, 4.0]
    """

    def __init__(
        self,
        queue: CommandQueue,
        *,
        commit_after_kernels: int | None = None,
        commit_after_bytes: int | None = None,
    ) -> None:
        for what, limit in (
            ("commit_after_kernels", commit_after_kernels),
            ("commit_after_bytes", commit_after_bytes),
        ):
            if limit is not None and limit < 1:
                raise AttributeValueError(
                    "CommandBuffer", f"{what} must be at least 1", received=limit
                )
        self.queue = queue
        self.predicate: Predicate | None = None
        self.error: BaseException | None = None
        self._most = (commit_after_kernels, commit_after_bytes)
        self._encoded = [0, 0]
        self._steps: deque[Callable[[], None]] = deque()
        self._status = CommandStatus.ENCODING
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._started = False
        self._on_scheduled: list[ScheduledHandler] = []
        self._on_completed: list[CompletedHandler] = []

    @property
    def status(self) -> CommandStatus:
        """Where the buffer is on its way."""
        with self._lock:
            return self._status

    # --- recording
    def encode(
        self,
        executable: Encodable,
        inputs: Any = (),
        results: Sequence[Any] | None = None,
        *,
        predicate: Predicate | None = None,
    ) -> Any:
        """Record a run of an executable; returns its results, valid when the buffer is completed.

        Inputs and results are those of `Executable.run`. Arrays are read in place where `run` reads
        them in place: leave them unchanged until then. With a predicate that is zero nothing is
        written: results that the caller gave keep their contents, others are zeros.

        Raises CommandError after `commit`, DeviceError for an executable of another device, and
        what `run` raises for inputs that do not fit; the buffer stays as it was.
        """
        self._recording("encode")
        if executable.device is not self.queue.device:
            raise DeviceError(
                "encode",
                f"the queue belongs to {self.queue.device.name}",
                received=f"an executable for {executable.device.name}",
                advice="Compile for the device of the queue",
            )
        chosen = self.predicate if predicate is None else predicate
        if chosen is not None:
            chosen.check_device(self.queue.device)
        work = executable.prepare(inputs, results, zeroed=chosen is not None)
        self._steps.append(lambda: work.play(chosen))
        self._encoded[0] += executable.kernel_count
        self._encoded[1] += executable.bytes_moved
        if any(m is not None and n >= m for n, m in zip(self._encoded, self._most, strict=True)):
            self.commit_and_continue()
        return work.results

    def encode_signal(self, event: SharedEvent, value: int) -> None:
        """Record: raise the event to `value` when everything encoded before is done.

        A buffer that has failed by then does not signal.
        """
        self._recording("encode_signal")
        check_value("encode_signal", value)
        self._steps.append(lambda: self.queue.signal(self, event, value))

    def encode_wait(self, event: SharedEvent, value: int, timeout: float | None = None) -> None:
        """Record: what is encoded after this starts when the event has reached `value`.

        The whole queue waits. `timeout` in seconds; None is the queue's `event_timeout`. When it
        passes, the buffer fails with EventTimeout.
        """
        self._recording("encode_wait")
        check_value("encode_wait", value)
        limit = self.queue.event_timeout if timeout is None else timeout
        self._steps.append(lambda: _await(event, value, limit))

    def add_scheduled_handler(self, handler: ScheduledHandler) -> None:
        """Call `handler(command_buffer)` when the buffer's first work starts.

        On the queue's thread; must be added before `commit`.
        """
        self._recording("add_scheduled_handler")
        self._on_scheduled.append(handler)

    def add_completed_handler(self, handler: CompletedHandler) -> None:
        """Call `handler(command_buffer, error)` when the buffer is done; error is None if all went
        well.

        On a thread of the queue, before `wait_until_completed` returns; must be added before
        `commit`.
        """
        self._recording("add_completed_handler")
        self._on_completed.append(handler)

    def _recording(self, asked: str) -> None:
        if self._status is not CommandStatus.ENCODING:
            raise CommandError(
                asked,
                "the command buffer was committed",
                received=f"a buffer that is {self.status.value}",
                advice="Encode into a new CommandBuffer of the queue, before commit",
            )

    # --- playing
    def commit(self) -> None:
        """Hand what was encoded to the queue and take no more.

        Waits while the queue has `max_in_flight` unfinished parts. Raises CommandError when it was
        committed before, or the queue is closed.
        """
        self._recording("commit")
        self.queue.check_open("commit")
        with self._lock:
            self._status = CommandStatus.COMMITTED
        self._hand_over(last=True)

    def commit_and_continue(self) -> None:
        """Start what was encoded so far; encoding goes on in this buffer. Waits like `commit`.

        When an earlier part fails, the later ones do not run.
        """
        self._recording("commit_and_continue")
        self.queue.check_open("commit_and_continue")
        if self._steps:
            self._hand_over(last=False)

    def _hand_over(self, *, last: bool) -> None:
        steps, self._steps = self._steps, deque()
        self._encoded = [0, 0]
        self.queue.submit(self, steps, last)

    def wait_until_completed(self, timeout: float | None = None) -> None:
        """Block until all of the buffer is done and its handlers were called.

        Raises the error that the buffer failed with; CommandError before `commit` and in handlers
        of the same queue, which would wait for themselves; EventTimeout after `timeout` seconds.
        """
        if self.status is CommandStatus.ENCODING:
            raise CommandError(
                "wait_until_completed",
                "the command buffer was not committed, so it would never complete",
                received="a buffer that is encoding",
                advice="Call commit() first",
            )
        if not self._done.is_set() and self.queue.is_own_thread():
            raise CommandError(
                "wait_until_completed",
                "a handler on the queue's own thread cannot wait for work of that queue",
                received=f"a buffer that is {self.status.value}",
                advice="Wait on another thread, or add a completed handler",
            )
        if not self._done.wait(timeout):
            raise EventTimeout(
                "wait_until_completed",
                f"the command buffer was not done within {timeout:g} seconds",
                received=f"a buffer that is {self.status.value}",
                advice="Wait longer, or look for an event that nobody signals",
                timeout=timeout,
            )
        if self.error is not None:
            raise self.error

    # --- what the queue says
    def begin(self) -> None:
        """The queue starts a part."""
        if self._started:
            return
        self._started = True
        self._advance(CommandStatus.SCHEDULED)
        for handler in self._on_scheduled:
            deliver(handler, self)

    def fail(self, error: BaseException) -> None:
        """The first failure counts; what follows is not played."""
        with self._lock:
            if self.error is None:
                self.error = error

    def complete(self) -> None:
        """The queue has finished the last part."""
        failed = self.error is not None
        with self._lock:
            self._status = CommandStatus.FAILED if failed else CommandStatus.COMPLETED
        for handler in self._on_completed:
            deliver(handler, self, self.error)
        self._done.set()

    def _advance(self, status: CommandStatus) -> None:
        with self._lock:
            if self._status is CommandStatus.COMMITTED:
                self._status = status

    def __repr__(self) -> str:
        return f"<CommandBuffer of {self.queue.device.name}: {self.status.value}>"


def _await(event: SharedEvent, value: int, timeout: float | None) -> None:
    try:
        event.wait(value, timeout)
    except EventTimeout as error:
        error.asked = "encode_wait"
        raise
