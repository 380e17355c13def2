"""Passes on the cotangent of max-pools, which the rule writes as a scatter by index.

A scatter is slow everywhere (in OpenVINO 25 times slower than this), and onnxruntime's MaxPool is ten times slower when
it must return indices. Comparing each tap of the window with the maximum needs neither.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from exporter.lowering.blocked import each_channel, is_blocked
from exporter.lowering.convolution import Phases, interleave, shuffle
from exporter.lowering.pointwise import Masked, masked, positive_where
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


def _compare_taps(match: Match, selected: bool = False) -> Any:
    """``scatter_add(argmax, ct) -> for each tap: ct * (tap == y)``; see :func:`compare_taps`."""
    pool = comparable(match.node)
    if pool is None:
        return NotImplemented
    x, *settings = arguments(pool.node)
    ct, y = match.value(pool.ct), match.value(maxima(pool.node))
    return functools.partial(compare_taps, selected=selected)(ct, y, match.value(x), *settings)


def _compared(node: fx.Node) -> list[fx.Node] | None:
    """Return what the above starts from, or None where it does not apply."""
    pool = comparable(node)
    return None if pool is None else starts(pool)


def starts(pool: Pool) -> list[fx.Node]:
    """Return what a pool's cotangent is computed from."""
    return [pool.ct, maxima(pool.node), arguments(pool.node)[0]]


def comparable(node: Any) -> Pool | None:
    """Recognise the cotangent of a pool that has a fixed image size and no dilation."""
    pool = find(node)
    if pool is None:
        return None
    x, _, *rest = arguments(pool.node)
    dilation = rest[2] if len(rest) > 2 else [1]
    fixed = all(isinstance(size, int) for size in x.meta["val"].shape[-3:])
    return pool if fixed and set(dilation) == {1} else None


def compare_taps(ct: Tensor, y: Tensor, x: Tensor, *settings: Any, selected: bool = False, **how: Any) -> Tensor:
    """Give each window's cotangent to its first tap that equals the maximum.

    The image is split into stride phases, so that each tap of all windows is one phase, shifted. In row-major order a
    tap takes what is left of the cotangent where it equals the maximum; what it took is shifted back and added to its
    phase. Ties are exact: nothing is left for a later equal tap.

    Along an axis, tap ``t`` of window ``i`` reads ``x[s i + t - p] = X[r][i + q]`` with ``t - p = s q + r``, where
    phase ``X[r][m] = x[s m + r]``; outside of the image it reads minus infinity.

    With ``selected``, in the form that OpenVINO likes: cotangents are selected, not multiplied, and phases are laid out
    by DepthToSpace: 4 % less time of a resnet18, medians of interleaved runs. The pool's settings and the other options
    are those of :func:`tap_phases`.

    ct, y: [N, C, H', W']; x: [N, C, H, W]; returns [N, C, H, W].
    """
    grid = tap_phases(ct, y, x, *settings, selected=selected, **how)
    return (shuffle if selected else interleave)(grid, (int(x.shape[2]), int(x.shape[3])))


def tap_phases(
    ct: Tensor,
    y: Tensor,
    x: Tensor,
    kernel: list[int],
    stride: list[int] | tuple[()] = (),
    padding: list[int] | tuple[int] = (0,),
    dilation: list[int] | tuple[int] = (1,),
    ceil_mode: bool = False,
    *,
    blocked: bool = False,
    selected: bool = False,
    masked: bool = False,
    positive: bool = False,
) -> Phases:
    """Return the stride phases of :func:`compare_taps`; one that no tap reads is None.

    A phase of one tap ends with its windows, where the image may go on for a row or a column: what lays it out fills it
    up. (And OpenVINO 2026.4 makes a mistake of a Pad before a strided ConvTranspose.)

    The last tap takes what is left without a comparison: one of the taps is the maximum. That is an eighth less for a
    window of 3x3, a third for one of 2x2.

    With ``blocked``, phases are read in onnxruntime's blocked layout, and what is outside of the image is zero: that is
    for images without negative values, and cotangents that are zero where a maximum is zero.

    With ``masked``, a window's cotangent counts only where its maximum is positive; with ``positive``, only the
    positive part of the sum is returned.
    """
    kernel, padding = per_axis(kernel, 2), per_axis(padding, 2)
    stride = per_axis(stride, 2) if len(stride) else kernel
    size = (int(x.shape[2]), int(x.shape[3]))
    grid: Phases = [[None] * stride[1] for _ in range(stride[0])]
    apart = all(k <= s for k, s in zip(kernel, stride, strict=True))
    left = torch.relu(ct) if positive and apart else ct  # without overlap there is nothing to be summed
    if masked:
        left = torch.where(y > 0, left, 0.0) if selected else left * (y > 0)
    rows, columns = (
        [read for tap in range(kernel[axis]) if (read := _read(tap, padding[axis], stride[axis], *sizes))]
        for axis, sizes in enumerate(zip(size, y.shape[2:], strict=True))
    )
    reads = list(itertools.product(rows, columns))
    shared = Counter((row, column) for (row, _), (column, _) in reads)
    taps = (_taps_in_blocks if blocked else _taps)(x, rows, columns, stride, y.shape[2:])
    for index, (((row, row_widths), (column, column_widths)), tap) in enumerate(zip(reads, taps, strict=True), 1):
        part = left
        if index < len(reads):
            found = tap == y
            part = torch.where(found, left, 0.0) if selected else left * found
            left = torch.where(found, 0.0, left) if selected else left - part
        widths = [-width for width in (*column_widths, *row_widths)]
        if shared[row, column] == 1:  # nothing is added to it
            widths = [widths[0], min(0, widths[1]), widths[2], min(0, widths[3])]
        part = _pad(part, widths, 0)
        so_far = grid[row][column]
        grid[row][column] = part if so_far is None else so_far + part
    if positive and not apart:
        return [[None if part is None else torch.relu(part) for part in parts] for parts in grid]
    return grid


_Read = tuple[int, tuple[int, int]]
"""A phase along an axis, and the widths to pad it with so that windows line up."""


def _taps(
    x: Tensor, rows: list[_Read], columns: list[_Read], stride: list[int], windows: torch.Size
) -> Iterator[Tensor]:
    """Yield each tap of all windows, row by row: phases by strided slices, minus infinity around them."""
    split = {
        (row, column): _every(_every(x, 2, row, stride[0]), 3, column, stride[1])
        for row in {phase for phase, _ in rows}
        for column in {phase for phase, _ in columns}
    }
    for (row, above), (column, before) in itertools.product(rows, columns):
        yield _pad(split[row, column], [*before, *above], -math.inf)


def _taps_in_blocks(
    x: Tensor, rows: list[_Read], columns: list[_Read], stride: list[int], windows: torch.Size
) -> Iterator[Tensor]:
    """Yield the same with zero around: each phase by a strided Conv of one tap a channel, its shifts by crops.

    The Conv of phase ``r`` starts at ``x[s first + r]``, which is before the image if ``r`` is not zero: a Conv can
    pad, but not skip.
    """
    spans = [_spans(rows), _spans(columns)]
    whole = {}
    for phases in itertools.product(*spans):
        widths = []
        for step, count, size, span, phase in zip(stride, windows, x.shape[2:], spans, phases, strict=True):
            first, last = span[phase]
            start = step * first + phase
            widths.append((-start, max(0, start + step * (count + last - first - 1) + 1 - size)))
        around = [*widths[1], *widths[0]]
        whole[phases] = each_channel(_pad(x, around, 0.0), stride)
    for (row, (above, _)), (column, (before, _)) in itertools.product(rows, columns):
        tap = whole[row, column]
        begins = -above - spans[0][row][0], -before - spans[1][column][0]
        cut = [(start, have - start - count) for start, have, count in zip(begins, tap.shape[2:], windows, strict=True)]
        yield _pad(tap, [-width for axis in reversed(cut) for width in axis], 0.0)


def _spans(reads: list[_Read]) -> dict[int, tuple[int, int]]:
    """Return the first and the last shift of each phase along an axis; the first one lets its Conv pad."""
    shifts: dict[int, list[int]] = {}
    for phase, (before, _) in reads:
        shifts.setdefault(phase, [-1 if phase else 0]).append(-before)
    return {phase: (min(found), max(found)) for phase, found in shifts.items()}


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


def _pooled_mask(match: Match, blocked: bool = False, selected: bool = False) -> Any:
    """``pool_vjp(ct) * (x > 0) -> pool_vjp(ct * (y > 0))``: a maximum is positive where its window's element is.

    So a rectifier before a max-pool needs its mask at the pooled size only. Followed by ``* (g > 0)`` it is
    ``relu(pool_vjp(ct * (y > 0)))``.

    With ``blocked``, only where onnxruntime computes the pool in blocks, whose taps are then read in blocks too: 1.3 %
    less time of a resnet18 and 1 % of a vgg16, medians of interleaved runs.
    """
    pooled = masked_pool(match.node)
    if pooled is None:
        return NotImplemented
    found, pool = pooled
    x, *settings = arguments(pool.node)
    if blocked and not is_blocked(x):
        return NotImplemented
    y = match.value(maxima(pool.node))
    compare = functools.partial(compare_taps, blocked=blocked, selected=selected, masked=True, positive=found.positive)
    return compare(match.value(pool.ct), y, match.value(x), *settings)


def masked_pool(node: fx.Node) -> tuple[Masked, Pool] | None:
    """Recognise the cotangent of a max-pool under the mask of the rectifier before it."""
    found = masked(node)
    pool = comparable(found.g) if found else None
    if found is None or pool is None or positive_where(found.mask) is not pool.node.args[0]:
        return None
    return found, pool


def _pooled(node: fx.Node) -> list[fx.Node] | None:
    """Return what a pooled mask starts from, or None where it does not apply."""
    pooled = masked_pool(node)
    return None if pooled is None else starts(pooled[1])


_SHAPED = (aten.view.default, aten.reshape.default)
COMPARE_TAPS = Pass("compare taps", _SHAPED, _compare_taps, _compared)
SELECTED_TAPS = Pass("selected taps", _SHAPED, functools.partial(_compare_taps, selected=True), _compared)
POOLED_MASK = Pass("pooled mask", (aten.mul.Tensor,), _pooled_mask, _pooled)
SELECTED_POOLED_MASK = Pass(
    "selected pooled mask", (aten.mul.Tensor,), functools.partial(_pooled_mask, selected=True), _pooled
)
BLOCKED_POOL = Pass("blocked pool", (aten.mul.Tensor,), functools.partial(_pooled_mask, blocked=True))
