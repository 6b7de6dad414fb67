"""The interface of `onnx.backend`: what runs ONNX models for tools that know only that interface.

from niello.frontends.onnx.backend import NielloBackend
outputs = NielloBackend.run_model(model, [array, ...])
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.backend.base import Backend, BackendRep

import niello as nl
from niello.frontends.onnx.model import Model
from niello.frontends.onnx.reader import Source

_DEVICES = {"CPU": "cpu", "CUDA": "cuda"}


def host(value: Any) -> Any:
    """A result as NumPy arrays, in lists where it is a sequence."""
    if isinstance(value, list):
        return [host(v) for v in value]
    return value.numpy() if isinstance(value, nl.TensorData) else value


class NielloRep(BackendRep):  # type: ignore[misc]
    """A prepared model."""

    def __init__(self, model: Model, device: str) -> None:
        self.model = model
        self.device = device

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, in order, for arrays in the order of the model's inputs."""
        found = self.model.run(list(inputs), device=self.device)
        return tuple(host(v) for v in found.values())


class NielloBackend(Backend):  # type: ignore[misc]
    """Niello as a back end of ONNX. Devices are ONNX's "CPU" and "CUDA", and Niello's names."""

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> NielloRep:
        """Read a model for a device."""
        name = device.split(":")[0]
        return NielloRep(Model(Source(model), {}, trainable=False), _DEVICES.get(name, name))

    @classmethod
    def run_node(
        cls, node: Any, inputs: Any, device: str = "CPU", outputs_info: Any = None, **kwargs: Any
    ) -> tuple[Any, ...]:
        """Run one node on arrays."""
        from onnx import helper

        arrays = [np.asarray(a) for a in inputs]
        given = [
            helper.make_tensor_value_info(
                n, helper.np_dtype_to_tensor_dtype(a.dtype), list(a.shape)
            )
            for n, a in zip([n for n in node.input if n], arrays, strict=True)
        ]
        made = [helper.make_empty_tensor_value_info(n) for n in node.output if n]
        model = helper.make_model(helper.make_graph([node], "node", given, made))
        if "opset_version" in kwargs:
            model.opset_import[0].version = kwargs["opset_version"]
        if node.domain not in ("", "ai.onnx"):
            model.opset_import.append(helper.make_opsetid(node.domain, 1))
        return cls.prepare(model, device).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether the device is here."""
        return _DEVICES.get(device.split(":")[0], device) in nl.available_devices()
