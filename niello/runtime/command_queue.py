"""CommandQueue: plays committed command buffers in order, on threads of its own.

One thread plays. Where the device works on after a play returns and can say when it is done
(`FencedDevice`, target.py), a second thread waits for that, so that the next buffer is queued on
the device while the last one runs.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from niello.core.errors import AttributeValueError, CommandError
from niello.runtime.device import opened
from niello.runtime.event import SharedEvent

if TYPE_CHECKING:
    from niello.runtime.command_buffer import CommandBuffer

EVENT_SECONDS = 60.0


class CommandQueue:
    """Plays command buffers on a device, in the order of their commits.

    `device` is a name, an opened device, or None for the default one. At most `max_in_flight` parts
    of buffers are unfinished: a further commit waits, which bounds the memory that they hold (2 is
    double buffering). `event_timeout` is how long, in seconds, an encoded wait waits for its event;
    None is without end. Raises BackendUnavailable and AttributeValueError.

    Example:
        >>> import niello as nl
        >>> with nl.CommandQueue("cpu", max_in_flight=2) as queue:
        ...     buffer = queue.command_buffer()
        ...     buffer.commit()
        ...     buffer.wait_until_completed()
        >>> buffer.status.value
        'completed'
    """

    def __init__(
        self,
        device: Any = None,
        *,
        max_in_flight: int = 64,
        event_timeout: float | None = EVENT_SECONDS,
    ) -> None:
        if max_in_flight < 1:
            raise AttributeValueError(
                "CommandQueue", "max_in_flight must be at least 1", received=max_in_flight
            )
        if event_timeout is not None and event_timeout < 0:
            raise AttributeValueError(
                "CommandQueue", "event_timeout is in seconds, from 0", received=event_timeout
            )
        self.device = opened(device)
        self.max_in_flight = max_in_flight
        self.event_timeout = event_timeout
        self._fence = getattr(self.device, "fence", None)
        self._threads: set[int] = set()
        self._player = self._thread("niello-queue")
        self._finisher = self._thread("niello-queue-finish") if self._fence else None
        self._changed = threading.Condition()
        self._in_flight = 0
        self._closed = False

    def _thread(self, name: str) -> ThreadPoolExecutor:
        threads = self._threads  # not self: a queue that nobody holds ends its threads
        return ThreadPoolExecutor(1, name, lambda: threads.add(threading.get_ident()))

    def command_buffer(self, **options: Any) -> CommandBuffer:
        """A new CommandBuffer of this queue, with the options of its class."""
        from niello.runtime.command_buffer import CommandBuffer

        return CommandBuffer(self, **options)

    @property
    def in_flight(self) -> int:
        """Parts that were committed and are not finished."""
        with self._changed:
            return self._in_flight

    def drain(self) -> None:
        """Block until everything that was committed is done. Raises CommandError in a handler."""
        if self.is_own_thread() and self.in_flight:
            raise CommandError(
                "drain",
                "a handler on the queue's own thread cannot wait for work of that queue",
                received=f"{self.in_flight} parts in flight",
                advice="Wait on another thread",
            )
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight == 0)

    def close(self) -> None:
        """Take no more work, play what was committed, and end the threads.

        In a handler it does not wait: the threads end when the work is done.
        """
        with self._changed:
            self._closed = True
        if self.is_own_thread():
            return
        self._player.shutdown()
        if self._finisher is not None:
            self._finisher.shutdown()

    def __enter__(self) -> CommandQueue:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<CommandQueue of {self.device.name}: {self.in_flight} in flight>"

    # --- for command buffers
    def is_own_thread(self) -> bool:
        """Whether this is called by one of the queue's threads, as handlers are."""
        return threading.get_ident() in self._threads

    def check_open(self, asked: str) -> None:
        """Raises CommandError when the queue takes no more work."""
        if self._closed:
            raise CommandError(
                asked,
                "the command queue was closed",
                received=repr(self),
                advice="Commit before close, or make a new CommandQueue",
            )

    def submit(self, buffer: CommandBuffer, steps: deque[Callable[[], None]], last: bool) -> None:
        """Play the steps of a buffer when their turn comes; waits for a place in flight."""
        with self._changed:
            # A place is given back by the queue's own threads, so those never wait for one.
            if not self.is_own_thread():
                self._changed.wait_for(lambda: self._in_flight < self.max_in_flight)
            self._in_flight += 1
        try:
            self._player.submit(self._play, buffer, steps, last)
        except BaseException:
            self._release()
            raise

    def signal(self, buffer: CommandBuffer, event: SharedEvent, value: int) -> None:
        """Signal an event when what was played so far is done; the player does not wait."""
        if self._fence is None or self._finisher is None:
            self.device.synchronize()
            event.signal(value)
            return
        fence = self._fence()

        def reached() -> None:
            fence()
            if buffer.error is None:
                event.signal(value)

        self._finisher.submit(_guarded, buffer, reached)

    def _play(self, buffer: CommandBuffer, steps: deque[Callable[[], None]], last: bool) -> None:
        buffer.begin()
        # Each step is dropped when it has been played, and with it the memory that it holds.
        while steps and buffer.error is None:
            _guarded(buffer, steps.popleft())
        steps.clear()
        if self._fence is None or self._finisher is None:
            _guarded(buffer, self.device.synchronize)
            self._finish(buffer, last)
            return
        waits: list[Callable[[], None]] = []
        _guarded(buffer, lambda: waits.append(self._fence()))  # type: ignore[misc]
        self._finisher.submit(self._finish, buffer, last, *waits)

    def _finish(
        self, buffer: CommandBuffer, last: bool, fence: Callable[[], None] | None = None
    ) -> None:
        if fence is not None:
            _guarded(buffer, fence)
        self._release()
        if last:
            buffer.complete()

    def _release(self) -> None:
        with self._changed:
            self._in_flight -= 1
            self._changed.notify_all()


def _guarded(buffer: CommandBuffer, step: Callable[[], None]) -> None:
    try:
        step()
    except BaseException as error:
        buffer.fail(error)
