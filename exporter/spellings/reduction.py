"""Spellings of reductions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.errors import UnsupportedOp
from exporter.sizes import known
from exporter.spellings.table import Number, aten, spelling


@spelling(aten.sum.default)
def _sum(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    return torch.sum(x, list(range(x.ndim)), dtype=dtype)


@spelling(aten.mean.default)
def _mean(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    return torch.mean(x, list(range(x.ndim)), dtype=dtype)


@spelling(aten.var.default, aten.var.dim, aten.var.correction)
def _var(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    dim, settings = _spread_settings(x, *args, **kwargs)
    return aten.var.correction(x, dim, **settings)


@spelling(aten.std.default, aten.std.dim, aten.std.correction)
def _std(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    dim, settings = _spread_settings(x, *args, **kwargs)
    return aten.std.correction(x, dim, **settings)


@spelling(aten.var_mean.default, aten.var_mean.dim, aten.var_mean.correction)
def _var_mean(x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    dim, settings = _spread_settings(x, *args, **kwargs)
    return aten.var.correction(x, dim, **settings), x.mean(dim, keepdim=settings["keepdim"])


@spelling(aten.std_mean.default, aten.std_mean.dim, aten.std_mean.correction)
def _std_mean(x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    dim, settings = _spread_settings(x, *args, **kwargs)
    return aten.std.correction(x, dim, **settings), x.mean(dim, settings["keepdim"])


def _spread_settings(
    x: Tensor,
    dim: Sequence[int] | bool | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: Number | None = None,
) -> tuple[list[int], dict[str, Any]]:
    """Read the arguments of any overload of ``var`` and ``std``; the first may be ``dim`` or ``unbiased``."""
    if isinstance(dim, bool):
        return _spread_settings(x, None, dim)
    axes = [d % x.ndim for d in dim] if dim else list(range(x.ndim))
    return axes, {"correction": int(unbiased) if correction is None else correction, "keepdim": keepdim}


@spelling(aten.argmax.default)
def _argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Without an axis, that of all elements in row-major order."""
    if dim is not None:
        return torch.argmax(x, dim, keepdim)
    found = torch.argmax(x.flatten(), 0)
    return found.reshape([1] * x.ndim) if keepdim else found


@spelling(aten.argmin.default)
def _argmin(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """The largest of what has the other sign, which unsigned numbers have not."""
    return _argmax(torch.neg(x if x.dtype.is_signed else x.to(torch.int64)), dim, keepdim)


@spelling(aten.any.default, aten.any.dim, aten.any.dims)
def _any(x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    """Whether the largest of ones and zeros is a one."""
    return _reduced(torch.amax, x, dim, keepdim)


@spelling(aten.all.default, aten.all.dim, aten.all.dims)
def _all(x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    """Whether the smallest of ones and zeros is a one."""
    return _reduced(torch.amin, x, dim, keepdim)


def _reduced(reduce: Any, x: Tensor, dim: int | Sequence[int] | None, keepdim: bool) -> Tensor:
    """Reduce ones and zeros, over all axes unless some are named; as booleans, or uint8 as it was."""
    axes = list(range(x.ndim)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    found = x != 0
    if axes:
        found = reduce(found.to(torch.int64), axes, keepdim) > 0
    return found.to(x.dtype) if x.dtype == torch.uint8 else found


@spelling(aten.max.default)
def _max(x: Tensor) -> Tensor:
    return torch.amax(x, list(range(x.ndim)))


@spelling(aten.min.default)
def _min(x: Tensor) -> Tensor:
    return torch.amin(x, list(range(x.ndim)))


@spelling(aten.max.dim)
def _max_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return _chosen(x, x.argmax(dim, keepdim=True), dim, keepdim)


@spelling(aten.min.dim)
def _min_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return _chosen(x, _argmin(x, dim, True), dim, keepdim)


@spelling(aten.topk.default)
def _topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """The places of the largest, and what is read there."""
    index: Tensor = aten.topk(x.detach(), k, dim, largest, sorted)[1]
    return _chosen(x, index, dim, keepdim=True)


@spelling(aten.sort.stable)
def _stable_sort(
    x: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    """The places in order, equals in that of the input, and what is read there."""
    index: Tensor = aten.sort(x.detach(), stable=True, dim=dim, descending=descending)[1]
    return _chosen(x, index, dim, keepdim=True)


@spelling(aten.sort.default)
def _sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    return _stable_sort(x, dim=dim, descending=descending)


@spelling(aten.kthvalue.default)
def _kthvalue(x: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The last of the ``k`` smallest; which of several equal values it is, PyTorch leaves open."""
    if x.ndim == 0:
        return x, x.new_zeros((), dtype=torch.int64)
    index = aten.slice(aten.topk(x.detach(), k, dim, False, True)[1], dim, k - 1, k)
    return _chosen(x, index, dim, keepdim)


@spelling(aten.median.dim)
def _median_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Of an even number of values the lower of the two in the middle."""
    return _kthvalue(x, (x.shape[dim] + 1) // 2 if x.ndim else 1, dim, keepdim)


@spelling(aten.median.default)
def _median(x: Tensor) -> Tensor:
    """As that of an axis, but equal values share the cotangent."""
    value = _median_dim(x.detach().flatten(), 0)[0]
    share = (x == value) * torch.ones_like(x)
    share = share / share.sum(list(range(x.ndim)))
    return value + ((x - value) * share).sum(list(range(x.ndim)))


def _factors(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return values in the dtype that is asked for, or in which PyTorch multiplies them."""
    dtype = dtype or (x.dtype if x.is_floating_point() else torch.int64)
    return x if x.dtype == dtype else x.to(dtype)


@spelling(aten.prod.dim_int)
def _prod_dim(x: Tensor, dim: int, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    """By halves: what is left of a product without one of its factors is never a quotient, so factors may be 0."""
    x = _factors(x, dtype)
    length = _fixed(x, dim, "prod")
    while length > 1:
        half = length // 2
        halves = [aten.slice(x, dim, start, start + half) for start in (0, half)]
        rest = [aten.slice(x, dim, 2 * half, length)] if length % 2 else []
        x = torch.cat([halves[0] * halves[1], *rest], dim) if rest else halves[0] * halves[1]
        length -= half
    return x if keepdim else x.squeeze(dim)


@spelling(aten.prod.default)
def _prod(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    return _prod_dim(x.flatten(), 0, dtype=dtype)


@spelling(aten.cumprod.default)
def _cumprod(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """By doubling: each value times the one before, then the one two before, then four."""
    x = _factors(x, dtype)
    return _scanned(x, dim, torch.mul, "cumprod")


@spelling(aten.logcumsumexp.default)
def _logcumsumexp(x: Tensor, dim: int) -> Tensor:
    """By doubling too, of ``log(e^a + e^b)``."""
    return _scanned(x, dim, _logaddexp, "logcumsumexp")


def _logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """``max(a, b) + log(1 + e^-|a - b|)``."""
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return high + torch.log1p(torch.exp(torch.where(low == high, low.new_zeros(()), low - high)))


def _scanned(x: Tensor, dim: int, combine: Callable[[Tensor, Tensor], Tensor], name: str) -> Tensor:
    """Return what an associative function makes of each value and all before it (Hillis and Steele, 1986)."""
    length, reach = _fixed(x, dim, name), 1
    while reach < length:
        first, later = aten.slice(x, dim, 0, reach), aten.slice(x, dim, reach, length)
        x = torch.cat([first, combine(aten.slice(x, dim, 0, length - reach), later)], dim)
        reach *= 2
    return x


def _fixed(x: Tensor, dim: int, name: str) -> int:
    """Return an axis's length.

    Raises:
        UnsupportedOp: It varies.
    """
    length = known(x.shape[dim]) if x.ndim else 1
    if length is None:
        raise UnsupportedOp(f"{name} needs a fixed size: how many values it multiplies or adds is written out")
    return length


def _chosen(x: Tensor, index: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """Read what stands at places: the whole cotangent is its own, where ``amax`` shares."""
    found = x.gather(dim, index)
    return (found, index) if keepdim else (found.squeeze(dim), index.squeeze(dim))


@spelling(aten.linalg_vector_norm.default)
def vector_norm(
    x: Tensor,
    ord: Number = 2,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The Euclidean norm has an operator of its own; others are sums, or maxima, of powers of absolute values."""
    x = x if dtype in (None, x.dtype) else x.to(dtype)
    axes = [d % x.ndim for d in dim] if dim else list(range(x.ndim))
    if ord == 2:
        return torch.linalg.vector_norm(x, 2, axes, keepdim)
    if ord == 1:
        return x.abs().sum(axes, keepdim)
    if ord == math.inf:
        return x.abs().amax(axes, keepdim)
    if ord < 1:
        raise UnsupportedOp(f"linalg_vector_norm of order {ord} has no vjp rule: those of order 1 and more have")
    total = torch.pow(x.abs(), ord).sum(axes, keepdim)
    zero = total == 0  # where the derivative is 0, and not that of a root
    return torch.pow(total.masked_fill(zero, 1.0), 1 / ord).masked_fill(zero, 0.0)


@spelling(aten.linalg_norm.default)
def _linalg_norm(
    x: Tensor,
    ord: Number | None = None,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    if ord is not None and len(dim or range(x.ndim)) != 1:
        raise UnsupportedOp("linalg_norm of matrices has no vjp rule")
    return vector_norm(x, 2 if ord is None else ord, dim, keepdim, dtype=dtype)


@spelling(aten.norm.ScalarOpt_dim)
def _norm(x: Tensor, p: Number | None, dim: Sequence[int], keepdim: bool = False) -> Tensor:
    return vector_norm(x, 2 if p is None else p, dim, keepdim)


@spelling(aten.cosine_similarity.default)
def _cosine_similarity(a: Tensor, b: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """``sum(a / max(|a|, eps) * b / max(|b|, eps))``, where autograd takes the derivative of ``|a|`` in any case."""
    rank = max(a.ndim, b.ndim)
    sizes = zip(*([1] * (rank - x.ndim) + list(x.shape) for x in (a, b)), strict=True)
    shape = [m if isinstance(n, int) and n == 1 else n for n, m in sizes]
    whole = [x.expand(shape) for x in (a, b)]
    norms = [torch.linalg.vector_norm(x, 2, [dim], True) for x in whole]
    least = [norm + (norm.clamp_min(eps) - norm).detach() for norm in norms]
    return (whole[0] / least[0] * (whole[1] / least[1])).sum([dim])
