"""What all tests share: options, environment, seeds, golden files."""

from __future__ import annotations

import os
import random
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

# Before Niello is imported: tests neither read nor fill the user's cache, verify every pass, and
# mean the CPU where they name no device, also on a machine whose default is a GPU.
os.environ["NIELLO_CACHE"] = "0"
os.environ.setdefault("NIELLO_DEVICE", "cpu")
os.environ.setdefault("NIELLO_VERIFY", "1")

import numpy as np
import pytest

HERE = Path(__file__).parent

# Test files of the same name may live in different folders (importlib mode), so the modules that
# tests share are found through the path.
for folder in sorted({p.parent for p in HERE.rglob("*.py")}):
    sys.path.append(str(folder))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help="of the tests that run on every back end, only those of this one; may be repeated",
    )
    parser.addoption(
        "--everything",
        action="store_true",
        help="all dtypes on every back end, also where software stands in for the hardware",
    )
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write golden files instead of comparing with them",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--backend")
    if not wanted:
        return
    from niello import backends

    known = set(backends.names())
    if unknown := set(wanted) - known:
        raise pytest.UsageError(f"--backend {min(unknown)}: there are {', '.join(sorted(known))}")
    kept, dropped = [], []
    for item in items:
        named = {v for v in _parameters(item).values() if isinstance(v, str)} & known
        (dropped if named and not named & set(wanted) else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=dropped)


def _parameters(item: pytest.Item) -> dict[str, object]:
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else callspec.params


@pytest.fixture
def everything(request: pytest.FixtureRequest) -> bool:
    """Whether `--everything` was given."""
    return bool(request.config.getoption("--everything"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number that depends on the test's name and nothing else."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """Random numbers, the same in every run of this test."""
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def _deterministic(seed: int) -> None:
    """Tests that use the global generators repeat too."""
    random.seed(seed)
    np.random.seed(seed)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(text, name)` compares with golden/<name> beside the test file.

    `pytest --update-golden` writes the file instead.
    """

    def compare(text: str, name: str) -> None:
        path = request.path.parent / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            return
        assert path.exists(), f"{path} is missing: run this test with --update-golden"
        assert text == path.read_text(), f"differs from {path}; --update-golden accepts it"

    return compare


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """`shared_data("mnist")`: a folder of real data, or a skip that says where it was looked for.

    It is in $NIELLO_TEST_DATA, or in shared/data beside the checkout.
    """

    def find(name: str) -> Path:
        chosen = os.environ.get("NIELLO_TEST_DATA")
        folder = Path(chosen) if chosen else HERE.parents[1] / "shared" / "data"
        if not (folder / name).is_dir():
            pytest.skip(f"needs {folder / name}; NIELLO_TEST_DATA names another folder of data")
        return folder / name

    return find
