"""Finds what the order of a routine's iterations would decide: elements that one of them writes and
another one reads or writes, within a Spread or between teams."""

from __future__ import annotations

from typing import Any

import numpy as np

from niello.core.errors import CompilerBug
from niello.kernel.ir import Param
from niello.kernel.routine import Place

Array = np.ndarray[Any, Any]

_NOBODY = -1
_SEVERAL = -2  # combined into, by any number of iterations


class Races:
    """Who wrote each element: in the running Spread, and since the routine began.

    `teams` are the numbers of the teams that run. Places have one row of elements for each team,
    or are shared by all (parameters).
    """

    def __init__(self, name: str, teams: Array) -> None:
        self.name = name
        self.teams = teams
        self.owner: dict[Place, Array] = {}  # the team that wrote an element of a parameter
        self.writer: dict[Place, Array] = {}  # the iteration that did, in the running Spread

    def spread(self) -> None:
        """Another Spread begins: what was written is visible to all its iterations."""
        self.writer = {}

    def read(self, place: Place, at: tuple[Array, ...], iteration: Array) -> None:
        """Elements `at` are read by iterations; each index and number is an array."""
        self._compare(place, at, iteration, "reads")

    def write(
        self, place: Place, at: tuple[Array, ...], iteration: Array, combines: bool, size: Any
    ) -> None:
        """Elements of a place of shape `size` are written."""
        self._compare(place, at, iteration, "combines into" if combines else "writes")
        mark = np.full_like(iteration, _SEVERAL) if combines else iteration
        self.writer.setdefault(place, np.full(size, _NOBODY, np.int64))[at] = mark
        if isinstance(place, Param):
            owner = self.owner.setdefault(place, np.full(size, _NOBODY, np.int64))
            team = self._team(iteration)
            if combines:
                shared = (owner[at] != _NOBODY) & (owner[at] != team)
                owner[at] = np.where(shared, _SEVERAL, team)
                team = np.where(owner[at] != team, _SEVERAL, team)
            owner[at] = team
        self._twice(place, at, iteration, combines)

    def _team(self, iteration: Array) -> Array:
        return iteration >> 32

    def _compare(self, place: Place, at: tuple[Array, ...], who: Array, what: str) -> None:
        found = [(self.writer.get(place), who)]
        if isinstance(place, Param):
            found.append((self.owner.get(place), self._team(who)))
        for known, own in found:
            if known is None:
                continue
            before = known[at]
            wrong = (before != _NOBODY) & (before != own)
            if what == "combines into":
                wrong &= before != _SEVERAL
            if wrong.any():
                self._fail(place, at, wrong, f"one iteration {what} what another one wrote")

    def _twice(self, place: Place, at: tuple[Array, ...], who: Array, combines: bool) -> None:
        if not combines:
            wrong = self.writer[place][at] != who
            if wrong.any():
                self._fail(place, at, wrong, "several iterations write one element")

    def _fail(self, place: Place, at: tuple[Array, ...], wrong: Array, what: str) -> None:
        element = int(np.broadcast_to(at[-1], wrong.shape)[wrong].ravel()[0])
        raise CompilerBug(
            f"routine {self.name}",
            f"{what} of {place!r}",
            received=f"element {element}",
            advice="Order them: end the Spread in between, or give the work to one team",
        )
