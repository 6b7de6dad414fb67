"""The generated type stub is what the registry says."""

from tools import stubs


def test_the_stub_is_fresh() -> None:
    assert stubs.TARGET.read_text() == stubs.stub(), "run python -m tools.stubs"
