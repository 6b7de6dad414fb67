"""Niello: build a graph of tensors, differentiate it, compile it, and run it anywhere."""

from __future__ import annotations

from niello import ops as _ops  # noqa: F401  (registers every operation)
from niello.backends import available as available_devices
from niello.backends import device
from niello.backends import names as device_names
from niello.core import errors
from niello.core.dtypes import (
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from niello.core.types import TensorType
from niello.executable.executable import Executable
from niello.executable.graph import Graph
from niello.graph.opdef import functions as _functions
from niello.graph.operation import Operation
from niello.graph.tensor import Tensor, Variable
from niello.graph.text import parse_graph, print_graph
from niello.runtime.target import CompileOptions
from niello.runtime.tensor_data import TensorData

__version__ = "0.1.0"

# Every operation's function, by the name it is published under (see niello/ops).
globals().update(_functions())

__all__ = [
    "CompileOptions",
    "DType",
    "Executable",
    "Graph",
    "Operation",
    "Tensor",
    "TensorData",
    "TensorType",
    "Variable",
    "available_devices",
    "bfloat16",
    "bool_",
    "device",
    "device_names",
    "errors",
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "parse_graph",
    "print_graph",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    *_functions(),
]
