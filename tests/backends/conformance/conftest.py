"""Every back end of the registry goes through the same tests."""

from __future__ import annotations

import os

import pytest

from niello import backends
from niello.core.errors import BackendUnavailable


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", backends.names(), indirect=True)


def required(name: str) -> bool:
    """Whether the environment demands this back end."""
    return os.environ.get(f"NIELLO_REQUIRE_{name.upper()}") == "1"


@pytest.fixture
def device(request):
    """An opened device; skipped only where the driver says that it is absent, and not where
    NIELLO_REQUIRE_<NAME>=1 says that it must be there."""
    try:
        return backends.device(request.param)
    except BackendUnavailable as error:
        absent = pytest.fail if required(request.param) else pytest.skip
        absent(str(error))


@pytest.fixture
def running(device):
    """A device that plays what it compiles."""
    if not backends.backend(device.name).runs:
        pytest.skip(f"{device.name} compiles only")
    return device
