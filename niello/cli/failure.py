"""One clear sentence instead of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from niello import errors

BAD_INPUT = 2


@contextmanager
def one_sentence(traceback: bool) -> Iterator[None]:
    """Errors that the user can mend end the command with their sentence and exit status 2."""
    try:
        yield
    except (errors.NielloError, OSError, ModuleNotFoundError) as error:
        if traceback or isinstance(error, errors.CompilerBug):
            raise
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"[bold red]error:[/] {_plain(sentence(error))}"
        )
        sys.exit(BAD_INPUT)


def sentence(error: BaseException) -> str:
    """What happened, and to which file or module."""
    if isinstance(error, ModuleNotFoundError):
        return (
            f"this command needs {error.name}, which is not installed. "
            "Install it with: pip install 'niello[demo]'"
        )
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fspath(error.filename)}: {error.strerror}."
    return str(error)


def _plain(text: str) -> str:
    """Square brackets of shapes are not markup."""
    return text.replace("[", "\\[")
