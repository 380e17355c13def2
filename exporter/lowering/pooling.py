"""Passes on the cotangent of max-pools, which the rule writes as a scatter by index.

A scatter is slow on a CPU (in OpenVINO 25 times slower than this), and onnxruntime's MaxPool is ten times slower there
when it must return indices. Comparing each tap of the window with the maximum needs neither. On a GPU and in PyTorch
both are fast, and stay; see :mod:`exporter.lowering.scattering`.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from exporter.lowering.blocked import is_blocked
from exporter.lowering.convolution import Phases, interleave, shuffle
from exporter.lowering.pointwise import Masked, masked, positive_where
from exporter.lowering.rewrite import Match, Pass, arguments, aten, producer
from exporter.lowering.taps import WHOLE, BlockedTaps, Read, SlicedTaps, pad, reads
from exporter.sizes import per_axis


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
    """Recognise the cotangent of a pool that has a fixed image size and no dilation.

    Not in float16: onnxruntime keeps what it pools in float32, and rounds what it slices, so no tap equals a maximum.
    """
    pool = find(node)
    if pool is None or node.meta["val"].dtype == torch.float16:
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
    up. (And OpenVINO 2026.4 makes a mistake of a Pad before a strided ConvTranspose.) Along rows it does not, where a
    cotangent is shared among them first.

    The last tap takes what is left without a comparison: one of the taps is the maximum.

    Where rows of windows overlap, a cotangent is shared among the rows of its window first, by each row's own maximum,
    and then what a row gets among its taps: the first tap in row-major order is the first of the first row that has the
    maximum. With ``R`` taps of ``r`` phases in a column and ``C`` in a row, that takes ``R - 1 + r (C - 1)``
    comparisons and not ``R C - 1``, which is more if ``R > r``. For windows of 3x3 with a stride of 2 it is 6, not 8:
    1 % less time of a resnet18 in onnxruntime and in OpenVINO, medians of interleaved runs.

    With ``blocked``, phases are read in onnxruntime's blocked layout, and what is outside of the image is zero: that is
    for images without negative values, and cotangents that are zero where a maximum is zero.

    With ``masked``, a window's cotangent counts only where its maximum is positive; with ``positive``, only the
    positive part of the sum is returned.
    """
    kernel, padding = per_axis(kernel, 2), per_axis(padding, 2)
    stride = per_axis(stride, 2) if len(stride) else kernel
    size = (int(x.shape[2]), int(x.shape[3]))
    grid: Phases = [[None] * stride[1] for _ in range(stride[0])]
    first = positive and apart(kernel, stride)
    left = torch.relu(ct) if first else ct
    if masked:
        left = torch.where(y > 0, left, 0.0) if selected else left * (y > 0)
    rows, columns = (
        reads(kernel[axis], padding[axis], stride[axis], *sizes)
        for axis, sizes in enumerate(zip(size, y.shape[2:], strict=True))
    )
    kind = BlockedTaps if blocked else SlicedTaps
    taps = kind(x, stride)
    if not _overlapping(rows) or len(columns) == 1:
        found = _share(left, y, rows, columns, taps(rows, columns, y.shape[2:]), selected, ends=True)
    else:
        found = {}
        wide, _ = aten.max_pool2d_with_indices(x, [1, kernel[1]], [1, stride[1]], [0, padding[1]], [1], ceil_mode)
        maximal = kind(wide, [stride[0], 1])
        across = _share(left, y, rows, [WHOLE], maximal(rows, [WHOLE], y.shape[2:]), selected, ends=False)
        for (row, _), part in across.items():
            along: list[Read] = [(row, (0, 0))]
            (largest,) = maximal(along, [WHOLE], part.shape[2:])
            read = taps(along, columns, part.shape[2:])
            found |= _share(part, largest, along, columns, read, selected, ends=True)
    for (row, column), part in found.items():
        grid[row][column] = torch.relu(part) if positive and not first else part
    return grid


def apart(kernel: list[int], stride: list[int]) -> bool:
    """Tell whether windows without dilation do not overlap: then there is nothing to be summed anywhere."""
    return all(k <= s for k, s in zip(kernel, stride, strict=True))


def _overlapping(reads: list[Read]) -> bool:
    """Tell whether some phase is read by several taps."""
    return len({phase for phase, _ in reads}) < len(reads)


def _share(
    left: Tensor,
    y: Tensor,
    rows: list[Read],
    columns: list[Read],
    taps: Iterable[Tensor],
    selected: bool,
    *,
    ends: bool,
) -> dict[tuple[int, int], Tensor]:
    """Return what each phase gets of a cotangent, when in row-major order the first tap that equals ``y`` takes it.

    left, y: [N, C, H', W'], as is each tap. With ``ends``, a phase of one tap ends with its windows.
    """
    found: dict[tuple[int, int], Tensor] = {}
    places = list(itertools.product(rows, columns))
    shared = Counter((row, column) for (row, _), (column, _) in places)
    for index, (((row, row_widths), (column, column_widths)), tap) in enumerate(zip(places, taps, strict=True), 1):
        part = left
        if index < len(places):
            equal = tap == y
            part = torch.where(equal, left, 0.0) if selected else left * equal
            left = torch.where(equal, 0.0, left) if selected else left - part
        widths = [-width for width in (*column_widths, *row_widths)]
        if ends and shared[row, column] == 1:  # nothing is added to it
            widths = [widths[0], min(0, widths[1]), widths[2], min(0, widths[3])]
        part = pad(part, widths, 0)
        found[row, column] = found[row, column] + part if (row, column) in found else part
    return found


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


def masked_pool(node: fx.Node, recognise: Callable[[Any], Pool | None] = comparable) -> tuple[Masked, Pool] | None:
    """Recognise the cotangent of a max-pool under the mask of the rectifier before it."""
    found = masked(node)
    pool = recognise(found.g) if found else None
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
