"""The catalogue: one file per family, one place per op. Importing it registers every op."""

from __future__ import annotations

import importlib
import pkgutil

# Listing the directory is the registry: a new family is a new file and nothing else.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
