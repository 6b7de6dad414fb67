"""Quantized networks: between kernels lie bytes, and each contraction takes what follows along."""

from __future__ import annotations

import numpy as np
import pytest

import niello as nl
from niello.backends import backend
from niello.core.errors import BackendUnavailable
from niello.runtime.commands import Space
from niello.runtime.target import CompileOptions

SIDE, WIDE, NARROW = 14, 64, 16
RANDOM = np.random.default_rng(12)
LAYOUTS = {"data_layout": "NCHW", "weights_layout": "OIHW"}


class Block:
    """A residual block as quantization tools write it: each result quantized and dequantized."""

    def __init__(self, kind: nl.DType, zero: int) -> None:
        self.graph = nl.Graph()
        self.kind, self.zero = kind, zero
        self.constant_bytes = 0

    def quantized(self, x: nl.Tensor, scale: float, *, signed: bool = False) -> nl.Tensor:
        """Through codes and back; `signed` values lie on both sides of zero."""
        zero = int(self.kind.max + self.kind.min) // 2 + 5 if signed else self.zero
        point = self.kind.numpy.type(zero)
        return nl.dequantize(nl.quantize(x, scale, point, dtype=self.kind), scale, point)

    def layer(self, x: nl.Tensor, outputs: int, size: int) -> nl.Tensor:
        """A convolution with weights for each channel's own scale, and a bias."""
        inputs = x.type.static_shape[1]
        codes = RANDOM.integers(-127, 128, (outputs, inputs, size, size)).astype(np.int8)
        scale = RANDOM.uniform(0.5, 1, outputs) * 0.02 / np.sqrt(inputs * size**2)
        w = nl.dequantize(self.graph.constant(codes), scale.astype(np.float32), axis=0)
        bias = RANDOM.normal(0, 0.1, (1, outputs, 1, 1)).astype(np.float32)
        self.constant_bytes += codes.nbytes + 2 * 4 * outputs
        return nl.conv2d(x, w, padding="same" if size > 1 else "valid", **LAYOUTS) + bias


def residual(kind: nl.DType, zero: int) -> tuple[Block, nl.Tensor, nl.Tensor]:
    """(the block, its input, the codes of its result)"""
    block = Block(kind, zero)
    x = block.graph.placeholder((1, WIDE, SIDE, SIDE), kind, name="x")
    data = nl.dequantize(x, 0.02, kind.numpy.type(zero))
    y = block.quantized(block.layer(data, NARROW, 1).relu(), 0.02)
    y = block.quantized(block.layer(y, NARROW, 3).relu(), 0.02)
    y = block.quantized(block.layer(y, WIDE, 1), 0.04, signed=True)
    point = kind.numpy.type(zero)
    return block, x, nl.quantize((y + data).relu(), 0.03, point, dtype=kind)


def compiled(block: Block, x: nl.Tensor, *targets: nl.Tensor, **options: bool) -> nl.Executable:
    types = {x: nl.TensorType(x.shape, x.dtype)}
    return block.graph.compile(types, list(targets), options=nl.CompileOptions(**options))


def interpreted(made: nl.Executable, *inputs: np.ndarray) -> list[np.ndarray]:
    """What the numpy back end makes of the kernels that were scheduled for the CPU."""
    program, device = made.program, backend("numpy").open()
    buffers = [device.allocate(max(size, 1)) for _, _, size in program.buffers()]
    constants = program.argument(Space.CONSTANT, 0)
    for first, arrays in ((0, inputs), (constants, program.constants)):
        for buffer, array in zip(buffers[first:], arrays, strict=False):
            device.upload(buffer, 0, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    device.compile(program, CompileOptions()).play([b.handle for b in buffers])
    found = []
    for buffer, kind in zip(buffers[len(inputs) :], program.outputs, strict=False):
        raw = np.empty(kind.bytes, np.uint8)
        device.download(buffer, 0, raw)
        found.append(raw.view(kind.dtype.numpy).reshape(kind.static_shape))
    return found


@pytest.mark.parametrize(("kind", "zero"), [(nl.uint8, 0), (nl.int8, -128)])
def test_a_residual_block_is_three_kernels_on_bytes(kind: nl.DType, zero: int) -> None:
    block, x, y = residual(kind, zero)
    made = compiled(block, x, y)
    assert made.kernel_count == 3
    wide, narrow = (n * SIDE * SIDE for n in (WIDE, NARROW))
    # The input twice, the result once, and each result in between once out and once in. Signed
    # codes that are fed have a zero point, which enters by the sums of the weights.
    sums = 4 * NARROW if kind is nl.int8 else 0
    assert made.program.bytes_moved() == 3 * wide + 4 * narrow + block.constant_bytes + sums
    assert made.program.arena_bytes == 2 * narrow


@pytest.mark.parametrize(("kind", "zero"), [(nl.uint8, 0), (nl.uint8, 31), (nl.int8, -128)])
def test_values_of_a_residual_block(kind: nl.DType, zero: int) -> None:
    block, x, y = residual(kind, zero)
    made = compiled(block, x, y)
    feed = RANDOM.integers(int(kind.min), int(kind.max) + 1, x.shape).astype(kind.numpy)
    found = made.run([feed])[0].numpy()
    np.testing.assert_array_equal(found, interpreted(made, feed)[0])
    plain = compiled(block, x, y, optimise=False).run([feed])[0].numpy()
    apart = np.abs(found.astype(int) - plain.astype(int))
    assert apart.max() <= 1 and np.mean(apart != 0) < 0.01, "halves may round either way"


def test_three_channels_are_filled_up_by_the_kernel_that_quantizes() -> None:
    block = Block(nl.uint8, 0)
    x = block.graph.placeholder((1, 3, SIDE, SIDE), nl.float32, name="x")
    y = block.quantized(block.layer(block.quantized(x, 0.02, signed=True), NARROW, 3), 0.02)
    y = nl.quantize(y, 0.02, np.uint8(0), dtype=nl.uint8)
    made = compiled(block, x, y)
    feed = RANDOM.normal(size=x.shape).astype(np.float32)
    assert made.kernel_count == 2
    filled = 4 * (SIDE + 2) ** 2
    assert made.program.arena_bytes in range(filled, filled + 64)
    found = made.run([feed])[0].numpy()
    np.testing.assert_array_equal(found, interpreted(made, feed)[0])
    plain = compiled(block, x, y, optimise=False).run([feed])[0].numpy()
    assert np.abs(found.astype(int) - plain.astype(int)).max() <= 1


def test_a_maximum_of_dequantized_values_is_one_of_codes() -> None:
    block = Block(nl.int8, -20)
    x = block.graph.placeholder((1, 8, SIDE, SIDE), nl.float32, name="x")
    y = nl.max_pool2d(block.quantized(x, 0.05), 3, strides=2, padding=1, data_layout="NCHW")
    y = nl.quantize(y, 0.05, np.int8(-20), dtype=nl.int8)
    made = compiled(block, x, y)
    found = made.run([feed := RANDOM.normal(size=x.shape).astype(np.float32)])[0].numpy()
    names = [o.op.name for o in made.optimised.graph.operations]
    assert names.count("multiply") == 0, "nothing is dequantized"
    plain = compiled(block, x, y, optimise=False).run([feed])[0].numpy()
    np.testing.assert_array_equal(found, plain)


@pytest.mark.parametrize("target", ["cuda:sm_90", "null"])
def test_other_devices_render_quantized_blocks(target: str) -> None:
    block, x, y = residual(nl.uint8, 0)
    try:
        made = block.graph.compile({x: nl.TensorType(x.shape, x.dtype)}, [y], device=target)
    except BackendUnavailable as missing:
        pytest.skip(str(missing))
    assert made.kernel_count >= 3
