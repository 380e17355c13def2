"""Passes on the cotangent of max-pools, which the rule writes as a scatter by index.

A scatter is slow everywhere (in OpenVINO 25 times slower than this), and onnxruntime's MaxPool is ten times slower when
it must return indices. Comparing each tap of the window with the maximum needs neither.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from exporter.lowering.convolution import interleave
from exporter.lowering.rewrite import Match, Pass, arguments, aten, producer
from exporter.rules.linear import per_axis


@dataclass(frozen=True)
class Pool:
    """The cotangent of a max-pool, found in a program.

    Attributes:
        node: The forward pass's pool.
        ct: The node of the cotangent that is scattered, ``[N, C, H', W']``.
    """

    node: fx.Node
    ct: fx.Node


def find(node: Any) -> Pool | None:
    """Recognise ``zeros.scatter_add(-1, indices, ct)``, flattened and shaped as the rule writes it."""
    shaped = producer(node, aten.view.default, aten.reshape.default)
    scatter = producer(shaped.args[0], aten.scatter_add.default) if shaped else None
    flat_indices, flat_ct = (
        (producer(a, aten.flatten.using_ints) for a in scatter.args[2:4]) if scatter else (None, None)
    )
    if flat_indices is None or flat_ct is None:
        return None
    indices, ct = flat_indices.args[0], flat_ct.args[0]
    pool = producer(getattr(indices, "args", [None])[0], aten.max_pool2d_with_indices.default)
    return Pool(pool, ct) if pool is not None and isinstance(ct, fx.Node) else None


def maxima(pool: fx.Node) -> fx.Node:
    """Return the node of a pool's first output."""
    return next(user for user in pool.users if user.args[1] == 0)


def _compare_taps(match: Match) -> Any:
    """``scatter_add(argmax, ct) -> for each tap: ct * (tap == y)``; see :func:`compare_taps`."""
    pool = find(match.node)
    if pool is None or not _fixed(pool.node):
        return NotImplemented
    x, *settings = arguments(pool.node)
    return compare_taps(match.value(pool.ct), match.value(maxima(pool.node)), match.value(x), *settings)


def _fixed(pool: fx.Node) -> bool:
    """Tell whether a pool has a fixed image size and no dilation."""
    x, _, *rest = arguments(pool)
    dilation = rest[2] if len(rest) > 2 else [1]
    return all(isinstance(size, int) for size in x.meta["val"].shape[-3:]) and set(dilation) == {1}


def compare_taps(
    ct: Tensor,
    y: Tensor,
    x: Tensor,
    kernel: list[int],
    stride: list[int] | tuple[()] = (),
    padding: list[int] | tuple[int] = (0,),
    dilation: list[int] | tuple[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor:
    """Give each window's cotangent to its first tap that equals the maximum.

    The image is split into stride phases, so that each tap of all windows is one phase, shifted. In row-major order a
    tap takes what is left of the cotangent where it equals the maximum; what it took is shifted back and added to its
    phase. Ties are exact: nothing is left for a later equal tap.

    Along an axis, tap ``t`` of window ``i`` reads ``x[s i + t - p] = X[r][i + q]`` with ``t - p = s q + r``, where
    phase ``X[r][m] = x[s m + r]``; outside of the image it reads minus infinity.

    ct, y: [N, C, H', W']; x: [N, C, H, W]; returns [N, C, H, W].
    """
    kernel, padding = per_axis(kernel, 2), per_axis(padding, 2)
    stride = per_axis(stride, 2) if len(stride) else kernel
    size = (int(x.shape[2]), int(x.shape[3]))
    split = [
        [_every(_every(x, 2, row, stride[0]), 3, column, stride[1]) for column in range(stride[1])]
        for row in range(stride[0])
    ]
    grid: list[list[Tensor | None]] = [[None] * stride[1] for _ in range(stride[0])]
    left = ct
    rows, columns = (
        [read for tap in range(kernel[axis]) if (read := _read(tap, padding[axis], stride[axis], *sizes))]
        for axis, sizes in enumerate(zip(size, y.shape[2:], strict=True))
    )
    reads = list(itertools.product(rows, columns))
    for index, ((row, row_widths), (column, column_widths)) in enumerate(reads, 1):
        widths = [*column_widths, *row_widths]
        part = left * (_pad(split[row][column], widths, -math.inf) == y)
        if index < len(reads):
            left = left - part
        part = _pad(part, [-width for width in widths], 0)
        so_far = grid[row][column]
        grid[row][column] = part if so_far is None else so_far + part
    return interleave(grid, size)


def _read(tap: int, padding: int, stride: int, size: int, windows: int) -> tuple[int, tuple[int, int]] | None:
    """Return which phase a tap reads along one axis, and the widths to pad the phase with so that windows line up.

    None where every window has this tap outside of the image, as with a kernel larger than the image.
    """
    shift, phase = divmod(tap - padding, stride)
    length = len(range(phase, size, stride))
    return (phase, (-shift, shift + windows - length)) if -windows < shift < length else None


def _pad(x: Tensor, widths: list[int], value: float) -> Tensor:
    return torch.constant_pad_nd(x, widths, value) if any(widths) else x


def _every(x: Tensor, axis: int, start: int, step: int) -> Tensor:
    return x if step == 1 else aten.slice(x, axis, start, None, step)


def _pooled_mask(match: Match) -> Any:
    """``pool_vjp(ct) * (x > 0) -> pool_vjp(ct * (y > 0))``: a maximum is positive where its window's element is.

    So a rectifier before a max-pool needs its mask at the pooled size only. Followed by ``* (g > 0)`` it is
    ``relu(pool_vjp(ct * (y > 0)))``.
    """
    product, sign = match.node.args[:2]
    sign = producer(sign, aten.gt.Scalar)
    if sign is None or sign.args[1] != 0:
        return NotImplemented
    g, positive_part = product, False
    masked = producer(product, aten.mul.Tensor)
    if masked is not None and masked.args[0] is sign.args[0]:
        g, sign, positive_part = masked.args[0], producer(masked.args[1], aten.gt.Scalar), True
    pool = find(g)
    if (
        pool is None
        or sign is None
        or sign.args[1] != 0
        or sign.args[0] is not pool.node.args[0]
        or not _fixed(pool.node)
    ):
        return NotImplemented
    x, *settings = arguments(pool.node)
    y = match.value(maxima(pool.node))
    whole = compare_taps(match.value(pool.ct) * (y > 0), y, match.value(x), *settings)
    return torch.relu(whole) if positive_part else whole


COMPARE_TAPS = Pass("compare taps", (aten.view.default, aten.reshape.default), _compare_taps)
POOLED_MASK = Pass("pooled mask", (aten.mul.Tensor,), _pooled_mask)
