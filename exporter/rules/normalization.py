"""Normalisation in eval mode: batch norm's statistics are constants, the others' are their input's."""

from __future__ import annotations

from collections.abc import Sequence

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


@vjp(aten.native_layer_norm.default)
def layer_norm(
    ct: Tensor,
    y: tuple[Tensor, Tensor, Tensor],
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    """Over the last axes. ct, x: [..., *shape]; y: (output, mean, 1 / deviation); returns x's shape."""
    if weight is not None:
        ct = ct * weight
    return normalized(ct, x, y[1], y[2], tuple(range(-len(shape), 0)))


@vjp(aten.native_group_norm.default)
def group_norm(
    ct: Tensor,
    y: tuple[Tensor, Tensor, Tensor],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    eps: float,
) -> Tensor:
    """Over each group of channels. ct, x: [N, C, ...]; y: (output, mean [N, G], 1 / deviation [N, G])."""
    if weight is not None:
        ct = ct * weight.view(-1, *[1] * (x.ndim - 2))
    shape = [x.shape[0], groups, -1]
    _, mean, rstd = y
    return normalized(ct.reshape(shape), x.reshape(shape), mean.unsqueeze(-1), rstd.unsqueeze(-1), (-1,)).reshape(
        x.shape
    )


def normalized(ct: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The vjp of ``z = (x - mean) rstd``: ``rstd (ct - mean(ct) - z mean(ct z))``, with the means over the axes.

    ct, x: any one shape; mean, rstd: the same with the axes of size 1; returns x's shape.
    """
    z = (x - mean) * rstd
    return rstd * (ct - ct.mean(axes, keepdim=True) - z * (ct * z).mean(axes, keepdim=True))
