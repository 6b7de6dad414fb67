"""Reader: the specification inside a .mlmodel file or a .mlpackage folder, and its weights."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import niello as nl
from niello.frontends.coreml.custom import Implementation, implementations
from niello.frontends.coreml.messages import new_model

# A protobuf holds at most 2 GiB.
LARGEST = 1 << 31
_MANIFEST = "Manifest.json"


class Source:
    """A Core ML model: its Model message, the folder with its weights, and a name for errors."""

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes | Any,
        custom: Mapping[str, Implementation] | None = None,
    ) -> None:
        self.folder: Path | None = None
        self.custom = implementations(custom)
        if isinstance(model, (bytes, bytearray, memoryview)):
            self.name = "given as bytes"
            self.spec = self._parsed(bytes(model))
        elif isinstance(model, (str, os.PathLike)):
            path = Path(model)
            self.name = path.name
            self.spec = self._parsed(self._bytes(path))
        elif hasattr(model, "SerializeToString"):
            self.name = "given as a message"
            self.spec = self._parsed(model.SerializeToString())
        else:
            raise nl.errors.FrontendError(
                "Core ML model",
                "give a path, bytes, or a Model message",
                received=type(model).__name__,
            )

    @property
    def kind(self) -> str:
        """Which kind of model it is: a name of the specification, as neuralNetworkClassifier."""
        return str(self.spec.WhichOneof("Type"))

    def refuse(self, problem: str, received: Any = None, advice: str = "") -> nl.errors.NielloError:
        """The error about the whole file, to be raised."""
        return nl.errors.FrontendError(
            f"Core ML model {self.name}", problem, received=received, advice=advice
        )

    # --- files
    def _bytes(self, path: Path) -> bytes:
        if path.is_dir():
            path = self._inside(path)
        if not path.exists():
            raise FileNotFoundError(2, "No such file", str(path))
        size = path.stat().st_size
        if size == 0 or size >= LARGEST:
            raise self.refuse("the file is empty or larger than 2 GiB", f"{size} bytes")
        return path.read_bytes()

    def _inside(self, package: Path) -> Path:
        """The specification's file inside a package folder."""
        manifest = package / _MANIFEST
        try:
            held = json.loads(manifest.read_text("utf-8"))
            entry = held["itemInfoEntries"][held["rootModelIdentifier"]]
            relative = str(entry["path"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise self.refuse(
                f"{_MANIFEST} does not name the model inside the package",
                f"{type(error).__name__}: {error}",
                "Give a whole .mlpackage folder",
            ) from error
        data = package / "Data"
        found = (data / relative).resolve()
        if data.resolve() not in found.parents:
            raise self.refuse(f"{_MANIFEST} names a file outside of the package", relative)
        if not found.is_file():
            raise self.refuse(
                f"the file that {_MANIFEST} names is missing", relative, "Copy the whole folder"
            )
        self.folder = found.parent
        return found

    def _parsed(self, raw: bytes) -> Any:
        spec = new_model()
        try:
            spec.ParseFromString(raw)
        except Exception as error:  # protobuf's own DecodeError, whose module need not be imported
            raise self.refuse(
                "this is not a Core ML model, or only a part of one",
                f"{len(raw)} bytes that protobuf cannot read",
                "Copy or download the file again",
            ) from error
        if spec.WhichOneof("Type") is None or not spec.HasField("description"):
            raise self.refuse(
                "this is not a Core ML model: it holds no model of any kind",
                f"{len(raw)} bytes",
                "Give a .mlmodel file or a .mlpackage folder",
            )
        return spec


def check_supported(
    source: Source, found: Iterable[tuple[str, str]], known: Callable[[str], bool], what: str
) -> None:
    """Refuse a model with unknown layers or operators: all of them, with counts and the first.

    `found` holds pairs of (type, name).
    """
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for kind, name in found:
        if not known(kind):
            counts[kind] += 1
            first.setdefault(kind, name)
    if not counts:
        return
    listed = ", ".join(f"{kind} (×{n}, first {first[kind]!r})" for kind, n in counts.items())
    raise nl.errors.FrontendError(
        f"Core ML model {source.name}",
        f"Niello has no translation of these {what}: {listed}",
        advice=(
            "The code of custom layers is outside of the file: give it with "
            "load(..., custom={class_name: function}) or niello.frontends.coreml.custom_layer"
            if any(kind.startswith("custom") for kind in counts)
            else "Replace them in the model"
        ),
        operators=dict(counts),
        first=first,
    )
