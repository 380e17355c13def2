"""Spellings of what reads by index, and of functionalised writes into a part of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.errors import UnsupportedOp
from exporter.program import same_shape
from exporter.sizes import from_start, known
from exporter.spellings.table import Number, aten, spelling


@spelling(aten.one_hot.default)
def _one_hot(index: Tensor, num_classes: int = -1) -> Tensor:
    """``index == [0, 1, ...]``, along a new last axis."""
    return (index.unsqueeze(-1) == torch.arange(num_classes, device=index.device)).to(torch.int64)


@spelling(aten.embedding.default)
def _embedding(
    table: Tensor, index: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Tensor:
    """Rows of a table; the settings are about the table's own gradient."""
    return torch.index_select(table, 0, index.flatten()).reshape([*index.shape, *table.shape[1:]])


@spelling(aten.index.Tensor, aten._unsafe_index.Tensor)
def _index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """Whole numbers, for one axis or several; negative ones count from the end.

    Several axes are joined, and so are their indices, in row-major order. As in NumPy, what was taken stands where the
    axes stood, or first where they did not stand together.
    """
    order, first, whole = _joined(x, indices)
    x = x if order == list(range(x.ndim)) else x.permute(order)
    count = sum(index is not None for index in indices)
    joined = x.flatten(first, first + count - 1) if count > 1 else x
    taken = torch.index_select(joined, first, whole.flatten())
    return taken if whole.ndim == 1 else taken.reshape([*x.shape[:first], *whole.shape, *x.shape[first + count :]])


def _joined(x: Tensor, indices: Sequence[Tensor | None]) -> tuple[list[int], int, Tensor]:
    """Return the order in which the indexed axes stand together, where they begin, and one index for all of them."""
    given = {axis: index for axis, index in enumerate(indices) if index is not None}
    if any(index.dtype in (torch.bool, torch.uint8) for index in given.values()):
        raise UnsupportedOp("index by a mask has no spelling: how much it takes depends on the data; use torch.where")
    first, order = min(given), list(range(x.ndim))
    if max(given) - first >= len(given):
        order = [*given, *(axis for axis in order if axis not in given)]
        first = 0
    whole = None
    for axis, index in given.items():
        forward = _forward(index, x.shape[axis])
        whole = forward if whole is None else whole * x.shape[axis] + forward
    assert whole is not None
    return order, first, whole


@spelling(aten.index_put.default, aten._unsafe_index_put.default)
def _index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """``x[mask] = number``, or the inverse of :func:`_index`: values for whole numbers, or added where they point to.

    Which of several values for one place is written, PyTorch leaves open.
    """
    mask = indices[0]
    if mask is not None and mask.dtype == torch.bool and len(indices) == 1:
        if values.numel() != 1 or accumulate:
            raise UnsupportedOp("index_put by a mask writes one number; use torch.where for others")
        return torch.where(mask.reshape([*mask.shape, *[1] * (x.ndim - mask.ndim)]), values.reshape(()), x)
    order, first, whole = _joined(x, indices)
    count = sum(index is not None for index in indices)
    apart = x if order == list(range(x.ndim)) else x.permute(order)
    before, after = list(apart.shape[:first]), list(apart.shape[first + count :])
    joined = apart.flatten(first, first + count - 1) if count > 1 else apart
    source = values.expand([*before, *whole.shape, *after])
    source = source if whole.ndim == 1 else source.reshape([*before, whole.numel(), *after])
    written = _written(joined, first, whole.flatten(), source, accumulate)
    written = written if count == 1 else written.reshape(apart.shape)
    return written if order == list(range(x.ndim)) else written.permute(_inverse(order))


def _forward(index: Tensor, length: int) -> Tensor:
    """Count negative indices from the start."""
    return torch.where(index < 0, index + length, index)


def _written(x: Tensor, dim: int, index: Tensor, source: Tensor, accumulate: bool) -> Tensor:
    """Write or add values at the places of one axis. index: [n]; source: [..., n, ...]."""
    spread = index.reshape([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)]).expand(source.shape)
    return x.scatter_add(dim, spread, source) if accumulate else x.scatter(dim, spread, source)


@spelling(aten.index_add.default)
def _index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Number = 1) -> Tensor:
    return _written(x, dim, index, source if alpha == 1 else source * alpha, True)


@spelling(aten.index_copy.default)
def _index_copy(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    return _written(x, dim, index, source, False)


@spelling(aten.index_fill.int_Scalar, aten.index_fill.int_Tensor)
def _index_fill(x: Tensor, dim: int, index: Tensor, value: Tensor | Number) -> Tensor:
    shape = [*x.shape]
    shape[dim] = index.numel()
    source = value.expand(shape) if isinstance(value, Tensor) else x.new_full(shape, value)
    return _written(x, dim, _forward(index, x.shape[dim]), source, False)


@spelling(aten.scatter_reduce.two)
def _scatter_reduce(
    x: Tensor, dim: int, index: Tensor, source: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """Sums, and means where what was there does not count."""
    if reduce == "sum":
        return (x if include_self else x.scatter(dim, index, 0)).scatter_add(dim, index, source)
    if reduce == "mean" and x.is_floating_point():
        kept, count = (start if include_self else start.scatter(dim, index, 0) for start in (x, torch.ones_like(x)))
        total, count = kept.scatter_add(dim, index, source), count.scatter_add(dim, index, torch.ones_like(source))
        return total / count
    raise UnsupportedOp(f"scatter_reduce by {reduce!r} has no spelling: sum and, of floating point, mean have")


@spelling(aten.take.default)
def _take(x: Tensor, index: Tensor) -> Tensor:
    return _index(x.flatten(), [index])


@spelling(aten.diagonal.default)
def diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """Every so many values of two axes laid out as one; it is the last axis of what is returned."""
    last, places = _diagonal_places(x, offset, dim1, dim2)
    return torch.index_select(last.flatten(-2), -1, places)


@spelling(aten.diagonal_scatter.default)
def _diagonal_scatter(x: Tensor, source: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    last, places = _diagonal_places(x, offset, dim1, dim2)
    written = _written(last.flatten(-2), -1, places, source, False).reshape(last.shape)
    return written.permute(_inverse(_last(x, dim1, dim2)))


def _diagonal_places(x: Tensor, offset: int, dim1: int, dim2: int) -> tuple[Tensor, Tensor]:
    """Return x with two axes last, and where a diagonal lies in them, in row-major order."""
    last = x.permute(_last(x, dim1, dim2))
    height, width = (known(length) for length in last.shape[-2:])
    if height is None or width is None:
        raise UnsupportedOp("diagonal needs a fixed size")
    row, column = max(-offset, 0), max(offset, 0)
    count = max(min(height - row, width - column), 0)
    start = row * width + column
    return last, torch.arange(count, device=x.device) * (width + 1) + start


def _last(x: Tensor, dim1: int, dim2: int) -> list[int]:
    """Return the order of axes in which two of them are the last."""
    axes = [dim1 % x.ndim, dim2 % x.ndim]
    return [axis for axis in range(x.ndim) if axis not in axes] + axes


def _inverse(order: Sequence[int]) -> list[int]:
    """Return the permutation that takes back another."""
    return [order.index(axis) for axis in range(len(order))]


@spelling(aten.copy.default)
def _copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """The new value, in the old one's shape and dtype."""
    source = source if source.dtype == x.dtype else source.type_as(x)
    return source if same_shape(source, x) else source.expand(x.shape)


@spelling(aten.zero.default)
def _zero(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


@spelling(aten.empty_like.default)
def _empty_like(x: Tensor, *, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
    """Zeros: what is in an empty tensor is nobody's business."""
    return _full_like(x, 0, dtype=dtype)


@spelling(aten.new_empty.default)
def _new_empty(x: Tensor, size: Sequence[int], *, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
    return x.new_zeros(size) if dtype in (None, x.dtype) else x.new_zeros(size, dtype=dtype)


@spelling(aten.empty.memory_format)
def _empty(size: Sequence[int], *, dtype: torch.dtype | None = None, device: Any = None, **kwargs: Any) -> Tensor:
    return torch.zeros(size, dtype=dtype, device=device)


@spelling(aten.fill.Tensor)
def _fill(x: Tensor, value: Tensor) -> Tensor:
    return _copy(x, value)


@spelling(aten.fill.Scalar, aten.full_like.default)
def _full_like(x: Tensor, value: Number, *, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
    return x.new_full(x.shape, value) if dtype in (None, x.dtype) else x.new_full(x.shape, value, dtype=dtype)


@spelling(aten.slice_scatter.default)
def _slice_scatter(
    x: Tensor, source: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """What is before, the new value, what is after; with a step, a scatter."""
    length = x.shape[dim]
    if not isinstance(length, int):
        if (start is None or known(start) == 0) and step == 1 and known(source.shape[dim] - length) == 0:
            return source
        if dim % x.ndim == 0:
            raise UnsupportedOp("writing into a part of the batch has no spelling: every image needs its own logits")
        first = from_start(0 if start is None else start, length)
        last = first + (source.shape[dim] - 1) * step + 1
        if step > 1:
            return _written(x, dim, torch.arange(first, last, step, device=x.device), source, False)
        return torch.cat([aten.slice(x, dim, 0, first), source, aten.slice(x, dim, last, length)], dim)
    first, last, _ = slice(start, end, step).indices(length)
    if first >= last:
        return x
    if step > 1:
        return _written(x, dim, torch.arange(first, last, step, device=x.device), source, False)
    parts = [aten.slice(x, dim, 0, first)] if first > 0 else []
    parts += [source, aten.slice(x, dim, last, length)] if last < length else [source]
    return torch.cat(parts, dim) if len(parts) > 1 else source


@spelling(aten.select_scatter.default)
def _select_scatter(x: Tensor, source: Tensor, dim: int, index: int) -> Tensor:
    index %= x.shape[dim]
    return _slice_scatter(x, source.unsqueeze(dim), dim, index, index + 1)
