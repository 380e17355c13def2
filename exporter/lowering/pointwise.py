"""Passes on the head and on rectifier masks: the same values with fewer operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from exporter.lowering.rewrite import Match, Pass, arguments, aten, producer
from exporter.program import same_shape, scope_of


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


@dataclass(frozen=True)
class Masked:
    """A cotangent's product with a rectifier's mask.

    Attributes:
        g: The cotangent; not expanded, where the mask has the whole shape.
        mask: Of booleans.
        positive: Whether the product is with ``g > 0`` too.
    """

    g: fx.Node
    mask: fx.Node
    positive: bool

    def cotangent(self, match: Match) -> Tensor:
        """Return the value of ``g``, or of its positive part where only that counts."""
        value: Tensor = match.value(self.g)
        return torch.relu(value) if self.positive else value


def masked(node: fx.Node) -> Masked | None:
    """Recognise ``g * m`` and ``g * m * (g > 0)`` where ``m`` is of booleans."""
    product, mask = arguments(node)[:2]
    compared = positive_where(mask)
    inner = producer(product, aten.mul.Tensor)
    positive = inner is not None and compared is not None and inner.args[0] is compared
    if product is compared or not _is_mask(mask):
        return None
    if positive and inner is not None:
        product, mask = arguments(inner)[:2]
        if not _is_mask(mask):
            return None
    if not isinstance(product, fx.Node) or not isinstance(product.meta["val"], Tensor):
        return None
    expand = producer(product, aten.expand.default)
    if expand is not None and same_shape(mask.meta["val"], node.meta["val"]):
        product = expand.args[0]
    return Masked(product, mask, positive)


def positive_where(mask: Any) -> Any:
    """Return what a mask ``y > 0`` compares, else None."""
    comparison = producer(mask, aten.gt.Scalar)
    return comparison.args[0] if comparison is not None and comparison.args[1] == 0 else None


def _is_mask(node: Any) -> bool:
    value = node.meta["val"] if isinstance(node, fx.Node) else None
    return isinstance(value, Tensor) and value.dtype == torch.bool


def _selected_mask(match: Match) -> Any:
    """``g * m -> where(m, g, 0)``, and with ``* (g > 0)`` the same of ``relu(g)``: OpenVINO fuses the comparison.

    Of cotangents only: where a network itself multiplies infinity by zero, it is NaN.
    """
    found = masked(match.node) if scope_of(match.node).endswith(".vjp") else None
    return NotImplemented if found is None else torch.where(match.value(found.mask), found.cotangent(match), 0.0)


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
SELECTED_MASK = Pass("selected mask", (aten.mul.Tensor,), _selected_mask)
BROADCAST = Pass("broadcast", (aten.mul.Tensor,), _broadcast)
