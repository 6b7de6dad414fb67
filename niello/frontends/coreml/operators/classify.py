"""The operator at the end of a classifier."""

from __future__ import annotations

from typing import Any

import niello as nl
from niello.frontends.coreml.features import classified
from niello.frontends.coreml.operation import Op
from niello.frontends.coreml.registry import operator


@operator("classify", fold=False)
def classify(at: Op) -> Any:
    """The label with the largest probability, and the probabilities by label."""
    raw = at.value("classes")
    values = raw if isinstance(raw, tuple) else tuple(raw.reshape(-1))
    labels = tuple(v if isinstance(v, str) else int(v) for v in values)
    scores = nl.cast(at.tensor("probabilities"), nl.float32)
    return classified(scores, labels, at.graph)
