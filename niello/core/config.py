"""Every environment flag of Niello, one line each.

Flags are read when they are used, so tests and notebooks may set them at any time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from niello.core.errors import ConfigError


@dataclass(frozen=True)
class Flag:
    """An environment variable: its name, default, and the line that documents it."""

    name: str
    default: str
    help: str

    def text(self) -> str:
        return os.environ.get(self.name, self.default)

    def integer(self, lowest: int, highest: int) -> int:
        """The value as an int within bounds. Raises ConfigError otherwise."""
        text = self.text()
        try:
            value = int(text)
        except ValueError:
            value = lowest - 1
        if not lowest <= value <= highest:
            raise ConfigError(
                self.name,
                f"must be an integer from {lowest} to {highest}",
                received=repr(text),
                advice=self.help,
            )
        return value


DEBUG = Flag("NIELLO_DEBUG", "0", "0 to 6: devices, kernels, schedule, source, steps, rules.")
DUMP = Flag("NIELLO_DUMP", "", "A directory that receives numbered text files of each compilation.")
VERIFY = Flag("NIELLO_VERIFY", "0", "0 off, 1 verify after each pass, 2 also compare results.")
DEVICE = Flag("NIELLO_DEVICE", "", "The default device, such as cpu or numpy.")
THREADS = Flag("NIELLO_THREADS", "0", "Number of CPU threads; 0 means all usable cores.")
CPU_TARGET = Flag("NIELLO_CPU_TARGET", "host", "host, avx512, avx2 or baseline.")
CACHE_DIR = Flag("NIELLO_CACHE_DIR", "", "Where compiled code is kept; default is the user cache.")
CACHE = Flag("NIELLO_CACHE", "1", "0 turns the disk cache of compiled code off.")
WEBGPU_ADAPTER = Flag("NIELLO_WEBGPU_ADAPTER", "", "Part of the name of the adapter to use.")
DETERMINISTIC = Flag(
    "NIELLO_DETERMINISTIC", "0", "1 keeps NVIDIA's libraries from adding up in varying order."
)
OPTIMISE = Flag("NIELLO_OPTIMISE", "1", "0 runs every operation as a kernel of its own.")

FLAGS = (
    DEBUG,
    DUMP,
    VERIFY,
    DEVICE,
    THREADS,
    CPU_TARGET,
    CACHE_DIR,
    CACHE,
    OPTIMISE,
    DETERMINISTIC,
    WEBGPU_ADAPTER,
)


def cache_directory() -> Path:
    """The directory for compiled code: NIELLO_CACHE_DIR, or the user's cache directory."""
    chosen = CACHE_DIR.text()
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "niello"
