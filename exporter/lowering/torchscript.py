"""Passes for TorchScript, which has PyTorch's own operators: one pass over memory where several would do the same.

The backward pass stays a graph of plain operators on tensors. Two of them are kernels that autograd itself calls, see
:data:`KERNELS`; here they compute what the rule says, for any inputs.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor

from exporter.lowering.pointwise import masked, positive_where
from exporter.lowering.pooling import find
from exporter.lowering.rewrite import Match, Pass, arguments, aten
from exporter.lowering.scattering import masked_scatter, masked_sources, sources

KERNELS = {"aten::leaky_relu_backward", "aten::max_pool2d_with_indices_backward"}
"""The operators of a TorchScript file that have a part of a derivative in their name."""


def _one_pass_mask(match: Match) -> Any:
    """``g * (y > 0) -> leaky_relu_backward(g, y, slope=0)``, and with ``* (g > 0)`` the same of ``relu(g)``.

    Comparison, cast and product in one: with the next pass 4 % less time of a resnet18, medians of interleaved runs.
    The kernel takes ``g`` where ``y > 0`` and ``g * slope`` elsewhere, so NaN in ``y`` masks, as the comparison does;
    ``threshold_backward`` would let it pass.
    """
    found = masked(match.node)
    y = positive_where(found.mask) if found else None
    if found is None or y is None or y.meta["val"].dtype != found.g.meta["val"].dtype:
        return NotImplemented
    return _select(found.cotangent(match), match.value(y))


def _select(ct: Tensor, y: Tensor) -> Tensor:
    selected: Tensor = aten.leaky_relu_backward(ct, y, 0.0, False)
    return selected


def _pool_gradient(match: Match) -> Any:
    """``scatter_add(argmax, ct) -> max_pool2d_with_indices_backward(ct)``: in any memory format, without a copy."""
    pool = find(match.node)
    if pool is None:
        return NotImplemented
    return _scatter(*map(match.value, sources(pool)), *arguments(pool.node)[1:])


def _scatter(ct: Tensor, y: Tensor, indices: Tensor, x: Tensor, kernel: list[int], *rest: Any) -> Tensor:
    defaults: list[Any] = [[], [0], [1], False]
    settings = [*rest, *defaults[len(rest) :]]
    scattered: Tensor = aten.max_pool2d_with_indices_backward(ct, x, kernel, *settings, indices)
    return scattered


ONE_PASS_MASK = Pass("one-pass mask", (aten.mul.Tensor,), _one_pass_mask)
POOL_GRADIENT = Pass("pool gradient", (aten.view.default, aten.reshape.default), _pool_gradient)
MASKED_POOL_GRADIENT = Pass(
    "masked pool gradient",
    (aten.mul.Tensor,),
    functools.partial(masked_scatter, select=_select, scatter=_scatter),
    masked_sources,
)
