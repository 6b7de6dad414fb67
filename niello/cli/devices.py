"""`niello devices`: the table of back ends."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

import niello as nl
from niello.cli.inspection.words import data_size


def table() -> Table:
    """One row per back end, whether or not it can run here."""
    found = Table("device", "available", "what it is, or why it is not there", "memory")
    default = nl.default_device()
    for record in nl.devices():
        available = "[green]yes[/]" if record.available else "[red]no[/]"
        if record.available and not record.runs:
            available = "[yellow]compiles only[/]"
        used = ", ".join(f"{key} {data_size(n)}" for key, n in (record.memory or {}).items())
        name = f"{record.name} (default)" if record.name == default else record.name
        found.add_row(name, available, Text(record.description), used if record.runs else "")
    return found
