"""A program in a package: commands, types, kernels as text, and which tensors are its constants."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast, overload

import numpy as np

from niello.core.dtypes import dtype
from niello.core.errors import NielloError, PackageError
from niello.core.types import TensorType
from niello.executable.package_values import Malformed, decode, encode, parse_json
from niello.kernel.ir import Kernel
from niello.kernel.text import parse_kernel, print_kernel
from niello.kernel.verify import verify
from niello.runtime.commands import BufferRef, Command, Program, Variable
from niello.schedule.program import Scheduled

_TYPES = tuple[TensorType, ...]
_COMMANDS = tuple[Command, ...]
_VARIABLES = tuple[Variable, ...]
_TEXTS = tuple[str, ...]
_ABSENT = tuple[tuple[int, TensorType], ...]


def write_program(
    scheduled: Scheduled, constants: Sequence[str], absent: Collection[int] = ()
) -> bytes:
    """A program as JSON; `constants` are the names of its constants among the package's tensors.

    Those with the numbers `absent` the package does not hold: only the machine code knew them.
    """
    program = scheduled.program
    types = tuple((n, _type_of(program.constants[n])) for n in sorted(absent))
    content = {
        "inputs": encode(program.inputs, _TYPES),
        "outputs": encode(program.outputs, _TYPES),
        "variables": encode(program.variables, _VARIABLES),
        "constants": list(constants),
        "arena_bytes": program.arena_bytes,
        "arena_lower_bound": scheduled.arena_lower_bound,
        "commands": encode(program.commands, _COMMANDS),
        **({"absent": encode(types, _ABSENT)} if types else {}),
        "kernels": [print_kernel(k) for k in program.kernels],
    }
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def constants_of(data: bytes) -> tuple[str, ...]:
    """Names of the constants of a program of `write_program` that the package holds."""
    content = parse_json(data)
    absent = {n for n, _ in content.get("absent", ())}
    return tuple(name for n, name in enumerate(content["constants"]) if n not in absent)


def read_program(data: bytes, constant: Callable[[str], np.ndarray]) -> Stored:
    """The program of `write_program`; `constant` finds a tensor by name.

    Raises Malformed for anything else, for commands that reach beyond their buffers, and what
    `constant` raises. Kernels are parsed when somebody looks at one.
    """
    try:
        return _read(parse_json(data), constant)
    except RecursionError:
        raise Malformed("its commands are nested too deeply") from None


@dataclass(frozen=True)
class Stored:
    """A program of a package, and the names of its constants. In place of those with the numbers
    `absent` there are zeros, which nothing may compute with."""

    scheduled: Scheduled
    names: tuple[str, ...]
    absent: frozenset[int]


def _type_of(array: np.ndarray) -> TensorType:
    return TensorType(array.shape, dtype(array.dtype))


def _read(content: Any, constant: Callable[[str], np.ndarray]) -> Stored:
    if not isinstance(content, dict):
        raise Malformed("a program is an object")

    def part(name: str, kind: Any) -> Any:
        if name not in content:
            raise Malformed(f"a program lacks its {name}")
        return decode(content[name], kind)

    types: list[_TYPES] = [part("inputs", _TYPES), part("outputs", _TYPES)]
    variables: tuple[Variable, ...] = part("variables", _VARIABLES)
    names: _TEXTS = part("constants", _TEXTS)
    absent = dict(part("absent", _ABSENT) if "absent" in content else ())
    if not set(absent) <= set(range(len(names))):
        raise Malformed("a constant is absent that the program does not have")
    for t in (*types[0], *types[1], *(v.type for v in variables), *absent.values()):
        if not t.is_static or t.bytes >= 1 << 62:
            raise Malformed(f"a program cannot have a buffer of {t}")
    program = Program(
        kernels=cast("tuple[Kernel, ...]", Kernels(part("kernels", _TEXTS))),
        commands=part("commands", _COMMANDS),
        inputs=types[0],
        outputs=types[1],
        variables=variables,
        constants=tuple(
            np.broadcast_to(np.zeros((), absent[n].dtype.numpy), absent[n].static_shape)
            if n in absent
            else constant(name)
            for n, name in enumerate(names)
        ),
        arena_bytes=part("arena_bytes", int),
    )
    check_places(program)
    scheduled = Scheduled(program, (), part("arena_lower_bound", int))
    return Stored(scheduled, names, frozenset(absent))


class Kernels(Sequence[Any]):
    """Kernels as text, each parsed when it is asked for: machine code does without them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        self._parsed: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        number = range(len(self._texts))[index]
        found = self._parsed.get(number)
        if found is None:
            found = self._parsed[number] = self._parse(number)
        return found

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def _parse(self, number: int) -> Any:
        try:
            found = parse_kernel(self._texts[number])
            verify(found)  # before a back end renders or interprets it
            return found
        except (
            NielloError,
            ArithmeticError,
            LookupError,
            TypeError,
            ValueError,
            RecursionError,
            AttributeError,
            AssertionError,
        ) as error:
            problem = (str(error).splitlines() or [type(error).__name__])[0]
            raise PackageError(
                "load",
                f"kernel {number} cannot be read: {problem}",
                advice="Make the package again",
            ) from error


def check_places(program: Program) -> None:
    """Refuse commands on buffers that are not there, or beyond their ends. Raises Malformed."""
    sizes = {(space, index): size for space, index, size in program.buffers()}
    if program.arena_bytes < 0:
        raise Malformed(f"an arena of {program.arena_bytes} bytes")
    for command in every_command(program.commands):
        kernel = getattr(command, "kernel", 0)
        if not 0 <= kernel < max(len(program.kernels), 1):
            raise Malformed(f"there is no kernel {kernel}")
    for ref in references(program.commands):
        size = sizes.get((ref.space, ref.index))
        if size is None:
            raise Malformed(f"there is no buffer {ref}")
        if ref.offset < 0 or ref.bytes < 0 or ref.offset + ref.bytes > size:
            raise Malformed(f"{ref} reaches beyond a buffer of {size} bytes")


def every_command(value: Any) -> Iterator[Command]:
    """Commands, and those inside them."""
    if isinstance(value, Command):
        yield value
        value = tuple(vars(value).values())
    if isinstance(value, tuple):
        for item in value:
            yield from every_command(item)


def references(value: Any) -> Iterator[BufferRef]:
    """Every piece of a buffer that commands name, nested commands included."""
    if isinstance(value, BufferRef):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from references(item)
    elif isinstance(value, Command):
        yield from references(tuple(vars(value).values()))
