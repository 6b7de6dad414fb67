"""Einstein's summation convention, as products of matrices."""

from __future__ import annotations

import string
from typing import Any

from niello.core.errors import AttributeValueError, ShapeError
from niello.graph.opdef import functions, plain_function
from niello.graph.tensor import Tensor
from niello.ops.define import operands


def _parsed(equation: str, ranks: list[int | None]) -> tuple[list[str], str]:
    """Letters of each operand and of the result, with spare letters for an ellipsis."""
    plain = equation.replace(" ", "")
    left, arrow, right = plain.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise AttributeValueError(
            "einsum",
            f"the equation names {len(terms)} operands",
            received=f"{len(ranks)} operands for {equation!r}",
        )
    used = set(plain)
    spare = [c for c in string.ascii_letters if c not in used]
    longest = 0
    for term, rank in zip(terms, ranks, strict=True):
        if "..." in term:
            if rank is None:
                raise ShapeError("einsum", "the rank of an operand with ... must be known")
            longest = max(longest, rank - len(term.replace("...", "")))
    dots = "".join(spare[:longest])
    found = []
    for term, rank in zip(terms, ranks, strict=True):
        named = term.replace("...", "")
        if "..." in term:
            count = (rank or 0) - len(named)
            term = term.replace("...", dots[len(dots) - count :] if count else "")
        if not all(c in string.ascii_letters for c in term) or rank not in (None, len(term)):
            raise AttributeValueError(
                "einsum",
                f"the term {term!r} does not fit an operand of rank {rank}",
                received=equation,
                advice="Name each axis by one letter",
            )
        found.append(term)
    if not arrow:
        letters = "".join(found)
        right = dots + "".join(sorted(c for c in set(letters) - set(dots) if letters.count(c) == 1))
    right = right.replace("...", dots)
    if len(set(right)) != len(right) or not set(right) <= set("".join(found)):
        raise AttributeValueError(
            "einsum",
            "the result names each axis once, and only axes of the operands",
            received=equation,
        )
    return found, right


def _without_repeats(x: Tensor, term: str) -> tuple[Tensor, str]:
    """Diagonals where a letter comes twice in one operand."""
    for letter in dict.fromkeys(term):
        while term.count(letter) > 1:
            first = term.index(letter)
            second = term.index(letter, first + 1)
            x = functions()["diagonal"](x, 0, first, second)
            term = term[:first] + term[first + 1 : second] + term[second + 1 :] + letter
    return x, term


def _summed(x: Tensor, term: str, kept: set[str]) -> tuple[Tensor, str]:
    """Without the axes that nobody else names."""
    gone = tuple(i for i, c in enumerate(term) if c not in kept)
    if not gone:
        return x, term
    return x.sum(gone), "".join(c for c in term if c in kept)


def _ordered(x: Tensor, term: str, wanted: str) -> Tensor:
    """Axes in the order of `wanted`, which has the same letters."""
    if term == wanted:
        return x
    found: Tensor = x.transpose(tuple(term.index(c) for c in wanted))
    return found


def _product(a: Tensor, at: str, b: Tensor, bt: str, kept: set[str]) -> tuple[Tensor, str]:
    """Two operands to one by a product of matrices: axes of both that stay are its batch."""
    shared = [c for c in at if c in bt]
    batch = "".join(c for c in shared if c in kept)
    inner = "".join(c for c in shared if c not in kept)
    rows = "".join(c for c in at if c not in bt)
    columns = "".join(c for c in bt if c not in at)
    left, right = _ordered(a, at, batch + rows + inner), _ordered(b, bt, batch + inner + columns)
    n = len(batch)
    if not inner:  # an outer product
        for _ in columns:
            left = left.expand_dims(-1)
        for _ in rows:
            right = right.expand_dims(n)
        return left * right, batch + rows + columns
    left = _flat(left, n, len(rows), len(inner))
    right = _flat(right, n, len(inner), len(columns))
    made = functions()["matmul"](left, right)
    sizes = _sizes(a, at) | _sizes(b, bt)
    final = batch + rows + columns
    unknown = sum(sizes[c] is None for c in final)
    if len(rows) != 1 or len(columns) != 1:
        if unknown > 1:
            raise ShapeError(
                "einsum",
                "several axes of one operand that stay must have known sizes",
                received=f"{a.type} and {b.type}",
            )
        made = made.reshape(tuple(-1 if sizes[c] is None else sizes[c] for c in final))
    return made, final


def _sizes(x: Tensor, term: str) -> dict[str, int | None]:
    shape = x.shape if x.shape is not None else (None,) * len(term)
    return {c: d for c, d in zip(term, shape, strict=True) if d is not None} | {
        c: None for c, d in zip(term, shape, strict=True) if d is None
    }


def _flat(x: Tensor, batch: int, first: int, second: int) -> Tensor:
    """[batch..., first..., second...] with each group one axis."""
    if second != 1:
        end = batch + first
        x = (
            x.expand_dims(end)
            if second == 0
            else functions()["flatten_axes"](x, end, end + second - 1)
        )
    if first != 1:
        x = (
            x.expand_dims(batch)
            if first == 0
            else functions()["flatten_axes"](x, batch, batch + first - 1)
        )
    return x


@plain_function
def einsum(equation: str, *tensors: Any, name: str | None = None) -> Tensor:
    """Products of tensors summed over axes: "bij,bjk->bik" is a product of stacks of matrices.

    Each axis of each operand is a letter, `...` stands for axes that broadcast; letters that the
    result does not name are summed over. Without `->` the result has the letters that come once, in
    alphabetic order. Operands are combined from left to right. Raises AttributeValueError for an
    equation that does not fit, ShapeError for sizes that differ. As NumPy's einsum.

    Example:
        >>> import niello as nl
        >>> g = nl.Graph()
        >>> nl.einsum("bij,bkj->bik", g.placeholder((2, 3, 4)), g.placeholder((2, 5, 4))).shape
        (2, 3, 5)
    """
    if not tensors:
        raise AttributeValueError("einsum", "needs at least one operand", received="none")
    listed = operands("einsum", *tensors)
    terms, result = _parsed(equation, [t.rank for t in listed])
    _check_sizes(listed, terms)
    pending = [_without_repeats(x, t) for x, t in zip(listed, terms, strict=True)]
    x, term = pending[0]
    for n, (y, other) in enumerate(pending[1:], 1):
        later = set(result).union(*(t for _, t in pending[n + 1 :]))
        x, term = _summed(x, term, later | set(other))
        y, other = _summed(y, other, later | set(term))
        x, term = _product(x, term, y, other, later)
    x, term = _summed(x, term, set(result))
    found = _ordered(x, term, result)
    return found if name is None else functions()["identity"](found, name=name)  # type: ignore[no-any-return]


def _check_sizes(listed: list[Tensor], terms: list[str]) -> None:
    sizes: dict[str, int] = {}
    for x, term in zip(listed, terms, strict=True):
        for letter, size in zip(term, x.shape or (None,) * len(term), strict=True):
            if size is None:
                continue
            known = sizes.setdefault(letter, size)
            if known != size:
                raise ShapeError(
                    "einsum",
                    f"axis {letter!r} has two sizes: {known} and {size}",
                    received=" and ".join(str(t.type) for t in listed),
                )
