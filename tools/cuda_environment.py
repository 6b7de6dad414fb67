"""What a CUDA machine has, as Niello sees it: `python -m tools.cuda_environment`."""

from __future__ import annotations

import platform
import sys
import time
from importlib import metadata

PACKAGES = (
    "cuda-core",
    "cuda-bindings",
    "cuda-pathfinder",
    "nvidia-cuda-nvrtc",
    "nvidia-cublas",
    "nvidia-cudnn-cu13",
    "nvidia-cudnn-frontend",
    "torch",
    "jax",
    "cupy-cuda13x",
    "numpy",
    "ml_dtypes",
)


def main() -> int:
    """Print versions, the device's description, and copy speeds."""
    print(f"Python {platform.python_version()}")
    for name in PACKAGES:
        try:
            print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            print(f"{name} absent")
    import numpy as np

    from niello import backends

    started = time.perf_counter()
    device = backends.device("cuda")
    print(f"opened in {time.perf_counter() - started:.3f} s")
    print(device.describe())
    print(f"described after {time.perf_counter() - started:.3f} s")
    data = np.random.default_rng(0).standard_normal(1 << 26, np.float32)
    back = np.empty_like(data)
    buffer = device.allocate(data.nbytes)
    for turn in range(3):
        started = time.perf_counter()
        device.upload(buffer, 0, data)
        device.synchronize()
        up = time.perf_counter() - started
        started = time.perf_counter()
        device.download(buffer, 0, back)
        down = time.perf_counter() - started
        print(f"transfer {turn}: up {data.nbytes / up / 1e9:.1f} GB/s, down ", end="")
        print(f"{data.nbytes / down / 1e9:.1f} GB/s")
    print(f"same bytes: {bool((data == back).all())}; {device.memory_stats()}")
    return 0 if (data == back).all() else 1


if __name__ == "__main__":
    sys.exit(main())
