"""The `niello` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `niello` command."""
    try:
        from niello.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(
            f"The niello command needs {error.name}, which is not installed. "
            "Install it with: pip install 'niello[cli]'"
        )
    app()
