"""Pooling: a window's cotangent goes to its maximum, or evenly to its members."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from exporter.rules.linear import per_axis
from exporter.rules.table import vjp

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
    spread = x.new_zeros(x.shape).flatten(-2)
    return spread.scatter_add(-1, y[1].flatten(-2), ct.flatten(-2)).view(x.shape)


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
    kernel = per_axis(kernel, 2)
    stride = per_axis(stride, 2) if len(stride) else kernel
    padding = per_axis(padding, 2)
    channels, (height, width), (rows, columns) = x.shape[-3], x.shape[-2:], ct.shape[-2:]
    if divisor is not None:
        ct = ct / divisor
    elif not ceil_mode and (count_include_pad or not any(padding)):
        ct = ct / (kernel[0] * kernel[1])
    else:
        counts = [
            _members(ct, n, length, k, s, p, count_include_pad)
            for n, length, k, s, p in zip((rows, columns), (height, width), kernel, stride, padding, strict=True)
        ]
        ct = ct / (counts[0][:, None] * counts[1])
    ones = ct.new_ones((channels, 1, *kernel))
    spread = torch.conv_transpose2d(ct, ones, None, stride, [0, 0], [0, 0], channels)
    before = padding
    reach = [(n - 1) * s + k for n, s, k in zip((rows, columns), stride, kernel, strict=True)]
    after = [length + p - r for length, p, r in zip((height, width), before, reach, strict=True)]
    return torch.constant_pad_nd(spread, [-before[1], after[1], -before[0], after[0]])


def _members(ct: Tensor, windows: int, length: int, kernel: int, stride: int, padding: int, padded: bool) -> Tensor:
    """Return ``[windows]``: how many positions along one axis each window's average was divided by."""
    start = torch.arange(windows, device=ct.device) * stride - padding
    end = (start + kernel).clamp(max=length + padding)
    if not padded:
        start, end = start.clamp(min=0), end.clamp(max=length)
    return (end - start).to(ct.dtype)
