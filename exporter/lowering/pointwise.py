"""Passes on the head and on rectifier masks: the same values with fewer operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from exporter.lowering.rewrite import Match, Pass, arguments, aten, producer
from exporter.program import same_shape


def _row_of_weight(match: Match) -> Any:
    """``onehot(target) @ W -> W[target]``: the cotangent of a linear layer's input is a row of its weight."""
    left, weight = arguments(match.node)
    onehot = producer(left, aten.scatter.value)
    if onehot is None or weight.meta["val"].ndim != 2:
        return NotImplemented
    zeros, axis, column, value = arguments(onehot)
    index = producer(column, aten.unsqueeze.default)
    if not producer(zeros, aten.zeros_like.default) or index is None or (axis, value) != (1, 1):
        return NotImplemented
    target, new_axis = arguments(index)
    if target.meta["val"].ndim != 1 or new_axis not in (1, -1):
        return NotImplemented
    return torch.index_select(match.value(weight), 0, match.value(target))


def _positive_part(match: Match) -> Any:
    """``g * m * (g > 0) -> relu(g) * m``, and ``g * (g > 0) -> relu(g)``."""
    product, sign = arguments(match.node)[:2]
    sign = producer(sign, aten.gt.Scalar)
    if sign is None or sign.args[1] != 0:
        return NotImplemented
    cotangent = sign.args[0]
    if product is cotangent:
        return torch.relu(match.value(cotangent))
    masked = producer(product, aten.mul.Tensor)
    if masked is None or masked.args[0] is not cotangent:
        return NotImplemented
    mask = masked.args[1]
    return torch.relu(_narrow(match, cotangent, mask, masked)) * match.value(mask)


def _broadcast(match: Match) -> Any:
    """``expand(a) * b -> a * b`` where ``b`` has the full shape already."""
    a, b = arguments(match.node)[:2]
    narrow = _narrow(match, a, b, match.node)
    return NotImplemented if narrow is match.value(a) else narrow * match.value(b)


def _narrow(match: Match, a: Any, b: Any, product: fx.Node) -> Any:
    """Return a factor before its ``expand`` if the other factor has the product's shape: multiplying broadcasts."""
    expand = producer(a, aten.expand.default)
    value = b.meta["val"] if isinstance(b, fx.Node) else None
    full = isinstance(value, Tensor) and same_shape(value, product.meta["val"])
    return match.value(a if expand is None or not full else expand.args[0])


ROW_OF_WEIGHT = Pass("row of weight", (aten.matmul.default,), _row_of_weight)
POSITIVE_PART = Pass("positive part", (aten.mul.Tensor,), _positive_part)
BROADCAST = Pass("broadcast", (aten.mul.Tensor,), _broadcast)
