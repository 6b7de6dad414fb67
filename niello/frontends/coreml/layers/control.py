"""Branches, and what ends a step of a loop early.

Names that a network inside writes hold afterwards. A break or continue in a branch whose condition
is computed splits what follows: the layers behind the branch belong to the side that goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.builder import Unknown
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.layers.broadcastable import truth
from niello.frontends.coreml.registry import layer

# Whether the loop around has been ended: a value of the scope, under a name that no layer has.
BREAK = "\0break"
_STOPS = ("loopBreak", "loopContinue")


def stops(layers: Iterable[Any]) -> bool:
    """Whether a break or continue of the loop around is among the layers, or in their branches."""
    for m in layers:
        kind = m.WhichOneof("layer")
        if kind in _STOPS:
            return True
        if kind == "branch" and (
            stops(m.branch.ifBranch.layers) or stops(m.branch.elseBranch.layers)
        ):
            return True
    return False


def written(layers: Sequence[Any]) -> tuple[dict[str, None], dict[str, None]]:
    """Names that the layers write for certain, and names that they may write."""
    certain: dict[str, None] = {}
    possible: dict[str, None] = {}
    for i, m in enumerate(layers):
        kind = m.WhichOneof("layer")
        if kind in _STOPS:
            break
        if kind == "branch":
            ends = stops([m])
            then, other = sides(m, layers[i + 1 :] if ends else ())
            (a, b), (c, d) = written(then), written(other)
            certain |= {n: None for n in a if n in c}
            possible |= b | d
            if ends:
                break
        elif kind == "loop":
            certain |= written(m.loop.conditionNetwork.layers)[0]
            for network in (m.loop.conditionNetwork, m.loop.bodyNetwork):
                possible |= written(network.layers)[1]
        names = dict.fromkeys(m.output)
        certain |= names
        possible |= names
    return certain, possible | certain


def sides(message: Any, rest: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """The layers of both sides of a branch, each with those that follow."""
    p = message.branch
    return [*p.ifBranch.layers, *rest], [*p.elseBranch.layers, *rest]


@layer("branch", fold=False)
def branch(at: Layer) -> Any:
    """One of two networks; what both write (or one writes anew) holds afterwards."""
    ends = stops([at.message])
    then, other = sides(at.message, at.rest if ends else ())
    try:
        chosen = bool(np.any(at.builder.array(at.value())))
    except Unknown:
        _computed_branch(at, then, other)
        at.stopped = ends
    else:
        stopped = at.network.run(then if chosen else other, at.scope)
        at.stopped = stopped or ends
    return tuple(at.scope[name] for name in at.message.output)


def _computed_branch(at: Layer, then: Sequence[Any], other: Sequence[Any]) -> None:
    before = dict(at.scope)
    (a, b), (c, d) = written(then), written(other)
    names = [n for n in b | d if (n in a or n in before) and (n in c or n in before)]
    if BREAK in before:
        names.append(BREAK)

    def side(layers: Sequence[Any]) -> Any:
        def build() -> list[nl.Tensor]:
            with at.builder.region():
                scope = dict(before)
                at.network.run(layers, scope)
                return [at.builder.tensor(scope[n]) for n in names]

        return build

    found = nl.if_(nl.any(truth(at.tensor())), side(then), side(other))
    at.scope.update(zip(names, found, strict=True))


def _stop(at: Layer) -> None:
    if BREAK not in at.scope:
        raise at.refuse("is outside of a loop", at.message.name, "The file is not a valid model")
    at.stopped = True


@layer("loopBreak", fold=False)
def loop_break(at: Layer) -> Any:
    """The end of the loop around."""
    _stop(at)
    at.scope[BREAK] = np.bool_(True)
    return ()


@layer("loopContinue", fold=False)
def loop_continue(at: Layer) -> Any:
    """The end of this step of the loop around."""
    _stop(at)
    return ()
