"""Normalisation in eval mode: statistics are constants."""

from __future__ import annotations

import torch
from torch import Tensor

from exporter.rules.table import vjp

aten = torch.ops.aten


@vjp(aten.batch_norm.default)
def batch_norm(
    ct: Tensor,
    y: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """``ct * weight / sqrt(var + eps)`` per channel. ct, y, x: [N, C, ...]; the rest: [C]; returns x's shape."""
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = weight * scale
    return ct * scale.view(-1, *[1] * (x.ndim - 2))
