"""Which function translates which ONNX operator, from which version of it on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from niello.frontends.onnx.call import Call

Translate = Callable[["Call"], Any]
Ahead = Callable[["Call"], Any]
F = TypeVar("F", bound=Translate)

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Translation:
    """How an operator is translated, from opset `since` of its domain on.

    `host`: runs while importing, on inputs whose values are known (shapes or strings depend on
    them). `fold`: may be evaluated while importing when its inputs are known. `ahead`: of what runs
    on the host, the part that a graph can compute before: tensors by name (Call.ahead), or None.
    """

    translate: Translate
    since: int
    host: bool = False
    fold: bool = True
    ahead: Ahead | None = None


_translations: dict[tuple[str, str], list[Translation]] = {}


def translates(
    *names: str,
    since: int = 1,
    domain: str = "",
    host: bool = False,
    fold: bool = True,
    ahead: Ahead | None = None,
) -> Callable[[F], F]:
    """Decorator: the function translates these operators, from opset `since` on."""

    def note(f: F) -> F:
        for name in names:
            known = _translations.setdefault((domain, name), [])
            if any(t.since == since for t in known):
                raise AssertionError(f"two translations of {domain}:{name} since {since}")
            known.append(Translation(f, since, host, fold, ahead))
            known.sort(key=lambda t: t.since)
        return f

    return note


def find(domain: str, name: str, version: int) -> Translation | None:
    """The translation for an operator at an opset version; None when there is none."""
    _load()
    fitting = [t for t in _translations.get((domain, name), ()) if t.since <= version]
    return fitting[-1] if fitting else None


def translated() -> dict[tuple[str, str], tuple[int, ...]]:
    """All operators with a translation, as (domain, name), and from which versions on."""
    _load()
    return {key: tuple(t.since for t in found) for key, found in _translations.items()}


def _load() -> None:
    """Import every module of translations; they register themselves."""
    from niello.frontends.onnx import translations  # noqa: F401
