"""The manifest of a package: what it holds, and the size and hash of every member.

    {"format": 1, "sha256": hash of the content, "content": {...}}

The content's hash is that of its JSON with sorted keys and no spaces, so that a manifest may be
indented for people.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from niello.core.types import TensorType
from niello.executable.package_store import MANIFEST, Store, check_name, refuse
from niello.executable.package_values import Malformed, decode, encode, parse_json, record
from niello.passes.check_indices import IndexCheck
from niello.runtime.target import CompileOptions

FORMAT = 1
MOST_BYTES = 64 << 20  # of a manifest
SUFFIX = ".niello"


@record
@dataclass(frozen=True)
class FileEntry:
    """A member: its name, bytes, and SHA-256 in hexadecimal digits."""

    name: str
    size: int
    sha256: str


@record
@dataclass(frozen=True)
class Function:
    """Something that a package computes.

    `inputs`, `targets` and `operations` are names in the graph, `results` what users call the
    targets, `types` those that the graph declares for the inputs, open sizes included.
    """

    name: str
    inputs: tuple[str, ...]
    types: tuple[TensorType, ...]
    targets: tuple[str, ...]
    results: tuple[str, ...]
    operations: tuple[str, ...] = ()


@record
@dataclass(frozen=True)
class Variant:
    """A function compiled for a device and for given input types.

    `needs` is what a machine must have to run the code: words of the back end, such as avx2 or
    sm_90. `program` and `code` are names of members; no code where the device has none. `checks`
    are what a run reports on its indices, where it was compiled with `check_indices`. `packed` is
    the name, among the constants, of those that the code reads in a form of its own.
    """

    function: str
    device: str
    needs: tuple[str, ...]
    options: CompileOptions
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    program: str
    code: str = ""
    checks: tuple[IndexCheck, ...] = ()
    packed: str = ""

    def __str__(self) -> str:
        types = ", ".join(map(str, self.inputs)) or "nothing"
        return f"{self.function} for {self.device} on {types}"


@record
@dataclass(frozen=True)
class Manifest:
    """All of it. `graph`, `constants` and `variables` are names of members, or nothing."""

    producer: str
    functions: tuple[Function, ...]
    variants: tuple[Variant, ...]
    files: tuple[FileEntry, ...]
    graph: str = ""
    constants: str = ""
    variables: str = ""
    metadata: tuple[tuple[str, str], ...] = ()


def write_manifest(manifest: Manifest) -> bytes:
    """The manifest as a file."""
    content = encode(manifest, Manifest)
    digest = _digest(content)
    return json.dumps({"format": FORMAT, "sha256": digest, "content": content}, indent=1).encode()


def read_manifest(store: Store) -> Manifest:
    """The manifest of a package, after checking it and the sizes of all members."""
    data = store.read(MANIFEST, MOST_BYTES)
    path = store.path
    try:
        outer = parse_json(data)
        if not isinstance(outer, dict) or not {"format", "sha256", "content"} <= set(outer):
            raise Malformed("it has no format, hash and content")
        if outer["format"] != FORMAT:
            raise refuse(
                path,
                f"this Niello reads packages of format {FORMAT}",
                f"format {str(outer['format'])[:20]}",
                "Update Niello, or convert the model again",
            )
        if outer["sha256"] != _digest(outer["content"]):
            raise Malformed("its hash is another")
        manifest: Manifest = decode(outer["content"], Manifest)
        _check(manifest)
    except (Malformed, RecursionError) as error:
        raise refuse(path, f"the manifest is damaged: {error}", f"{len(data)} bytes") from error
    for entry in manifest.files:
        size = store.place(check_name(path, entry.name)).size
        if size != entry.size:
            raise refuse(path, f"{entry.name} should have {entry.size} bytes", f"{size} bytes")
    unlisted = sorted({*store.places} - {MANIFEST, *(e.name for e in manifest.files)})
    if unlisted:
        raise refuse(path, "it holds what its manifest does not list", unlisted[0])
    return manifest


def _check(manifest: Manifest) -> None:
    """What the parts say of each other."""
    listed = {e.name for e in manifest.files}
    used = {manifest.graph, manifest.constants, manifest.variables}
    used |= {v.program for v in manifest.variants} | {v.code for v in manifest.variants}
    if missing := used - listed - {""}:
        raise Malformed(f"no member {min(missing)!r} is listed")
    functions = {f.name: f for f in manifest.functions}
    if len(functions) != len(manifest.functions) or len(listed) != len(manifest.files):
        raise Malformed("a name is listed twice")
    if not functions:
        raise Malformed("it has no functions")
    for f in functions.values():
        if len(f.types) != len(f.inputs):
            raise Malformed(f"{f.name} has {len(f.inputs)} inputs and {len(f.types)} types")
        if len(f.results) != len(f.targets):
            raise Malformed(f"{f.name} has {len(f.targets)} targets and {len(f.results)} names")
    for v in manifest.variants:
        found = functions.get(v.function)
        if found is None or not v.program:
            raise Malformed(f"{v} has no function or no program")
        more = len(v.outputs) - len(found.targets)
        reports = more == 1 and v.options.check_indices
        if len(v.inputs) != len(found.inputs) or (more and not reports):
            raise Malformed(f"{v} takes or gives another number of values than its function")


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
