"""Every error a user can meet.

Each class carries what went wrong as fields, and renders one sentence: what was asked, what was
wrong, what was received, what to do. Tests compare the fields; people read the sentence.
"""

from __future__ import annotations

from typing import Any


class NielloError(Exception):
    """Base of all errors raised by Niello.

    `asked` names the operation or call, `problem` says what is wrong with it, `received` holds the
    offending value, `advice` says what to do, and `where` is the user's source line when known.
    """

    def __init__(
        self,
        asked: str,
        problem: str,
        *,
        received: Any = None,
        advice: str = "",
        where: str = "",
        **fields: Any,
    ) -> None:
        super().__init__(asked, problem)
        self.asked = asked
        self.problem = problem
        self.received = received
        self.advice = advice
        self.where = where
        self.fields = fields
        for name, value in fields.items():
            setattr(self, name, value)

    def __str__(self) -> str:
        text = f"{self.asked}: {self.problem.rstrip('.')}"
        if self.received is not None:
            text += f"; received {self.received}"
        text += "."
        if self.advice:
            text += f" {self.advice.rstrip('.')}."
        if self.where:
            text += f"  (at {self.where})"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(cls: type[NielloError], state: dict[str, Any]) -> NielloError:
    error = cls.__new__(cls)
    Exception.__init__(error, state["asked"], state["problem"])
    error.__dict__.update(state)
    return error


class ShapeError(NielloError, ValueError):
    """Shapes, axes, ranks or sizes that do not fit the operation."""


class IndexOutOfRange(NielloError, IndexError):
    """An index outside of the axis it indexes, found by CompileOptions(check_indices=True)."""


class DTypeError(NielloError, TypeError):
    """Element types that the operation does not take."""


class AttributeValueError(NielloError, ValueError):
    """An attribute of an operation (axis, mode, stride, ...) outside its domain."""


class GraphError(NielloError, ValueError):
    """A graph used wrongly: tensors of another graph, cycles, unknown names."""


class FeedError(NielloError, ValueError):
    """A missing, superfluous or mistyped feed of a run."""


class NotDifferentiable(NielloError, TypeError):
    """A gradient was asked through an operation that has none."""


class DeviceError(NielloError, RuntimeError):
    """A device that failed while it was used."""


class CommandError(NielloError, RuntimeError):
    """A command queue, command buffer or event used in the wrong order."""


class EventTimeout(DeviceError, TimeoutError):
    """An event that did not reach the awaited value in time."""


class BackendUnavailable(DeviceError):
    """A back end whose driver, library or adapter is absent."""


class UnsupportedDtype(DeviceError, TypeError):
    """An element type the chosen device cannot hold or compute."""


class UnsupportedOp(NielloError, TypeError):
    """An operation that the chosen device or front end cannot do."""


class FrontendError(NielloError, ValueError):
    """A model of another library that cannot be read or translated, naming the first culprit."""


class LimitExceeded(DeviceError):
    """A kernel or buffer beyond a limit of the device."""


class DeviceLost(DeviceError):
    """A device that stopped answering; what it held is gone, the process goes on."""


class OutOfMemory(DeviceError, MemoryError):
    """An allocation that did not fit, with the sizes and what held the memory."""


class CorruptFile(NielloError, ValueError):
    """A checkpoint, package or data file that cannot be trusted."""


class PackageError(CorruptFile):
    """A package that is damaged, hostile, of an unknown format, or lacks what was asked of it."""


class Recompiled(UserWarning):
    """A package held no machine code for what was asked, and its graph was compiled instead."""


class ConfigError(NielloError, ValueError):
    """An environment flag or option with a value outside its domain."""


class CompilerBug(NielloError, AssertionError):
    """A broken invariant inside Niello; the message prints the offending form."""
