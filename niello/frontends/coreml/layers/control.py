"""Branches and loops."""

from __future__ import annotations

from typing import Any

import numpy as np

import niello as nl
from niello.frontends.coreml.builder import Unknown
from niello.frontends.coreml.call import Layer
from niello.frontends.coreml.layers.broadcastable import truth
from niello.frontends.coreml.registry import layer


def _written(network: Any) -> list[str]:
    """The names that the layers of a network write, each once."""
    return list(dict.fromkeys(name for m in network.layers for name in m.output))


@layer("branch", fold=False)
def branch(at: Layer) -> Any:
    """One of two networks; what both write (or one writes anew) holds afterwards."""
    p = at.p
    try:
        chosen = bool(np.any(at.builder.array(at.value())))
    except Unknown:
        return _computed_branch(at)
    at.network.run(p.ifBranch if chosen else p.elseBranch, at.scope)
    return _outputs(at)


def _outputs(at: Layer) -> tuple[Any, ...]:
    return tuple(at.scope[name] for name in at.message.output)


def _computed_branch(at: Layer) -> Any:
    p, before = at.p, dict(at.scope)
    then, other = _written(p.ifBranch), _written(p.elseBranch)
    names = [n for n in dict.fromkeys([*then, *other]) if (n in then or n in before) and (
        n in other or n in before
    )]  # fmt: skip

    def side(network: Any) -> Any:
        def build() -> list[nl.Tensor]:
            with at.builder.region():
                scope = dict(before)
                at.network.run(network, scope)
                return [at.builder.tensor(scope[n]) for n in names]

        return build

    predicate = nl.any(truth(at.tensor()))
    found = nl.if_(predicate, side(p.ifBranch), side(p.elseBranch))
    found = found if isinstance(found, (list, tuple)) else [found]
    at.scope.update(zip(names, found, strict=True))
    return _outputs(at)
