"""docs/onnx.md says what the front end does."""

from __future__ import annotations

import pytest

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")

from onnx.defs import get_all_schemas  # noqa: E402

from niello.frontends.onnx import registry  # noqa: E402
from niello.frontends.onnx.functions import has_expansion  # noqa: E402
from tools import onnx_page  # noqa: E402


def test_the_page_is_current() -> None:
    current = onnx_page.PAGE.read_text()
    if f"tests of onnx {onnx.__version__} " not in current:
        pytest.skip(f"docs/onnx.md was written with another onnx than {onnx.__version__}")
    assert current == onnx_page.page(), "run python -m tools.onnx_page"


def test_every_operator_of_the_default_domain_is_translated() -> None:
    left = [
        s.name
        for s in get_all_schemas()
        if s.domain == ""
        and registry.find("", s.name, s.since_version) is None
        and not has_expansion("", s.name, s.since_version)
    ]
    assert not left
