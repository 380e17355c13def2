"""The vector-Jacobian product of every operator, as a flat table.

A rule takes the cotangent of an operator's output, the output and the operator's own arguments, and returns
the cotangent of one argument: ``rule(ct, y, *args, **kwargs)``. It is an ordinary function in plain torch
operators, runs eagerly, and knows nothing of graphs.
"""

from __future__ import annotations

from exporter.rules import linear, normalization, pointwise, pooling, shape
from exporter.rules.table import NO_GRADIENT, VJPS, Rule, vjp

__all__ = ["NO_GRADIENT", "VJPS", "Rule", "linear", "normalization", "pointwise", "pooling", "shape", "vjp"]
