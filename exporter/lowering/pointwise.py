"""Passes on the head and on rectifier masks: the same values with fewer operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from exporter.lowering.rewrite import Match, Pass, aten, producer


def _row_of_weight(match: Match) -> Any:
    """``onehot(target) @ W -> W[target]``: the cotangent of a linear layer's input is a row of its weight."""
    left, weight = match.node.args
    onehot = producer(left, aten.scatter.value)
    if onehot is None or not producer(onehot.args[0], aten.zeros_like.default) or onehot.args[3] != 1:
        return NotImplemented
    column = producer(onehot.args[2], aten.unsqueeze.default)
    if column is None or not isinstance(weight, fx.Node) or weight.meta["val"].ndim != 2:
        return NotImplemented
    return torch.index_select(match.value(weight), 0, match.value(column.args[0]))


def _positive_part(match: Match) -> Any:
    """``g * m * (g > 0) -> relu(g) * m``, and ``g * (g > 0) -> relu(g)``."""
    product, sign = match.node.args[:2]
    sign = producer(sign, aten.gt.Scalar)
    if sign is None or sign.args[1] != 0:
        return NotImplemented
    cotangent: Any = sign.args[0]
    if product is cotangent:
        return torch.relu(match.value(cotangent))
    masked = producer(product, aten.mul.Tensor)
    if masked is None or masked.args[0] is not cotangent:
        return NotImplemented
    return torch.relu(_unexpanded(match, cotangent)) * match.value(masked.args[1])


def _broadcast(match: Match) -> Any:
    """``expand(a) * b -> a * b`` where ``b`` has the full shape already."""
    a, b = match.node.args[:2]
    full = isinstance(b, fx.Node) and b.meta["val"].shape == match.node.meta["val"].shape
    if not full or not producer(a, aten.expand.default):
        return NotImplemented
    return _unexpanded(match, a) * match.value(b)


def _unexpanded(match: Match, node: Any) -> Any:
    """Return the value before an ``expand``: the product that follows broadcasts by itself."""
    expand = producer(node, aten.expand.default)
    return match.value(node if expand is None else expand.args[0])


ROW_OF_WEIGHT = Pass("row of weight", (aten.matmul.default,), _row_of_weight)
POSITIVE_PART = Pass("positive part", (aten.mul.Tensor,), _positive_part)
BROADCAST = Pass("broadcast", (aten.mul.Tensor,), _broadcast)
