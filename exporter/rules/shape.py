"""Operators that move values: the cotangent moves back, zeros where nothing was read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from exporter.errors import UnsupportedOp
from exporter.rules.table import unbroadcast, vjp

aten = torch.ops.aten


@vjp(
    aten.reshape.default,
    aten.view.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
def view(ct: Tensor, y: Tensor, x: Tensor, *args: object) -> Tensor:
    """Same values in x's shape."""
    return ct.reshape(x.shape)


@vjp(aten.permute.default)
def permute(ct: Tensor, y: Tensor, x: Tensor, dims: Sequence[int]) -> Tensor:
    """The inverse permutation."""
    inverse = sorted(range(len(dims)), key=lambda axis: dims[axis] % x.ndim)
    return ct.permute(inverse)


@vjp(aten.transpose.int)
def transpose(ct: Tensor, y: Tensor, x: Tensor, a: int, b: int) -> Tensor:
    """The same two axes swapped back."""
    return ct.transpose(a, b)


@vjp(aten.expand.default)
def expand(ct: Tensor, y: Tensor, x: Tensor, size: Sequence[int]) -> Tensor:
    """The sum over the copies."""
    return unbroadcast(ct, x)


@vjp(aten.cat.default)
def cat(ct: Tensor, y: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> list[Tensor]:
    """Each part's own slice."""
    ends = list(itertools.accumulate(x.shape[dim] for x in tensors))
    return [aten.slice(ct, dim, start, end) for start, end in itertools.pairwise([0, *ends])]


@vjp(aten.constant_pad_nd.default)
def constant_pad_nd(ct: Tensor, y: Tensor, x: Tensor, pad: Sequence[int], value: float = 0) -> Tensor:
    """The part that was not padding."""
    return torch.constant_pad_nd(ct, [-width for width in pad])


@vjp(aten.slice.Tensor)
def slice_(
    ct: Tensor,
    y: Tensor,
    x: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Tensor:
    """Zeros around the slice and, with a step, between its elements."""
    length, taken = x.shape[dim], y.shape[dim]
    if isinstance(length, int):
        first, _, _ = slice(start, end, step).indices(length)
    elif start in (None, 0) and step == 1 and taken == length:
        return ct
    else:
        raise UnsupportedOp("a slice of the batch has no vjp rule: every image needs its own logits")
    if step > 1:
        ct = _pad(ct.unsqueeze(dim % x.ndim + 1), dim % x.ndim + 1, 0, step - 1).flatten(dim % x.ndim, dim % x.ndim + 1)
    return _pad(ct, dim % x.ndim, first, length - first - taken * step)


def _pad(ct: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Pad one axis with zeros; a negative width crops."""
    return torch.constant_pad_nd(ct, [0, 0] * (ct.ndim - 1 - dim) + [before, after])


@vjp(aten.select.int)
def select(ct: Tensor, y: Tensor, x: Tensor, dim: int, index: int) -> Tensor:
    """Zeros but for the selected position."""
    length = x.shape[dim]
    return _pad(ct.unsqueeze(dim), dim % x.ndim, index % length, length - 1 - index % length)
