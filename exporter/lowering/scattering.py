"""A pass on the cotangent of max-pools where a scatter is fast: on a GPU, and in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from exporter.lowering.pooling import Pool, apart, find, masked_pool, maxima
from exporter.lowering.rewrite import Match, Pass, arguments, aten
from exporter.rules.pooling import max_pool2d
from exporter.sizes import per_axis

Select = Callable[[Tensor, Tensor], Tensor]
"""``(ct, y)``, each ``[N, C, H', W']``: returns ``ct`` where ``y > 0``, and zero elsewhere."""

Scatter = Callable[..., Tensor]
"""``(ct, y, indices, x, *settings)`` of a max-pool: adds each window's cotangent at its maximum, ``[N, C, H, W]``."""


def _select(ct: Tensor, y: Tensor) -> Tensor:
    return torch.where(y > 0, ct, 0.0)


def _scatter(ct: Tensor, y: Tensor, indices: Tensor, x: Tensor, *settings: Any) -> Tensor:
    return max_pool2d(ct, (y, indices), x, *settings)


def masked_scatter(match: Match, select: Select = _select, scatter: Scatter = _scatter) -> Any:
    """``scatter_add(argmax, ct) * (x > 0) -> scatter_add(argmax, ct * (y > 0))``: the mask at the pooled size.

    What a window scatters goes to its maximum alone, so the mask of the one is the mask of the other. Followed by
    ``* (g > 0)`` it is the positive part of the sum; of ``ct`` where windows do not overlap. Of finite cotangents.

    On a GPU it takes 15 % less time of a resnet18 and 7 % of a resnet50 in onnxruntime than comparing taps, at 32
    images, where masks select either way. In TorchScript on a CPU, 1 % of a resnet18 and of a vgg16.
    """
    pooled = masked_pool(match.node, find)
    if pooled is None:
        return NotImplemented
    found, pool = pooled
    settings = arguments(pool.node)[1:]
    first = found.positive and _apart(*settings)
    ct, y, indices, x = (match.value(node) for node in sources(pool))
    g = scatter(select(torch.relu(ct) if first else ct, y), y, indices, x, *settings)
    return torch.relu(g) if found.positive and not first else g


def _apart(
    kernel: list[int],
    stride: list[int] | tuple[()] = (),
    padding: list[int] | tuple[int] = (0,),
    dilation: list[int] | tuple[int] = (1,),
    ceil_mode: bool = False,
) -> bool:
    kernel = per_axis(kernel, 2)
    return set(dilation) == {1} and apart(kernel, per_axis(stride, 2) if len(stride) else kernel)


def sources(pool: Pool) -> list[fx.Node]:
    """Return what a pool's cotangent is scattered from: ``ct``, the pool's maxima and their indices, and its image."""
    indices = next(user for user in pool.node.users if user.args[1] == 1)
    return [pool.ct, maxima(pool.node), indices, arguments(pool.node)[0]]


def masked_sources(node: fx.Node) -> list[fx.Node] | None:
    """Return what :func:`masked_scatter` starts from, or None where it does not apply."""
    pooled = masked_pool(node, find)
    return None if pooled is None else sources(pooled[1])


MASKED_SCATTER = Pass("masked scatter", (aten.mul.Tensor,), masked_scatter, masked_sources)
