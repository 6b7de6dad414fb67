"""Executions in flight: the next one is prepared while the last one runs.

`InFlight` plays executions in order on a thread of its own and lets the caller run ahead by a
bounded number. With a depth of two this is double buffering: the result buffers of an execution
are drawn from the device's pool when it starts, and the set that the caller has dropped comes
round again, so a loop holds `depth` sets of results and no more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from niello.core.errors import AttributeValueError, DeviceError

Result = TypeVar("Result")


class InFlight(Generic[Result]):
    """At most `depth` unfinished executions of `run`, played in the order of submission.

    Example:
        >>> with InFlight(lambda x: x * x, depth=2) as queue:
        ...     pending = [queue.submit(i) for i in range(3)]
        ...     [p.result() for p in pending]
        [0, 1, 4]
    """

    def __init__(self, run: Callable[..., Result], depth: int = 2) -> None:
        if depth < 1:
            raise AttributeValueError("InFlight", "depth must be at least 1", received=depth)
        self.depth = depth
        self._run = run
        self._places = threading.BoundedSemaphore(depth)
        self._player = ThreadPoolExecutor(max_workers=1, thread_name_prefix="niello-in-flight")
        self._closed = False

    def submit(
        self,
        *arguments: Any,
        completion_handler: Callable[[Future[Result]], None] | None = None,
        **options: Any,
    ) -> Future[Result]:
        """Queues an execution of `run(*arguments, **options)`; waits while `depth` are unfinished.

        The future's `result()` gives what `run` returned, or raises what it raised.
        `completion_handler` is called with the future, on the playing thread, when it is done.
        """
        self._places.acquire()
        try:
            if self._closed:
                raise DeviceError(
                    "InFlight.submit", "the queue was closed", received=f"depth {self.depth}"
                )
            future = self._player.submit(self._play, arguments, options)
        except BaseException:
            self._places.release()
            raise
        if completion_handler is not None:
            future.add_done_callback(completion_handler)
        return future

    def drain(self) -> None:
        """Waits until everything that was submitted is done."""
        for _ in range(self.depth):
            self._places.acquire()
        for _ in range(self.depth):
            self._places.release()

    def close(self) -> None:
        """Waits for what was submitted and takes no more."""
        self._closed = True
        self._player.shutdown(wait=True)

    def __enter__(self) -> InFlight[Result]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _play(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Result:
        try:
            return self._run(*arguments, **options)
        finally:
            self._places.release()
