"""Reductions: what was summed up or chosen shares the cotangent."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from exporter.rules.table import vjp

aten = torch.ops.aten
Number = int | float


@vjp(aten.sum.dim_IntList)
def sum_(
    ct: Tensor,
    y: Tensor,
    x: Tensor,
    dim: list[int] | None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The same cotangent for every summand; returns x's shape."""
    return _restore(ct, x, dim, keepdim).expand(x.shape)


@vjp(aten.mean.dim)
def mean(
    ct: Tensor,
    y: Tensor,
    x: Tensor,
    dim: list[int] | None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """An even share for every member; returns x's shape."""
    axes = range(x.ndim) if not dim else [d % x.ndim for d in dim]
    count = 1
    for axis in axes:
        count = count * x.shape[axis]
    return (_restore(ct, x, dim, keepdim) / count).expand(x.shape)


def _restore(ct: Tensor, x: Tensor, dim: Sequence[int] | None, keepdim: bool) -> Tensor:
    """Give back the axes that a reduction of ``x`` removed, each with size 1."""
    if not keepdim:
        for axis in sorted(d % x.ndim for d in dim or range(x.ndim)):
            ct = ct.unsqueeze(axis)
    return ct


@vjp(aten.var.correction)
def var(
    ct: Tensor,
    y: Tensor,
    x: Tensor,
    dim: list[int] | None = None,
    *,
    correction: Number | None = 1,
    keepdim: bool = False,
) -> Tensor:
    """``2 (x - mean(x)) / (n - correction)``; returns x's shape."""
    axes = list(dim or range(x.ndim))
    count = 1
    for axis in axes:
        count = count * x.shape[axis]
    share = _restore(ct, x, dim, keepdim) * (2 / (count - (1 if correction is None else correction)))
    return share * (x - x.mean(axes, keepdim=True))


@vjp(aten.std.correction)
def std(
    ct: Tensor,
    y: Tensor,
    x: Tensor,
    dim: list[int] | None = None,
    *,
    correction: Number | None = 1,
    keepdim: bool = False,
) -> Tensor:
    """``1 / (2 y)`` times the variance's, and 0 where ``y = 0``; returns x's shape."""
    ct = (ct / (2 * y)).masked_fill(y == 0, 0)
    return var(ct, y, x, dim, correction=correction, keepdim=keepdim)


@vjp(aten.amax.default)
def amax(ct: Tensor, y: Tensor, x: Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    """Shared evenly by all that equal the largest; returns x's shape."""
    return _share(torch.amax, ct, y, x, dim, keepdim)


@vjp(aten.amin.default)
def amin(ct: Tensor, y: Tensor, x: Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> Tensor:
    """Shared evenly by all that equal the smallest; returns x's shape."""
    return _share(torch.amin, ct, y, x, dim, keepdim)


def _share(
    reduce: Callable[..., Tensor], ct: Tensor, y: Tensor, x: Tensor, dim: Sequence[int], keepdim: bool
) -> Tensor:
    """Share a cotangent among all that equal y.

    In float16 a runtime may keep more digits of x than of y, or fewer; so there y is found again, in float32.
    """
    axes = list(dim or range(x.ndim))
    wide = x.float() if x.dtype == torch.float16 else x
    chosen = (wide == (_restore(y, x, dim, keepdim) if wide is x else reduce(wide, axes, True))) * x.new_ones(())
    return _restore(ct, x, dim, keepdim) / chosen.sum(axes, keepdim=True) * chosen


@vjp(aten.logsumexp.default)
def logsumexp(ct: Tensor, y: Tensor, x: Tensor, dim: Sequence[int], keepdim: bool = False) -> Tensor:
    """``exp(x - y)``; returns x's shape."""
    return _restore(ct, x, dim, keepdim) * torch.exp(x - _restore(y, x, dim, keepdim))


@vjp(aten.linalg_vector_norm.default)
def vector_norm(
    ct: Tensor, y: Tensor, x: Tensor, ord: Number = 2, dim: Sequence[int] | None = None, keepdim: bool = False
) -> Tensor:
    """``x / y`` for the Euclidean norm, and 0 where ``y = 0``; returns x's shape."""
    scale = (ct / y).masked_fill(y == 0, 0)
    return _restore(scale, x, dim, keepdim) * x


@vjp(aten.cumsum.default)
def cumsum(ct: Tensor, y: Tensor, x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """The sum of the cotangents from each position on."""
    found = ct.flip(dim).cumsum(dim).flip(dim)
    return found if found.dtype == x.dtype else found.type_as(x)


# -- softmax --------------------------------------------------------------------------------------------------


@vjp(aten.softmax.int, aten._softmax.default)
def softmax(ct: Tensor, y: Tensor, x: Tensor, dim: int, *args: object) -> Tensor:
    """``y (ct - sum(ct y))``."""
    return y * (ct - (ct * y).sum(dim, keepdim=True))


@vjp(aten.log_softmax.int, aten._log_softmax.default)
def log_softmax(ct: Tensor, y: Tensor, x: Tensor, dim: int, *args: object) -> Tensor:
    """``ct - exp(y) sum(ct)``."""
    return ct - torch.exp(y) * ct.sum(dim, keepdim=True)
