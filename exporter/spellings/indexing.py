"""Spellings of what reads by index, and of functionalised writes into a part of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.errors import UnsupportedOp
from exporter.program import same_shape
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


@spelling(aten.index.Tensor)
def _index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """Whole numbers, for one axis or several; negative ones count from the end.

    Several axes are joined, and so are their indices, in row-major order. As in NumPy, what was taken stands where the
    axes stood, or first where they did not stand together.
    """
    given = {axis: index for axis, index in enumerate(indices) if index is not None}
    if any(index.dtype in (torch.bool, torch.uint8) for index in given.values()):
        raise UnsupportedOp("index by a mask has no spelling: how much it takes depends on the data; use torch.where")
    first, count = min(given), len(given)
    if max(given) - first >= count:
        x = x.permute([*given, *(axis for axis in range(x.ndim) if axis not in given)])
        first = 0
    sizes = x.shape[first : first + count]
    whole = None
    for index, size in zip(given.values(), sizes, strict=True):
        forward = torch.where(index < 0, index + size, index)
        whole = forward if whole is None else whole * size + forward
    assert whole is not None
    joined = x.flatten(first, first + count - 1) if count > 1 else x
    taken = torch.index_select(joined, first, whole.flatten())
    return taken if whole.ndim == 1 else taken.reshape([*x.shape[:first], *whole.shape, *x.shape[first + count :]])


@spelling(aten.index_put.default)
def _index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """``x[mask] = number``."""
    mask = indices[0]
    if len(indices) > 1 or mask is None or mask.dtype != torch.bool or values.numel() != 1 or accumulate:
        raise UnsupportedOp("index_put writes one number where a mask holds; other forms have no spelling")
    return torch.where(mask.reshape([*mask.shape, *[1] * (x.ndim - mask.ndim)]), values.reshape(()), x)


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
        if start in (None, 0) and step == 1 and source.shape[dim] == length:
            return source
        if dim % x.ndim == 0:
            raise UnsupportedOp("writing into a part of the batch has no spelling: every image needs its own logits")
        raise UnsupportedOp("writing into a part of an image needs a fixed size: what is left of it varies")
    first, last, _ = slice(start, end, step).indices(length)
    if first >= last:
        return x
    if step > 1:
        index = torch.arange(first, last, step, device=x.device)
        index = index.reshape([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)]).expand(source.shape)
        return x.scatter(dim, index, source)
    parts = [aten.slice(x, dim, 0, first)] if first > 0 else []
    parts += [source, aten.slice(x, dim, last, length)] if last < length else [source]
    return torch.cat(parts, dim) if len(parts) > 1 else source


@spelling(aten.select_scatter.default)
def _select_scatter(x: Tensor, source: Tensor, dim: int, index: int) -> Tensor:
    index %= x.shape[dim]
    return _slice_scatter(x, source.unsqueeze(dim), dim, index, index + 1)
