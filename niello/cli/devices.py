"""`niello devices`: the table of back ends."""

from __future__ import annotations

from rich.table import Table

import niello as nl
from niello import errors


def table() -> Table:
    """One row per back end, whether or not it can run here."""
    found = Table("device", "available", "what it is", "memory", title=None)
    for name in nl.device_names():
        try:
            device = nl.device(name)
        except errors.BackendUnavailable as error:
            found.add_row(name, "[red]no[/]", str(error).replace("[", "\\["), "")
            continue
        stats = device.memory_stats()
        memory = ", ".join(f"{key} {_bytes(value)}" for key, value in stats.items())
        found.add_row(name, "[green]yes[/]", device.describe(), memory)
    return found


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024  # type: ignore[assignment]
    return f"{count:.1f} GiB"
