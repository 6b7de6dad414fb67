"""Every back end of the registry goes through the same tests."""

from __future__ import annotations

import pytest

from niello import backends
from niello.core.errors import BackendUnavailable


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", backends.names(), indirect=True)


@pytest.fixture
def device(request):
    """An opened device; skipped only where the driver says that it is absent."""
    try:
        return backends.device(request.param)
    except BackendUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def running(device):
    """A device that plays what it compiles."""
    if not backends.backend(device.name).runs:
        pytest.skip(f"{device.name} compiles only")
    return device
