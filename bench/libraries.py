"""How each library builds a contender out of a function of arrays.

Every library is imported when its contender is made, so an absent one is named in the table and
the others still run. `reuse` means that the result goes into memory that exists already.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from types import FunctionType
from typing import Any

import numpy as np

from bench.harness import (
    JAX,
    NIELLO,
    OPENVINO,
    ORT,
    TORCH_COMPILED,
    TORCH_EAGER,
    Contender,
    Missing,
    Prepared,
)
from bench.machine import THREADS

Arrays = Sequence[np.ndarray]
_numbers = count()


def import_peer(name: str) -> Any:
    """The module, set to two threads. Raises Missing when it is not installed."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Missing(f"{error.name} is not installed") from error
    if name == "torch":
        module.set_num_threads(THREADS)
    return module


def absent(peer: str, reason: str) -> Contender:
    """A contender that has no way to do the work, so that the table says why."""

    def make() -> Prepared:
        raise Missing(reason)

    return Contender(peer, "", make)


# PyTorch


def torch_eager(
    function: Callable[..., Any],
    inputs: Arrays,
    *,
    variant: str = "",
    into: Callable[..., Any] | None = None,
    prepare: Callable[[Any, list[Any]], list[Any]] | None = None,
) -> Contender:
    """`function(torch, *tensors)`; with `into`, `into(torch, out, *tensors)` on a reused result."""

    def make() -> Prepared:
        torch = import_peer("torch")
        tensors = _tensors(torch, inputs, prepare)
        with torch.inference_mode():
            out = function(torch, *tensors)

        def run() -> Any:
            with torch.inference_mode():
                if into is not None:
                    return into(torch, out, *tensors)
                return function(torch, *tensors)

        return Prepared(run, lambda: [np.array(run().contiguous())])

    return Contender(TORCH_EAGER, variant, make)


def torch_compiled(
    function: Callable[..., Any],
    inputs: Arrays,
    *,
    variant: str = "",
    reuse: bool = False,
    options: Mapping[str, Any] | None = None,
    prepare: Callable[[Any, list[Any]], list[Any]] | None = None,
    weights: Arrays = (),
) -> Contender:
    """torch.compile of `function(torch, *inputs, *weights)`; weights are parameters of a module."""

    def make() -> Prepared:
        torch = import_peer("torch")
        tensors = _tensors(torch, inputs, prepare)
        constants = _tensors(torch, weights, prepare)

        def compute(self: Any, *arguments: Any) -> Any:
            if reuse:
                out, *rest = arguments
                return out.copy_(function(torch, *rest, *self.constants))
            return function(torch, *arguments, *self.constants)

        module: Any = torch.nn.Module

        class Model(module):  # type: ignore[misc]
            forward = _with_code_of_its_own(compute)

            def __init__(self) -> None:
                super().__init__()
                self.constants = torch.nn.ParameterList(constants)

        model = Model().eval()
        with torch.no_grad():
            compiled = torch.compile(model, options=dict(options or {}), dynamic=False)
            arguments = list(tensors)
            if reuse:
                arguments.insert(0, torch.empty_like(function(torch, *tensors, *constants)))
            compiled(*arguments)

        def run() -> Any:
            with torch.no_grad():
                return compiled(*arguments)

        return Prepared(run, lambda: [np.array(run().detach().contiguous())])

    return Contender(TORCH_COMPILED, variant, make)


def _with_code_of_its_own(function: Any) -> Any:
    """A copy of the function. Dynamo keeps its cache, and its limit, per code object."""
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_numbers)}")
    return FunctionType(
        code, function.__globals__, code.co_name, function.__defaults__, function.__closure__
    )


def _tensors(torch: Any, arrays: Arrays, prepare: Callable[..., list[Any]] | None) -> list[Any]:
    tensors = [torch.from_numpy(array) for array in arrays]
    return prepare(torch, tensors) if prepare else tensors


# JAX


def jax_jit(
    function: Callable[..., Any],
    inputs: Arrays,
    *,
    variant: str = "",
    reuse: bool = False,
    weights: Arrays = (),
) -> Contender:
    """jit of `function(jax, *inputs, *weights)`; weights are closed over, thus constants.

    Reuse is JAX's own way: a donated array of the result's type, whose memory XLA takes over.
    """

    def make() -> Prepared:
        jax = import_peer("jax")
        arrays = [jax.device_put(array) for array in inputs]
        constants = [jax.device_put(array) for array in weights]

        def call(*arguments: Any) -> Any:
            return function(jax, *arguments, *constants)

        if not reuse:
            compiled = jax.jit(call)
            return _jax_prepared(lambda: compiled(*arrays).block_until_ready())
        compiled = jax.jit(
            lambda out, *arguments: call(*arguments), donate_argnums=0, keep_unused=True
        )
        held = [jax.jit(call)(*arrays)]

        def run() -> Any:
            held[0] = compiled(held[0], *arrays)
            return held[0].block_until_ready()

        return _jax_prepared(run)

    return Contender(JAX, variant, make)


def _jax_prepared(run: Callable[[], Any]) -> Prepared:
    return Prepared(run, lambda: [np.array(run())])


# ONNX Runtime


def onnxruntime_session(
    model: Callable[[Any], Any], inputs: Arrays, *, variant: str = "", reuse: bool = False
) -> Contender:
    """A session on `model(onnx)`, whose inputs are fed in order; `reuse` is for one output."""

    def make() -> Prepared:
        onnx = import_peer("onnx")
        runtime = import_peer("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        # Its workers keep spinning after a run, which would be charged to the next contender.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = runtime.InferenceSession(
            model(onnx).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [item.name for item in session.get_inputs()]
        feeds = dict(zip(names, inputs, strict=True))
        if not reuse:
            return Prepared(lambda: session.run(None, feeds), lambda: session.run(None, feeds))
        (out,) = session.run(None, feeds)
        binding = session.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        binding.bind_output(
            session.get_outputs()[0].name, "cpu", 0, np.float32, out.shape, out.ctypes.data
        )

        def run() -> np.ndarray:
            session.run_with_iobinding(binding)
            return out

        return Prepared(run, lambda: [run().copy()])

    return Contender(ORT, variant, make)


def openvino_model(model: Callable[[Any], Any], inputs: Arrays, *, variant: str = "") -> Contender:
    """`model(onnx)` compiled in float32; inputs and results stay where they are."""

    def make() -> Prepared:
        onnx = import_peer("onnx")
        openvino = import_peer("openvino")
        core = openvino.Core()
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": THREADS,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        read = core.read_model(model(onnx).SerializeToString())
        request = core.compile_model(read, "CPU", options).create_infer_request()
        for number, array in enumerate(inputs):
            request.set_input_tensor(number, openvino.Tensor(array, shared_memory=True))

        def outputs() -> list[np.ndarray]:
            request.infer()
            return [np.array(tensor.data) for tensor in request.output_tensors]

        return Prepared(request.infer, outputs)

    return Contender(OPENVINO, variant, make)


def onnx_model(
    onnx: Any,
    nodes: Sequence[Any],
    inputs: Mapping[str, tuple[int, ...]],
    output: tuple[str, tuple[int, ...]],
    constants: Mapping[str, np.ndarray],
) -> Any:
    """A float32 model of one output at operator set 20."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        list(nodes),
        "work",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output[0], kind, output[1])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


# Niello


def import_niello() -> Any:
    """The package under measurement. Raises Missing when it cannot be imported."""
    try:
        return importlib.import_module("niello")
    except ModuleNotFoundError as error:
        raise Missing(f"{error.name} is not installed") from error


@contextmanager
def flags(**values: str) -> Iterator[None]:
    """Environment variables for the time of a compilation."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def niello_executable(
    build: Callable[..., Any],
    inputs: Arrays,
    *,
    peer: str = NIELLO,
    variant: str = "",
    reuse: bool = False,
    weights: Arrays = (),
) -> Contender:
    """An executable of `build(nl, *tensors)`; weights are constants of the graph.

    The contender named "Niello unstitched" runs every operation as a kernel of its own.
    """

    def make() -> Prepared:
        nl = import_niello()
        graph = nl.Graph()
        types = [nl.TensorType(a.shape, a.dtype) for a in inputs]
        feeds = {graph.placeholder(t.shape, t.dtype): t for t in types}
        constants = [graph.constant(array) for array in weights]
        target = build(nl, *feeds, *constants)
        with flags(NIELLO_OPTIMISE="1" if peer == NIELLO else "0"):
            executable = graph.compile(feeds=feeds, targets=[target], device="cpu")
        arrays = list(inputs)
        results = executable.run(arrays) if reuse else None

        def fresh() -> Any:
            return executable.run(arrays)

        def reused() -> Any:
            return executable.run(arrays, results=results)

        run = reused if reuse else fresh
        return Prepared(run, lambda: [np.array(np.asarray(run()[0]))])

    return Contender(peer, variant, make)
