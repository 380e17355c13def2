"""Spellings of pooling: one and three dimensions, and adaptive windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.errors import UnsupportedOp
from exporter.sizes import per_axis
from exporter.spellings.table import aten, spelling


def _max_pool(axes: int) -> Callable[..., Tensor]:
    pool = {2: aten.max_pool2d_with_indices, 3: aten.max_pool3d_with_indices}[axes]

    def spelled(
        x: Tensor,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> Tensor:
        """With the argmax, which the vjp needs.

        In ceil mode the border of minus infinity is written out where the image's size varies, and where it is as
        wide as the kernel, as a dilation allows and onnxruntime does not.
        """
        if x.ndim == axes + 1:
            return spelled(x.unsqueeze(1), kernel, stride, padding, dilation, ceil_mode).squeeze(1)
        y: Tensor = pool(x, kernel, stride, padding, dilation, ceil_mode)[0]
        if not ceil_mode:
            return y
        kernel, stride, padding, dilation = (per_axis(v, axes) for v in (kernel, stride or kernel, padding, dilation))
        every = zip(x.shape[-axes:], y.shape[-axes:], kernel, stride, padding, dilation, strict=True)
        after = [(n - 1) * s + d * (k - 1) + 1 - p - length for length, n, k, s, p, d in every]
        if all(isinstance(width, int) and width < k for width, k in zip(after, kernel, strict=True)):
            return y
        borders = [width for pair in reversed(list(zip(padding, after, strict=True))) for width in pair]
        return pool(torch.constant_pad_nd(x, borders, -math.inf), kernel, stride, [0] * axes, dilation)[0]

    return spelled


spelling(aten.max_pool2d.default)(_max_pool(2))
spelling(aten.max_pool3d.default)(_max_pool(3))


@spelling(aten.max_pool1d.default)
def _max_pool1d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor:
    """In two dimensions, one high."""
    settings = [1, *kernel], [1, *(stride or kernel)], [0, *padding], [1, *dilation], ceil_mode
    return _max_pool(2)(x.unsqueeze(-2), *settings).squeeze(-2)


@spelling(aten.avg_pool1d.default)
def _avg_pool1d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """In two dimensions, one high."""
    settings = [1, *kernel], [1, *(stride or kernel)], [0, *padding], ceil_mode, count_include_pad
    return _avg_pool(2)(x.unsqueeze(-2), *settings).squeeze(-2)


def _avg_pool(axes: int) -> Callable[..., Tensor]:
    pool = {2: aten.avg_pool2d, 3: aten.avg_pool3d}[axes]

    def spelled(x: Tensor, *settings: Any) -> Tensor:
        """Of an image without channels, with one; PyTorch takes its batch for the channels."""
        y: Tensor = pool(x.unsqueeze(1), *settings).squeeze(1) if x.ndim == axes + 1 else pool(x, *settings)
        return y

    return spelled


spelling(aten.avg_pool2d.default)(_avg_pool(2))
spelling(aten.avg_pool3d.default)(_avg_pool(3))


@spelling(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default)
def _adaptive_avg_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    """A mean, a pool with a fixed kernel, or, where windows differ in size, averaging matrices.

    Window ``i`` of ``n`` covers ``[floor(i * L / n), ceil((i + 1) * L / n))`` of an axis of length ``L``; where ``L``
    varies, so do the windows.
    """
    axes = len(size)
    lengths = list(x.shape[-axes:])
    if all(count == 1 for count in size):
        return x.mean(list(range(-axes, 0)), keepdim=True)
    fixed = all(isinstance(length, int) for length in lengths)
    if fixed and lengths == list(size):
        return x
    if fixed and all(length % count == 0 for length, count in zip(lengths, size, strict=True)):
        window = [length // count for length, count in zip(lengths, size, strict=True)]
        if axes == 1:
            return _avg_pool1d(x, window, window)
        return _avg_pool(axes)(x, window, window)
    for axis, length, count in zip(range(-axes, 0), lengths, size, strict=True):
        if not isinstance(length, int) or length != count:
            x = along(x, axis, _averaging_matrix(x, length, count))
    return x


def along(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Multiply a matrix ``[M, L]`` with one of the last three axes of ``x``: ``L`` becomes ``M``."""
    if axis == -1:
        return x @ matrix.transpose(0, 1)
    if axis == -2:
        return matrix @ x
    return (matrix @ x.flatten(-2)).reshape([*x.shape[:-3], matrix.shape[0], *x.shape[-2:]])


def _averaging_matrix(x: Tensor, length: int, count: int) -> Tensor:
    """Return ``[count, length]``: row ``i`` holds the weights of window ``i`` of an adaptive average pool."""
    position = torch.arange(length, device=x.device)[None, :]
    window = torch.arange(count, device=x.device)[:, None]
    inside = (position * count < (window + 1) * length) & ((position + 1) * count > window * length)
    members = inside * x.new_ones(())  # of x's dtype, whatever it is when the program runs
    return members / members.sum(1, keepdim=True)


@spelling(aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
def _adaptive_max_pool(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A pool with a fixed kernel; where windows differ in size, of the windows laid side by side.

    Too short a window is filled up with its last element once more, which changes neither the maximum nor the first
    place that has it. Of the indices, those of uneven windows count in what is pooled.
    """
    axes = len(size)
    if x.ndim == axes + 1:
        values, indices = _adaptive_max_pool(x.unsqueeze(1), size)
        return values.squeeze(1), indices.squeeze(1)
    if all(count == 1 for count in size):
        flat = x.flatten(-axes)
        index = flat.argmax(-1, keepdim=True)
        shape = [*x.shape[:-axes], *size]
        return flat.gather(-1, index).reshape(shape), index.reshape(shape)
    if not all(isinstance(length, int) for length in x.shape[-axes:]):
        raise UnsupportedOp("adaptive_max_pool needs a fixed image size: its windows vary with it")
    kernel = []
    for axis, length, count in zip(range(-axes, 0), x.shape[-axes:], size, strict=True):
        if length % count:
            index = _windows(x, length, count)
            x = torch.index_select(x, axis, index.flatten())
            kernel.append(index.shape[1])
        else:
            kernel.append(length // count)
    if axes == 1:
        values, indices = aten.max_pool2d_with_indices(x.unsqueeze(-2), [1, *kernel], [1, *kernel])
        return values.squeeze(-2), indices.squeeze(-2)
    return (aten.max_pool2d_with_indices if axes == 2 else aten.max_pool3d_with_indices)(x, kernel, kernel)


@spelling(aten.max_unpool2d.default)
def _max_unpool2d(x: Tensor, indices: Tensor, size: Sequence[int]) -> Tensor:
    """Each value at its index in an image of zeros. x, indices: [..., H', W']; returns [..., H, W]."""
    zeros = x.new_zeros([*x.shape[:-2], size[0] * size[1]])
    return zeros.scatter(-1, indices.flatten(-2), x.flatten(-2)).reshape([*x.shape[:-2], *size])


def _windows(x: Tensor, length: int, count: int) -> Tensor:
    """Return ``[count, longest window]``: the positions in each window of an adaptive pool."""
    bounds = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
    window = torch.arange(count, device=x.device)[:, None]
    start, last = window * length // count, ((window + 1) * length - 1) // count
    tap = torch.arange(max(end - start for start, end in bounds), device=x.device)
    return torch.minimum(start + tap, last)
