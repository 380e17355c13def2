"""Canonical spellings, by family: an operator in terms of those that have a rule and a translation.

Each is a function of plain torch operators with the signature of the operator that it replaces and the same value;
nothing here changes what the network computes.
"""

from __future__ import annotations

from exporter.spellings import (
    identity,
    indexing,
    linear,
    normalization,
    pointwise,
    pooling,
    recurrent,
    reduction,
    resampling,
    sampling,
    shape,
    windows,
)
from exporter.spellings.table import SPELLINGS, spelling

__all__ = [
    "SPELLINGS",
    "identity",
    "indexing",
    "linear",
    "normalization",
    "pointwise",
    "pooling",
    "recurrent",
    "reduction",
    "resampling",
    "sampling",
    "shape",
    "spelling",
    "windows",
]
