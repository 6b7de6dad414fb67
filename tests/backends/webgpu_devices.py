"""The device that the webgpu tests use, and programs for it."""

from __future__ import annotations

import os

import pytest

from niello import backends
from niello.core.errors import BackendUnavailable


def opened():
    """The webgpu device; a skip where there is no adapter, unless one is demanded."""
    try:
        return backends.device("webgpu")
    except BackendUnavailable as error:
        absent = pytest.fail if os.environ.get("NIELLO_REQUIRE_WEBGPU") == "1" else pytest.skip
        absent(str(error))
