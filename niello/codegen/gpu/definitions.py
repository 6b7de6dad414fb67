"""Functions that generated source calls: it holds those that it uses, and what those use."""

from __future__ import annotations

import re
from collections.abc import Mapping


class Definitions:
    """Definitions by name, each before those that use it."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = dict(texts)
        self.calls = {
            name: [n for n in _names(text) if n in self.texts and n != name]
            for name, text in self.texts.items()
        }

    def before(self, text: str) -> str:
        """The text after the definitions that it needs."""
        needed: set[str] = set()
        stack = [n for n in _names(text) if n in self.texts]
        while stack:
            name = stack.pop()
            if name not in needed:
                needed.add(name)
                stack.extend(self.calls[name])
        return "\n".join([*(t for n, t in self.texts.items() if n in needed), text])


def _names(text: str) -> list[str]:
    return sorted(set(re.findall(r"\bnl_\w+", text)))
