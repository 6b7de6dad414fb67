"""Short names of the running results: cumsum, cumprod, cummin, cummax, logcumsumexp."""

from __future__ import annotations

from typing import Any

from niello.graph.opdef import function
from niello.graph.tensor import Tensor
from niello.ops.scan import (
    cumulative_logsumexp,
    cumulative_max,
    cumulative_min,
    cumulative_prod,
    cumulative_sum,
)


@function
def cumsum(
    x: Any,
    *,
    axis: int | None = None,
    exclusive: bool = False,
    reverse: bool = False,
    name: str | None = None,
) -> Tensor:
    """Short name of `cumulative_sum`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> y = nl.cumsum(graph.constant([1.0, 2.0]), axis=0)
        >>> graph.run(targets=[y])[y].numpy().tolist()
        [1.0, 3.0]
    """
    return cumulative_sum(x, axis=axis, exclusive=exclusive, reverse=reverse, name=name)


@function
def cumprod(
    x: Any,
    *,
    axis: int | None = None,
    exclusive: bool = False,
    reverse: bool = False,
    name: str | None = None,
) -> Tensor:
    """Short name of `cumulative_prod`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> y = nl.cumprod(graph.constant([2.0, 3.0]), axis=0)
        >>> graph.run(targets=[y])[y].numpy().tolist()
        [2.0, 6.0]
    """
    return cumulative_prod(x, axis=axis, exclusive=exclusive, reverse=reverse, name=name)


@function
def cummin(
    x: Any,
    *,
    axis: int | None = None,
    exclusive: bool = False,
    reverse: bool = False,
    name: str | None = None,
) -> Tensor:
    """Short name of `cumulative_min`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> y = nl.cummin(graph.constant([2.0, 3.0]), axis=0)
        >>> graph.run(targets=[y])[y].numpy().tolist()
        [2.0, 2.0]
    """
    return cumulative_min(x, axis=axis, exclusive=exclusive, reverse=reverse, name=name)


@function
def cummax(
    x: Any,
    *,
    axis: int | None = None,
    exclusive: bool = False,
    reverse: bool = False,
    name: str | None = None,
) -> Tensor:
    """Short name of `cumulative_max`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> y = nl.cummax(graph.constant([2.0, 1.0]), axis=0)
        >>> graph.run(targets=[y])[y].numpy().tolist()
        [2.0, 2.0]
    """
    return cumulative_max(x, axis=axis, exclusive=exclusive, reverse=reverse, name=name)


@function
def logcumsumexp(
    x: Any,
    *,
    axis: int | None = None,
    exclusive: bool = False,
    reverse: bool = False,
    name: str | None = None,
) -> Tensor:
    """Short name of `cumulative_logsumexp`.

    Example:
        >>> import niello as nl
        >>> graph = nl.Graph()
        >>> y = nl.logcumsumexp(graph.constant([0.0, 0.0]), axis=0)
        >>> graph.run(targets=[y])[y].numpy().tolist()
        [0.0, 0.693147...]
    """
    return cumulative_logsumexp(x, axis=axis, exclusive=exclusive, reverse=reverse, name=name)
