"""The protobuf messages of Core ML's file format, as the package `coremltools` holds them.

Only its message classes are loaded: importing coremltools itself prints warnings away from a Mac,
and takes seconds.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import types
from typing import Any

import niello as nl

_ALIAS = "niello_coreml_messages"


@functools.cache
def _module(name: str) -> Any:
    if "coremltools" in sys.modules:
        return importlib.import_module(f"coremltools.proto.{name}")
    found = importlib.util.find_spec("coremltools")
    places = None if found is None else found.submodule_search_locations
    if not places:
        raise nl.errors.FrontendError(
            "Core ML",
            "reading its files needs coremltools, which is not installed",
            advice="Install it with: pip install 'niello[coreml]'",
        )
    package = types.ModuleType(_ALIAS)
    package.__path__ = [f"{place}/proto" for place in places]
    sys.modules.setdefault(_ALIAS, package)
    return importlib.import_module(f"{_ALIAS}.{name}")


def new_model() -> Any:
    """An empty Model message. Raises FrontendError where coremltools is not installed."""
    return _module("Model_pb2").Model()


def layer_types() -> tuple[str, ...]:
    """Every layer type of the neural-network specification."""
    layer = _module("NeuralNetwork_pb2").NeuralNetworkLayer.DESCRIPTOR
    return tuple(f.name for f in layer.oneofs_by_name["layer"].fields)
