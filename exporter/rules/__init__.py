"""The vector-Jacobian product of every operator, as a flat table.

A rule takes the cotangent of an operator's output, the output and the operator's own arguments, and returns
the cotangent of one argument: ``rule(ct, y, *args, **kwargs)``. It is an ordinary function in plain torch
operators, runs eagerly, and knows nothing of graphs. An operator that returns a list takes a list of cotangents.
"""

from __future__ import annotations

from exporter.rules import activation, linear, normalization, pointwise, pooling, reduction, shape
from exporter.rules.table import NO_GRADIENT, VJPS, Rule, vjp

__all__ = [
    "NO_GRADIENT",
    "VJPS",
    "Rule",
    "activation",
    "linear",
    "normalization",
    "pointwise",
    "pooling",
    "reduction",
    "shape",
    "vjp",
]
