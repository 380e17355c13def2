"""Passes on the cotangent of max-pools, which the rule writes as a scatter by index.

A scatter is slow everywhere (in OpenVINO 25 times slower than this), and onnxruntime's MaxPool is ten times slower when
it must return indices. Comparing each tap of the window with the maximum needs neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from exporter.lowering.convolution import interleave
from exporter.lowering.rewrite import Match, Pass, aten, producer
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
    x, *settings = _arguments(pool.node)
    return compare_taps(match.value(pool.ct), match.value(maxima(pool.node)), match.value(x), *settings)


def _arguments(pool: fx.Node) -> list[Any]:
    return list(pool.args)


def _fixed(pool: fx.Node) -> bool:
    """Tell whether a pool has a fixed image size and no dilation."""
    x, _, *rest = _arguments(pool)
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

    The padded image is split into stride phases, so that each tap of all windows is a plain slice of one phase. In
    row-major order a tap takes what is left of the cotangent where it equals the maximum; what it took is added to
    its phase. Ties are exact: nothing is left for a later equal tap.

    ct, y: [N, C, H', W']; x: [N, C, H, W]; returns [N, C, H, W].
    """
    kernel, padding = per_axis(kernel, 2), per_axis(padding, 2)
    stride = per_axis(stride, 2) if len(stride) else kernel
    out = list(y.shape[2:])
    size = [int(length) for length in x.shape[2:]]
    steps = [n + (k - 1) // s for n, k, s in zip(out, kernel, stride, strict=True)]
    after = [s * m - p - length for s, m, p, length in zip(stride, steps, padding, size, strict=True)]
    padded = x
    if any((*padding, *after)):
        widths = [padding[1], after[1], padding[0], after[0]]
        padded = torch.constant_pad_nd(x, widths, -math.inf)

    left = ct
    parts: dict[tuple[int, int], list[Tensor]] = {}
    taps = [(row, column) for row in range(kernel[0]) for column in range(kernel[1])]
    split = {
        (row, column): _every(_every(padded, 2, row, stride[0]), 3, column, stride[1])
        for row in range(min(stride[0], kernel[0]))
        for column in range(min(stride[1], kernel[1]))
    }
    for index, (row, column) in enumerate(taps):
        phase, shift = (row % stride[0], column % stride[1]), (row // stride[0], column // stride[1])
        tap = split[phase]
        for axis in (0, 1):
            if steps[axis] != out[axis]:
                tap = aten.slice(tap, 2 + axis, shift[axis], shift[axis] + out[axis])
        part = left * (tap == y)
        if index + 1 < len(taps):
            left = left - part
        rest = [m - n - q for m, n, q in zip(steps, out, shift, strict=True)]
        if any((*shift, *rest)):
            part = torch.constant_pad_nd(part, [shift[1], rest[1], shift[0], rest[0]])
        parts.setdefault(phase, []).append(part)

    grid = [[_total(parts.get((row, column), [])) for column in range(stride[1])] for row in range(stride[0])]
    whole = interleave(grid, (stride[0] * steps[0], stride[1] * steps[1]), ct)
    # Cut the padding off, and put back the rows and columns that no window reached.
    rest = [length + p - s * m for length, p, s, m in zip(size, padding, stride, steps, strict=True)]
    if any((*padding, *rest)):
        whole = torch.constant_pad_nd(whole, [-padding[1], rest[1], -padding[0], rest[0]])
    return whole


def _every(x: Tensor, axis: int, start: int, step: int) -> Tensor:
    return x if step == 1 else aten.slice(x, axis, start, None, step)


def _total(parts: list[Tensor]) -> Tensor | None:
    return sum(parts[1:], parts[0]) if parts else None


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
    if pool is None or sign is None or sign.args[0] is not pool.node.args[0] or not _fixed(pool.node):
        return NotImplemented
    x, *settings = _arguments(pool.node)
    y = match.value(maxima(pool.node))
    whole = compare_taps(match.value(pool.ct) * (y > 0), y, match.value(x), *settings)
    return torch.relu(whole) if positive_part else whole


COMPARE_TAPS = Pass("compare taps", (aten.view.default, aten.reshape.default), _compare_taps)
POOLED_MASK = Pass("pooled mask", (aten.mul.Tensor,), _pooled_mask)
