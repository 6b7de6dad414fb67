"""What a back end promises: the record that its folder exports as `BACKEND`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from niello.core.dtypes import DType
from niello.runtime.commands import LibraryCall, Program

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Limits:
    """Bounds that the stitcher reads before it fuses."""

    dtypes: frozenset[DType]
    max_buffers: int  # distinct buffers of one kernel
    max_nodes: int  # expression nodes of one kernel
    max_buffer_bytes: int
    workgroup_threads: int
    shared_bytes: int  # fast memory of one thread or workgroup: rows up to this size stay in it
    vector_bits: int
    buffer_alignment: int = 64  # bytes: intermediate results begin at multiples of it
    channels_last: bool = False  # convolutions are faster where channels are the last axis
    inputs_last: bool = False  # and where the input channels are the last axis of the weights
    integers: bool = False  # contractions of 8-bit integers are faster than those of floats
    borders: bool = False  # contractions read long lines faster when zero borders are in memory
    # Commands that do not wait for each other may run at once: intermediate results do not share
    # memory in a way that would make them wait, as long as all take no more bytes than this.
    apart_bytes: int = 0


@dataclass(frozen=True)
class Claim:
    """A group of operations that a vendor library runs: data for the scheduler, not code."""

    trait: str
    dtypes: frozenset[DType]
    epilogue: tuple[str, ...]
    function: str
    cost: float


@dataclass(frozen=True)
class OperationClaim:
    """An operation that a vendor library runs as it is, instead of what it is made of: data for the
    compiler, not code. schedule/claims_operation.py has what such a call says of its operands.

    `strided`: operands may be views of what is in memory, with any strides.
    """

    operation: str  # name of the op
    dtypes: frozenset[DType]  # of its first operand
    function: str
    strided: bool = False


Claims = TypeVar("Claims", Claim, OperationClaim)


@dataclass(frozen=True)
class CompileOptions:
    """What changes generated code; part of every cache key."""

    threads: int = 0  # 0: the device's default
    target: str = "host"  # machine level, such as avx512, avx2, baseline
    optimise: bool = True
    autocast: Any = None  # a half dtype, or an Autocast (passes/autocast.py)
    check_indices: bool = False  # runs raise IndexOutOfRange for indices outside of their axis
    tf32: bool = False  # let libraries round float32 factors to 10 bits (NVIDIA's tensor cores)


class Loaded(Protocol):
    """A program compiled for a device, ready to play. Safe to play from several threads."""

    program: Program

    def play(self, handles: Sequence[Any]) -> None:
        """Run with one buffer handle per argument (see Program.buffers), arena included.

        Handles are `Buffer.handle` of what Device.allocate gave: an address for devices with host
        memory. Devices with host memory block until done; others may return when the work is
        queued, and then keep to the order of the calls (upload, play, download)."""

    def image(self) -> bytes:
        """The machine code, for packages and the disk cache; empty when there is none."""

    def source(self) -> str:
        """The generated code as text."""


class PredicatedLoaded(Loaded, Protocol):
    """A program that a device can skip by itself: what `runtime/predicate.py` uses when it is
    there. Without it the word is downloaded before the program plays."""

    def play_if(self, handles: Sequence[Any], predicate: Any, offset: int) -> None:
        """Like `play`, but every command is skipped when the 32-bit integer at byte `offset` of
        the buffer with the handle `predicate` is zero at the moment the program runs, in the order
        of the calls. The host must not wait for it."""


class PackingLoaded(Loaded, Protocol):
    """A program that keeps constants in a form of its own. The constants with the numbers
    `absorbed` no run reads in any other."""

    absorbed: frozenset[int]

    def take_constants(self, addresses: Sequence[int]) -> frozenset[int]:
        """Pack constants, given the host address of each in the order of `program.constants`, and
        say which of them no run reads any more: their handles may be anything from then on."""

    def packed_constants(self) -> np.ndarray | None:
        """The packed form, as bytes for a package; None where there is none."""

    def use_packed(self, data: np.ndarray) -> frozenset[int]:
        """Use the packed form that another program of the same code gave, where it lies, in place
        of `take_constants`. Raises CorruptFile for what cannot be that."""


class Device(Protocol):
    """An opened device."""

    name: str
    host_memory: bool  # buffers are plain host memory: NumPy can see them

    def describe(self) -> str:
        """One line for people: model, cores or memory, target level."""

    def allocate(self, size: int) -> Any:
        """A Buffer (runtime/buffer.py) of at least `size` bytes, contents undefined.

        Raises OutOfMemory."""

    def upload(self, buffer: Any, offset: int, array: np.ndarray) -> None:
        """Copy a C-contiguous host array into a buffer, `offset` bytes in."""

    def download(self, buffer: Any, offset: int, array: np.ndarray) -> None:
        """Fill a C-contiguous host array from a buffer, `offset` bytes in; waits for what was
        started before."""

    def synchronize(self) -> None:
        """Wait until everything that was started is done. Raises DeviceLost, DeviceError."""

    def compile(self, program: Program, options: CompileOptions) -> Loaded:
        """Machine code for the whole command list."""

    def load(self, program: Program, options: CompileOptions, image: bytes) -> Loaded:
        """The same from stored machine code."""

    def memory_stats(self) -> dict[str, int]:
        """Bytes: current, peak, cached."""

    def release_memory(self) -> None:
        """Give cached memory back to the system."""


class RemoteDevice(Device, Protocol):
    """A device without host memory also speaks DLPack for its own memory."""

    def dlpack_device(self) -> tuple[int, int]:
        """DLPack's device type and number."""

    def export_dlpack(self, value: Any, **options: Any) -> Any:
        """A DLPack capsule of a TensorData."""

    def import_dlpack(self, tensor: Any) -> Any:
        """A TensorData on this device of another library's tensor, or None when it is elsewhere."""


class FencedDevice(Device, Protocol):
    """A device whose plays return before they are done, and that can tell when they are: command
    queues then keep several command buffers in flight. Without it a queue calls `synchronize` at
    the end of each."""

    def fence(self) -> Callable[[], None]:
        """A function that blocks until everything started so far is done; it may be called on
        another thread, while more is started. It raises what `synchronize` would."""


class CodeDevice(Device, Protocol):
    """A device whose machine code does not run on every machine that has such a device."""

    def code_needs(self, options: CompileOptions) -> tuple[str, ...]:
        """What code compiled with these options needs of a machine, in words of the back end."""

    def lacks(self, needs: Sequence[str]) -> tuple[str, ...]:
        """Those of the needs that this machine does not meet."""


class LibraryDevice(Device, Protocol):
    """A device of a back end that has claims."""

    def usable_claims(self, claims: Sequence[Claims]) -> tuple[Claims, ...]:
        """The claims whose libraries are here."""

    def refusal(self, command: LibraryCall) -> str:
        """Why a claimed call cannot run after all, or nothing."""


@dataclass(frozen=True)
class Backend:
    """The record each folder of niello/backends exports as BACKEND."""

    name: str
    limits: Limits
    open: Callable[[], Device]
    claims: tuple[Claim, ...] = ()
    operations: tuple[OperationClaim, ...] = ()
    runs: bool = True  # False for `null`, which only compiles
    # A device that only compiles, for a level of machines such as sm_90; without it, levels are
    # CompileOptions.target.
    ahead: Callable[[str], Device] | None = None
    notes: str = field(default="", compare=False)
