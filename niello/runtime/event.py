"""SharedEvent: a counter that work on devices and the host wait for and raise."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable

from niello.core.errors import AttributeValueError, EventTimeout
from niello.runtime.handlers import deliver

EventHandler = Callable[["SharedEvent", int], None]
MOST = (1 << 64) - 1


class SharedEvent:
    """A 64-bit value that only grows. Command buffers and the host signal it and wait for it.

    Signalling a value satisfies all waits for that value or a smaller one. All methods are thread
    safe.

    Example:
        >>> import niello as nl
        >>> event = nl.SharedEvent()
        >>> event.notify(2, lambda event, value: print("reached", value))
        >>> event.signal(2)
        reached 2
        >>> event.wait(1), event.value
        (2, 2)
    """

    def __init__(self, value: int = 0, *, name: str = "event") -> None:
        check_value("SharedEvent", value)
        self.name = name
        self._value = value
        self._changed = threading.Condition()
        # A heap by value; the number keeps handlers of one value in the order of their coming.
        self._handlers: list[tuple[int, int, EventHandler]] = []
        self._count = 0

    @property
    def value(self) -> int:
        """The latest signalled value."""
        with self._changed:
            return self._value

    def signal(self, value: int) -> None:
        """Raise the event to `value` and wake everything that waits for it.

        Raises AttributeValueError for a value below the current one.
        """
        check_value("SharedEvent.signal", value)
        due: list[tuple[int, EventHandler]] = []
        with self._changed:
            if value < self._value:
                raise AttributeValueError(
                    "SharedEvent.signal",
                    f"the value of an event only grows; {self.name} is at {self._value}",
                    received=value,
                    advice="Signal a larger value, or use another event",
                )
            self._value = value
            while self._handlers and self._handlers[0][0] <= value:
                wanted, _, handler = heapq.heappop(self._handlers)
                due.append((wanted, handler))
            self._changed.notify_all()
        for wanted, handler in due:
            deliver(handler, self, wanted)

    def wait(self, value: int, timeout: float | None = None) -> int:
        """Block until the event has reached `value`; returns what it is by then.

        `timeout` is in seconds, None waits without end. Raises EventTimeout.
        """
        check_value("SharedEvent.wait", value)
        with self._changed:
            if not self._changed.wait_for(lambda: self._value >= value, timeout):
                raise EventTimeout(
                    "SharedEvent.wait",
                    f"{self.name} did not reach {value} within {timeout:g} seconds",
                    received=f"value {self._value}",
                    advice="Signal the event before something waits for it, or wait longer",
                    value=value,
                    reached=self._value,
                    timeout=timeout,
                )
            return self._value

    def notify(self, value: int, handler: EventHandler) -> None:
        """Call `handler(event, value)` once, when the event reaches `value`; at once if it has.

        The handler runs on the thread that signals.
        """
        check_value("SharedEvent.notify", value)
        with self._changed:
            reached = self._value >= value
            if not reached:
                heapq.heappush(self._handlers, (value, self._count, handler))
                self._count += 1
        if reached:
            deliver(handler, self, value)

    def __repr__(self) -> str:
        return f"<SharedEvent {self.name!r}: {self.value}>"


def check_value(asked: str, value: int) -> None:
    """Refuse what is no value of an event."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST:
        raise AttributeValueError(
            asked, "the value of an event is an integer from 0 to 2**64 - 1", received=repr(value)
        )
