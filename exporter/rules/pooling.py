"""Pooling: a window's cotangent goes to its maximum, or evenly to its members."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from exporter.rules.linear import TRANSPOSED, fit
from exporter.rules.table import vjp
from exporter.sizes import per_axis

aten = torch.ops.aten


@vjp(aten.max_pool2d_with_indices.default)
def max_pool2d(
    ct: Tensor,
    y: tuple[Tensor, Tensor],
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor:
    """Add each window's cotangent at its argmax, the first in row-major order where there are several.

    ct: [N, C, H', W']; y: (maxima, flat indices into H * W), each [N, C, H', W']; returns [N, C, H, W].
    """
    return _scatter(2, ct, y[1], x)


@vjp(aten.max_pool3d_with_indices.default)
def max_pool3d(ct: Tensor, y: tuple[Tensor, Tensor], x: Tensor, kernel: Sequence[int], *settings: object) -> Tensor:
    """As in two dimensions. ct: [N, C, D', H', W']; returns [N, C, D, H, W]."""
    return _scatter(3, ct, y[1], x)


def _scatter(axes: int, ct: Tensor, indices: Tensor, x: Tensor) -> Tensor:
    spread = x.new_zeros(x.shape).flatten(-axes)
    return spread.scatter_add(-1, indices.flatten(-axes), ct.flatten(-axes)).view(x.shape)


@vjp(aten.avg_pool2d.default)
def avg_pool2d(
    ct: Tensor,
    y: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Tensor:
    """Spread each window's cotangent evenly over its members. ct, y: [N, C, H', W']; returns [N, C, H, W].

    The number of members is the divisor of the forward pass: the kernel's size, cut at the edge of the padded
    image (ceil mode) or, without ``count_include_pad``, of the image itself.
    """
    return _avg_pool(2, ct, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor)


@vjp(aten.avg_pool3d.default)
def avg_pool3d(
    ct: Tensor,
    y: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Tensor:
    """As in two dimensions. ct, y: [N, C, D', H', W']; returns [N, C, D, H, W]."""
    return _avg_pool(3, ct, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor)


def _avg_pool(
    axes: int,
    ct: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    ceil_mode: bool,
    padded: bool,
    divisor: int | None,
) -> Tensor:
    kernel = per_axis(kernel, axes)
    stride = per_axis(stride, axes) if len(stride) else kernel
    padding = per_axis(padding, axes)
    channels, size, out = x.shape[-axes - 1], x.shape[-axes:], ct.shape[-axes:]
    if divisor is not None:
        ct = ct / divisor
    elif not ceil_mode and (padded or not any(padding)):
        ct = ct / math.prod(kernel)
    else:
        for axis in range(axes):
            n, length, k, s, p = (values[axis] for values in (out, size, kernel, stride, padding))
            count = _members(ct, n, length, k, s, p, padded)
            ct = ct / count.view(-1, *[1] * (axes - 1 - axis))
    ones = ct.new_ones((channels, 1, *kernel))
    spread = TRANSPOSED[axes](ct, ones, None, stride, [0] * axes, [0] * axes, channels)
    return fit(spread, size, padding)


def _members(ct: Tensor, windows: int, length: int, kernel: int, stride: int, padding: int, padded: bool) -> Tensor:
    """Return ``[windows]``: how many positions along one axis each window's average was divided by."""
    start = torch.arange(windows, device=ct.device) * stride - padding
    end = (start + kernel).clamp(max=length + padding)
    if not padded:
        start, end = start.clamp(min=0), end.clamp(max=length)
    return (end - start).to(ct.dtype)
