"""Passes for TorchScript, which has PyTorch's own operators: one pass over memory where several would do the same.

The backward pass stays a graph of plain operators on tensors. Two of them are kernels that autograd itself calls, see
:data:`KERNELS`; here they compute what the rule says, for any inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from exporter.lowering.pooling import find
from exporter.lowering.rewrite import Match, Pass, arguments, aten, producer
from exporter.program import same_shape

KERNELS = {"aten::leaky_relu_backward", "aten::max_pool2d_with_indices_backward"}
"""The operators of a TorchScript file that have a part of a derivative in their name."""


def _one_pass_mask(match: Match) -> Any:
    """``g * (y > 0) -> leaky_relu_backward(g, y, slope=0)``, and with ``* (g > 0)`` the same of ``relu(g)``.

    Comparison, cast and product in one: with the next pass 4 % less time of a resnet18, medians of interleaved runs.
    The kernel takes ``g`` where ``y > 0`` and ``g * slope`` elsewhere, so NaN in ``y`` masks, as the comparison does;
    ``threshold_backward`` would let it pass.
    """
    product, sign = arguments(match.node)[:2]
    y = _compared(sign)
    masked = producer(product, aten.mul.Tensor)
    positive = masked is not None and masked.args[0] is y  # g * m * (g > 0)
    g = product
    if positive and masked is not None:
        g, y = y, _compared(masked.args[1])
    if y is None or g is y or not _of_one_dtype(g, y):
        return NotImplemented
    expand = producer(g, aten.expand.default)
    if expand is not None and same_shape(y.meta["val"], match.node.meta["val"]):
        g = expand.args[0]  # the kernel broadcasts
    cotangent = match.value(g)
    return aten.leaky_relu_backward(torch.relu(cotangent) if positive else cotangent, match.value(y), 0.0, False)


def _compared(mask: Any) -> Any:
    """Return what a mask ``y > 0`` compares, else None."""
    comparison = producer(mask, aten.gt.Scalar)
    return comparison.args[0] if comparison is not None and comparison.args[1] == 0 else None


def _of_one_dtype(a: Any, b: Any) -> bool:
    """Tell whether two nodes are of one floating point dtype, as the kernel needs, unlike a product with a mask."""
    a, b = (node.meta["val"] if isinstance(node, fx.Node) else None for node in (a, b))
    return a is not None and b is not None and a.dtype == b.dtype and a.is_floating_point()


def _pool_gradient(match: Match) -> Any:
    """``scatter_add(argmax, ct) -> max_pool2d_with_indices_backward(ct)``: in any memory format, without a copy."""
    pool = find(match.node)
    if pool is None:
        return NotImplemented
    x, kernel, *rest = arguments(pool.node)
    defaults: list[Any] = [[], [0], [1], False]
    settings = [*rest, *defaults[len(rest) :]]
    indices = next(user for user in pool.node.users if user.args[1] == 1)
    ct, image, argmax = (match.value(node) for node in (pool.ct, x, indices))
    return aten.max_pool2d_with_indices_backward(ct, image, kernel, *settings, argmax)


ONE_PASS_MASK = Pass("one-pass mask", (aten.mul.Tensor,), _one_pass_mask)
POOL_GRADIENT = Pass("pool gradient", (aten.view.default, aten.reshape.default), _pool_gradient)
