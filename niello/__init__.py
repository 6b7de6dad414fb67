"""Niello: build a graph of tensors, differentiate it, compile it, and run it anywhere."""

from __future__ import annotations

from niello import ops as _ops  # noqa: F401  (registers every operation)
from niello.backends import available as available_devices
from niello.backends import device
from niello.backends import names as device_names
from niello.backends.inventory import (
    DeviceRecord,
    default_device,
    devices,
    memory_stats,
    release_memory,
    reset_peak_memory,
    set_threads,
    thread_count,
)
from niello.core import errors
from niello.core.dtypes import (
    DType,
    bfloat16,
    bool_,
    complex32,
    complex64,
    complex128,
    float8_e4m3fn,
    float8_e5m2,
    float16,
    float32,
    float64,
    int4,
    int8,
    int16,
    int32,
    int64,
    uint4,
    uint8,
    uint16,
    uint32,
    uint64,
)
from niello.core.types import TensorType
from niello.executable.executable import Executable
from niello.executable.graph import Graph
from niello.executable.package import Package, load, save
from niello.graph.opdef import functions as _functions
from niello.graph.operation import Operation
from niello.graph.tensor import Tensor, Variable
from niello.graph.text import parse_graph, print_graph
from niello.runtime.command_buffer import CommandBuffer, CommandStatus
from niello.runtime.command_queue import CommandQueue
from niello.runtime.event import SharedEvent
from niello.runtime.predicate import Predicate
from niello.runtime.target import CompileOptions
from niello.runtime.tensor_data import TensorData

from niello import precision  # isort: skip  (builds on the names above)

__version__ = "0.1.0"

# Every operation's function, by the name it is published under (see niello/ops).
globals().update(_functions())

__all__ = [
    "CommandBuffer",
    "CommandQueue",
    "CommandStatus",
    "CompileOptions",
    "DType",
    "DeviceRecord",
    "Executable",
    "Graph",
    "Operation",
    "Package",
    "Predicate",
    "SharedEvent",
    "Tensor",
    "TensorData",
    "TensorType",
    "Variable",
    "available_devices",
    "bfloat16",
    "complex32",
    "complex64",
    "complex128",
    "bool_",
    "default_device",
    "device",
    "device_names",
    "devices",
    "errors",
    "float8_e4m3fn",
    "float8_e5m2",
    "float16",
    "float32",
    "float64",
    "int4",
    "int8",
    "int16",
    "int32",
    "int64",
    "load",
    "memory_stats",
    "parse_graph",
    "precision",
    "print_graph",
    "release_memory",
    "reset_peak_memory",
    "save",
    "set_threads",
    "thread_count",
    "uint4",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    *_functions(),
]
