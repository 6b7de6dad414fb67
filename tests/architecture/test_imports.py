"""The one-way street: who may import whom."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from sources import ROOT, imports, modules, sources

from niello import backends

# Folder -> the folders of niello that it may import, besides itself.
FLOORS = {
    "core": set(),
    "graph": {"core"},
    "kernel": {"core"},
    "ops": {"core", "graph", "kernel"},
    "autodiff": {"core", "graph", "kernel", "ops"},
    "passes": {"core", "graph", "kernel", "ops"},
    "codegen": {"core", "kernel"},
    "runtime": {"core"},
    "schedule": {"core", "graph", "kernel", "ops", "passes"},
    "backends": {"core", "kernel", "codegen", "runtime"},
}
LOWER = set(FLOORS)
FLOORS["executable"] = LOWER
USERS = ("nn", "image", "linalg", "random")
FLOORS |= {user: {*LOWER, "executable"} for user in USERS}
# Single modules beyond the floors.
EXCEPTIONS = {
    "schedule": {"niello.runtime.commands", "niello.runtime.target"},
    "graph": {"niello.kernel.build", "niello.kernel.ir"},
}
OUTSIDE = ("frontends", "cli")
SLOWEST_IMPORT = 0.25
HEAVY = ("llvmlite", "matplotlib", "rich", "scipy", "sklearn", "typer")


def _package(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_every_folder_has_a_floor() -> None:
    folders = {s.package for s in sources("niello")} - {""}
    assert folders <= {*FLOORS, *OUTSIDE}, "say in FLOORS what a new folder may import"


def test_import_floors() -> None:
    wrong = []
    for source in sources("niello"):
        if source.package not in FLOORS:
            continue
        allowed = {*FLOORS[source.package], source.package}
        for module, line in imports(source):
            if not (module == "niello" or module.startswith("niello.")):
                continue
            if module in EXCEPTIONS.get(source.package, ()) or _package(module) in allowed:
                continue
            wrong.append(f"{source.path}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_frontends_and_commands_use_public_names_only() -> None:
    """They import `niello` itself (and each other inside their own folder), nothing below it."""
    wrong = []
    for source in (*sources("niello"), *sources("examples")):
        outside = source.package in OUTSIDE or source.path.startswith("examples")
        for module, line in imports(source) if outside else ():
            below = module.startswith("niello.") and _package(module) not in (
                source.package, *USERS, "frontends",
            )  # fmt: skip
            if below:
                wrong.append(f"{source.path}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_no_cycles_at_import() -> None:
    edges: dict[str, set[str]] = {}
    for source in sources("niello"):
        found = {m for m, _ in imports(source, lazy=False) if m in modules()}
        edges[source.module] = found - {source.module}
    done: set[str] = set()
    path: list[str] = []

    def visit(module: str) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for other in sorted(edges.get(module, ())):
            visit(other)
        path.pop()
        done.add(module)

    for module in sorted(edges):
        visit(module)


def test_a_back_end_imports_no_other() -> None:
    """Folders of niello/backends stand alone; what they share is in runtime and codegen."""
    wrong = []
    for source in sources("niello"):
        if source.package != "backends" or source.path.count("/") < 3:
            continue
        own = source.module.split(".")[2]
        for module, line in imports(source):
            parts = module.split(".")
            if parts[:2] == ["niello", "backends"] and parts[2:3] not in ([], [own]):
                wrong.append(f"{source.path}:{line} imports {module}")
    assert not wrong, "\n".join(wrong)
    assert {"cpu", "numpy", "null"} <= set(backends.names())


@pytest.fixture(scope="module")
def import_report(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, set[str]]:
    """Processor seconds of `import niello` (the best of several), and the modules it loads."""
    program = (
        "import time; start = time.process_time(); import niello\n"
        "print(time.process_time() - start); import sys; print(*sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path_factory.mktemp("bytecode"))
    runs = []
    for _ in range(8):  # the first one compiles
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        runs.append(done.stdout.splitlines())
    return min(float(r[0]) for r in runs), set(runs[-1][1].split())


def test_import_is_fast(import_report: tuple[float, set[str]]) -> None:
    assert import_report[0] <= SLOWEST_IMPORT


@pytest.mark.parametrize("name", HEAVY)
def test_import_leaves_out(name: str, import_report: tuple[float, set[str]]) -> None:
    """What only some uses need is imported when it is used."""
    assert name not in import_report[1]
