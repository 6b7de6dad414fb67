"""Every tile of contractions: run on the host against the interpreter; how one is chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cuda_on_host
import gpu_cases
import numpy as np
import pytest

import niello as nl
from niello.backends.cuda.render import TARGET, render, target_for
from niello.codegen.gpu import tile_choice, tiles_split, tiles_tensor
from niello.codegen.gpu.kernel import DECLARED_SHARED_BYTES
from niello.codegen.gpu.tile_choice import REGISTER_TILES, SPLIT_TILES, TENSOR_TILES
from niello.kernel.ir import Kernel

# Products whose sides fit no tile, a batch with operands that are computed, and convolutions.
_CHOSEN = ("turned100x70x33", "batch100x70x33", "conv_nchw", "turned_half37x129x200", "conv_half")

needs_compiler = pytest.mark.skipif(
    cuda_on_host.compiler() is None, reason="no g++ to compile CUDA C++ for the host"
)


TILES = {"registers": REGISTER_TILES, "tensor": TENSOR_TILES, "split": SPLIT_TILES}


@needs_compiler
@pytest.mark.parametrize("kind", TILES)
def test_tiles_are_exact(
    kind: str, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = kind == "tensor"
    chosen = [c for c in gpu_cases.contractions() if c[0].startswith(_CHOSEN)]
    cases = [c for c in chosen if any(p.dtype.is_half for p in c[1].params) == half]
    target = replace(TARGET, tiles=(kind,))
    monkeypatch.setattr(tiles_split.SplitTiles, "refusal", classmethod(lambda cls, c, target: ""))
    tried = []
    for tile in TILES[kind]:
        monkeypatch.setattr(tile_choice, "REGISTER_TILES", (tile,))
        monkeypatch.setattr(tiles_tensor, "TENSOR_TILES", (tile,))
        monkeypatch.setattr(tiles_split, "SPLIT_TILES", (tile,))
        for name, kernel in cases:
            made = render(kernel, target)
            assert f"{tile.rows}x{tile.columns}x{tile.step}" in " ".join(made.notes)
            assert ("split" in " ".join(made.notes)) == (kind == "split")
            tried.append((f"{name} {tile}", kernel, made))
    library = cuda_on_host.build([made for _, _, made in tried], tmp_path)
    problems = []
    for n, (name, kernel, made) in enumerate(tried):
        arrays = gpu_cases.inputs(kernel, rng)
        want = gpu_cases.expected(kernel, arrays)
        cuda_on_host.run(library, n, made, arrays)
        problems += [f"{name} {x}" for x in gpu_cases.differences(kernel, arrays, want)]
    assert not problems, "\n".join(problems[:20])
    assert len(tried) == len(cases) * len(TILES[kind]) >= 14


def _notes(name: str) -> str:
    kernel = next(k for n, k in gpu_cases.contractions() if n.startswith(name))
    return " ".join(render(kernel).notes)


def test_halves_go_to_tensor_cores_and_others_do_not() -> None:
    assert "tensor tiles" in _notes("matmul256x256x1024")
    assert "tensor tiles" in _notes("turned_half256x256x1024")
    assert "tensor tiles" not in _notes("turned256x256x1024")
    assert "no tensor tiles: a side is shorter than 16" in _notes("matmul16x10x4000")


def test_large_tiles_bring_their_shared_memory_along() -> None:
    graph = nl.Graph()
    a, b = (graph.placeholder((4096, 4096), nl.bfloat16) for _ in range(2))
    exe = graph.compile({a: a.type, b: b.type}, [nl.matmul(a, b)], device="numpy")
    made = render(exe.program.kernels[0])
    assert DECLARED_SHARED_BYTES < made.shared_bytes <= TARGET.most_shared_bytes
    assert "extern __shared__ uint4 nl_room[]" in made.source


# --- float32 in parts -----------------------------------------------------------------------------


def _product(m: int, n: int, k: int) -> Kernel:
    graph = nl.Graph()
    a, b = graph.placeholder((m, k)), graph.placeholder((k, n))
    exe = graph.compile({a: a.type, b: b.type}, [nl.matmul(a, b)], device="null")
    return exe.program.kernels[0]


def _sample(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    x = rng.standard_normal(shape)
    scale = {"denormal": 1e-41, "tiny": 1e-30, "large": 1e10, "huge": 1e18}
    if kind == "wide":
        x = np.sign(x) * np.exp(8 * rng.standard_normal(shape))
    return (x * scale.get(kind, 1.0)).astype(np.float32)


@needs_compiler
@pytest.mark.parametrize(
    "kinds", [("normal", "normal"), ("wide", "wide"), ("denormal", "large"), ("huge", "huge")]
)
def test_parts_of_float32_are_as_exact_as_float32(
    kinds: tuple[str, str], tmp_path: Path, rng: np.random.Generator
) -> None:
    m, n, k = 64, 64, 256
    a, b = _sample(kinds[0], (m, k), rng), _sample(kinds[1], (k, n), rng)
    wide = [x.astype(np.float64) for x in (a, b)]
    want, most = wide[0] @ wide[1], np.abs(wide[0]) @ np.abs(wide[1])
    found = _on_host(_product(m, n, k), [a, b], (m, n), tmp_path)
    assert np.abs(found - want).max() <= 2e-7 * np.sqrt(k) * most.max()
    assert (np.abs(found - want) / most).max() <= 1.5e-6


@needs_compiler
def test_parts_of_what_is_not_finite_give_what_float32_gives(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    a, b = _sample("normal", (64, 256), rng), _sample("normal", (256, 64), rng)
    a[3, 5], b[7, 9], a[20, 8], a[40, 2] = np.inf, -np.inf, np.nan, 3.4e38
    b[2, :] = 0.5
    with np.errstate(all="ignore"):
        want = (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)
    found = _on_host(_product(64, 64, 256), [a, b], (64, 64), tmp_path)
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(want))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    assert np.isposinf(found).any() and np.isneginf(found).any() and np.isnan(found[20]).all()
    assert found[40, 10:].min() > 1e38


def _on_host(
    kernel: Kernel, given: list[np.ndarray], shape: tuple[int, int], folder: Path
) -> np.ndarray:
    made = render(kernel, replace(target_for("sm_90"), fill=2048))
    assert "split tiles" in " ".join(made.notes)
    library = cuda_on_host.build([made], folder)
    arrays = [x.reshape(-1) for x in given] + [np.full(shape, 7, np.float32).reshape(-1)]
    cuda_on_host.run(library, 0, made, arrays)
    return arrays[-1].reshape(shape)


def test_generations_that_multiply_halves_slowly_do_not_split() -> None:
    kernel = _product(1024, 1024, 1024)
    for level in ("sm_80", "sm_90", "sm_100"):
        assert "split tiles" in " ".join(render(kernel, target_for(level)).notes)
    for level in ("sm_86", "sm_89", "sm_120"):
        assert "split tiles" not in " ".join(render(kernel, target_for(level)).notes)
    assert "split tiles" not in " ".join(
        render(_product(1024, 1024, 64), target_for("sm_90")).notes
    )


@pytest.mark.parametrize("level", ["sm_80", "sm_90", "sm_100"])
def test_one_block_for_each_processor_has_it_alone(level: str) -> None:
    target = target_for(level)
    (launch,) = render(_product(96 * 120, 64, 800), target).launches
    assert launch.grid[0] == 120 and launch.shared_bytes >= target.alone_bytes > 80 << 10
    (launch, *_) = render(_product(4096, 4096, 800), target).launches
    assert launch.grid[0] > 132 and launch.shared_bytes < target.alone_bytes


def test_heavy_epilogues_get_small_tiles() -> None:
    graph = nl.Graph()
    x, y, z = (graph.placeholder(s) for s in ((1024, 64), (64, 1024), (1024, 1024)))
    target = target_for("sm_90")
    for light in (True, False):
        product = nl.matmul(x, y)
        made = product if light else product * z + nl.exp(z)
        exe = graph.compile({t: t.type for t in ((x, y) if light else (x, y, z))}, [made],
                            device="null")  # fmt: skip
        (notes,) = (render(k, target).notes for k in exe.program.kernels)
        if not light:
            assert "tiles 64x64x16" in notes[0]


def test_a_reshaped_operand_is_read_in_rows() -> None:
    """Heads behind rows, as attention leaves them: chunks of 16 bytes all the same."""
    graph = nl.Graph()
    x, w = graph.placeholder((12, 128, 64), nl.bfloat16), graph.placeholder((768, 768), nl.bfloat16)
    rows = nl.reshape(nl.transpose(x, (1, 0, 2)), (128, 768))
    exe = graph.compile({x: x.type, w: w.type}, [nl.matmul(rows, w)], device="null")
    source = render(exe.program.kernels[0], target_for("sm_90")).source
    assert "nl_copy_16" in source and "nl_put_half" not in source
