"""Spellings of sliding windows: cut out tap by tap, and put back by addition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from exporter.spellings.table import aten, spelling


@spelling(aten.unfold.default)
def _unfold(x: Tensor, dim: int, size: int, step: int) -> Tensor:
    """Each tap of all windows is a slice; the taps are a new last axis."""
    count = (x.shape[dim] - size) // step + 1
    return torch.stack([_tap(x, dim, tap, count, step) for tap in range(size)], -1)


@spelling(aten.im2col.default)
def _im2col(
    x: Tensor, kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """``[..., C, H, W] -> [..., C kh kw, H' W']``: a column for each window, zeros around the image."""
    return im2col(x, kernel, dilation, padding, stride)[0]


def im2col(
    x: Tensor, kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """Return the columns ``[..., C kh kw, H' W']``, one for each window, and how many windows each axis has."""
    height, width = (
        (length + 2 * p - d * (k - 1) - 1) // s + 1
        for length, k, d, p, s in zip(x.shape[-2:], kernel, dilation, padding, stride, strict=True)
    )
    x = torch.constant_pad_nd(x, [padding[1], padding[1], padding[0], padding[0]])
    taps = [
        _tap(_tap(x, -2, row * dilation[0], height, stride[0]), -1, column * dilation[1], width, stride[1])
        for row in range(kernel[0])
        for column in range(kernel[1])
    ]
    columns = torch.stack(taps, -3).reshape([*x.shape[:-3], x.shape[-3] * len(taps), height * width])
    return columns, [height, width]


@spelling(aten.col2im.default)
def _col2im(
    x: Tensor,
    size: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """``[..., C kh kw, H' W'] -> [..., C, H, W]``: each tap's values at their places, added where windows overlap."""
    axes = list(zip(size, kernel, dilation, padding, stride, strict=True))
    counts = [(length + 2 * p - d * (k - 1) - 1) // s + 1 for length, k, d, p, s in axes]
    taps = kernel[0] * kernel[1]
    apart = x.reshape([*x.shape[:-2], x.shape[-2] // taps, taps, *counts])
    whole = None
    for tap, part in enumerate(apart.unbind(-3)):
        widths: list[int] = []
        for axis, place in zip((-1, -2), divmod(tap, kernel[1])[::-1], strict=True):
            length, _, d, p, s = axes[axis]
            part = _spread(part, axis, s)
            before = place * d - p
            widths += [before, length - before - part.shape[axis]]
        part = torch.constant_pad_nd(part, widths)
        whole = part if whole is None else whole + part
    assert whole is not None
    return whole


def _tap(x: Tensor, dim: int, start: int, count: int, step: int) -> Tensor:
    """Return every ``step``-th position of an axis from a start on, ``count`` in all."""
    return aten.slice(x, dim, start, start + (count - 1) * step + 1, step)


def _spread(x: Tensor, dim: int, step: int) -> Tensor:
    """Put ``step - 1`` zeros behind each position of an axis but the last; dim counts from the end."""
    if step == 1:
        return x
    spread = torch.constant_pad_nd(x.unsqueeze(x.ndim + dim + 1), [0, 0] * (-dim - 1) + [0, step - 1])
    spread = spread.flatten(x.ndim + dim, x.ndim + dim + 1)
    return aten.slice(spread, dim, 0, (x.shape[dim] - 1) * step + 1)
