"""Calling what users registered, on threads that must go on whatever it does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any


def deliver(handler: Callable[..., Any], *arguments: Any) -> None:
    """Call a handler. What it raises goes to `threading.excepthook`, which prints it: nobody waits
    for the result of a handler, and later handlers must still be called."""
    try:
        handler(*arguments)
    except BaseException:
        kind, error, trace = sys.exc_info()
        report = threading.ExceptHookArgs((kind, error, trace, threading.current_thread()))
        threading.excepthook(report)
