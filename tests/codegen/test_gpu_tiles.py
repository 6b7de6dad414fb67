"""Every tile of contractions: run on the host against the interpreter; how one is chosen."""

from __future__ import annotations

from pathlib import Path

import cuda_on_host
import gpu_cases
import numpy as np
import pytest

from niello.backends.cuda.render import TARGET, render
from niello.codegen.gpu import tile_choice, tiles_tensor
from niello.codegen.gpu.kernel import DECLARED_SHARED_BYTES
from niello.codegen.gpu.tile_choice import REGISTER_TILES, TENSOR_TILES

# Products whose sides fit no tile, a batch with operands that are computed, and convolutions.
_CHOSEN = ("turned100x70x33", "batch100x70x33", "conv_nchw", "turned_half37x129x200", "conv_half")

needs_compiler = pytest.mark.skipif(
    cuda_on_host.compiler() is None, reason="no g++ to compile CUDA C++ for the host"
)


@needs_compiler
@pytest.mark.parametrize("kind", ["registers", "tensor"])
def test_tiles_are_exact(
    kind: str, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = kind == "tensor"
    chosen = [c for c in gpu_cases.contractions() if c[0].startswith(_CHOSEN)]
    cases = [c for c in chosen if any(p.dtype.is_half for p in c[1].params) == half]
    tried = []
    for tile in TENSOR_TILES if half else REGISTER_TILES:
        monkeypatch.setattr(tile_choice, "REGISTER_TILES", (tile,))
        monkeypatch.setattr(tiles_tensor, "TENSOR_TILES", (tile,))
        for name, kernel in cases:
            made = render(kernel)
            assert f"{tile.rows}x{tile.columns}x{tile.step}" in " ".join(made.notes)
            tried.append((f"{name} {tile}", kernel, made))
    library = cuda_on_host.build([made for _, _, made in tried], tmp_path)
    problems = []
    for n, (name, kernel, made) in enumerate(tried):
        arrays = gpu_cases.inputs(kernel, rng)
        want = gpu_cases.expected(kernel, arrays)
        cuda_on_host.run(library, n, made, arrays)
        problems += [f"{name} {x}" for x in gpu_cases.differences(kernel, arrays, want)]
    assert not problems, "\n".join(problems[:20])
    assert len(tried) == len(cases) * len(TENSOR_TILES if half else REGISTER_TILES) >= 14


def _notes(name: str) -> str:
    kernel = next(k for n, k in gpu_cases.contractions() if n.startswith(name))
    return " ".join(render(kernel).notes)


def test_halves_go_to_tensor_cores_and_others_do_not() -> None:
    assert "tensor tiles" in _notes("matmul256x256x1024")
    assert "tensor tiles" in _notes("turned_half256x256x1024")
    assert "tensor tiles" not in _notes("turned256x256x1024")
    assert "no tensor tiles: a side is shorter than 16" in _notes("matmul16x10x4000")


def test_large_tiles_bring_their_shared_memory_along() -> None:
    import niello as nl

    graph = nl.Graph()
    a, b = (graph.placeholder((4096, 4096), nl.bfloat16) for _ in range(2))
    exe = graph.compile({a: a.type, b: b.type}, [nl.matmul(a, b)], device="numpy")
    made = render(exe.program.kernels[0])
    assert DECLARED_SHARED_BYTES < made.shared_bytes <= TARGET.most_shared_bytes
    assert "extern __shared__ uint4 nl_room[]" in made.source
