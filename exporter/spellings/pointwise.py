"""Spellings of pointwise operators."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from exporter.spellings.table import Number, aten, spelling


@spelling(aten.clip.default)
def _clip(x: Tensor, min: Number | None = None, max: Number | None = None) -> Tensor:
    """The same operator under another name."""
    return torch.clamp(x, min, max)


@spelling(aten.clamp.Tensor, aten.clip.Tensor)
def _clamp_between(x: Tensor, min: Tensor | None = None, max: Tensor | None = None) -> Tensor:
    return aten.clamp.Tensor(x, min, max)


@spelling(aten.clamp_min.Tensor)
def _clamp_above(x: Tensor, min: Tensor) -> Tensor:
    return aten.clamp.Tensor(x, min)


@spelling(aten.clamp_max.Tensor)
def _clamp_below(x: Tensor, max: Tensor) -> Tensor:
    return aten.clamp.Tensor(x, None, max)


@spelling(aten.selu.default)
def _selu(x: Tensor) -> Tensor:
    """An ELU with the constants of Klambauer et al. (2017), arXiv:1706.02515, equation 14."""
    return aten.elu(x, 1.6732632423543772, 1.0507009873554805)


@spelling(aten.celu.default)
def _celu(x: Tensor, alpha: Number = 1.0) -> Tensor:
    """``max(x, 0) + min(alpha (e^(x / alpha) - 1), 0)``."""
    return aten.elu(x, alpha, 1.0, 1.0 / alpha)


@spelling(aten.softshrink.default)
def _softshrink(x: Tensor, lambd: Number = 0.5) -> Tensor:
    """Nearer to zero by ``lambd``, and zero within that."""
    return torch.where((x >= -lambd) & (x <= lambd), x.new_zeros(()), torch.where(x > 0, x - lambd, x + lambd))


@spelling(aten.hardshrink.default)
def _hardshrink(x: Tensor, lambd: Number = 0.5) -> Tensor:
    """Zero within ``lambd`` of zero."""
    return torch.where((x >= -lambd) & (x <= lambd), x.new_zeros(()), x)


@spelling(aten.erfc.default)
def _erfc(x: Tensor) -> Tensor:
    return 1 - torch.erf(x)


@spelling(aten.exp2.default)
def _exp2(x: Tensor) -> Tensor:
    return torch.pow(2.0, x)


@spelling(aten.log2.default)
def _log2(x: Tensor) -> Tensor:
    return torch.log(x) * (1 / math.log(2))


@spelling(aten.log10.default)
def _log10(x: Tensor) -> Tensor:
    return torch.log(x) * (1 / math.log(10))


@spelling(aten.logit.default)
def _logit(x: Tensor, eps: Number | None = None) -> Tensor:
    """The inverse of the sigmoid; with ``eps``, of what is clamped to ``[eps, 1 - eps]``."""
    # Bounds that are tensors: a clamp to [0, 1] counts as a rectifier otherwise.
    inside = x if eps is None else aten.clamp.Tensor(x, x.new_full((), eps), x.new_full((), 1 - eps))
    return torch.log(inside / (1 - inside))


@spelling(aten.trunc.default, aten.fix.default)
def _trunc(x: Tensor) -> Tensor:
    """Rounded towards zero; its derivative is zero."""
    if not x.is_floating_point():
        return x
    whole = x.detach()
    return torch.sign(whole) * torch.floor(torch.abs(whole))


@spelling(aten.round.decimals)
def _round(x: Tensor, *, decimals: int) -> Tensor:
    """To so many digits behind the point; its derivative is zero."""
    scale = 10.0 ** abs(decimals)
    whole = x.detach()
    return torch.round(whole * scale) / scale if decimals > 0 else torch.round(whole / scale) * scale


@spelling(aten.frac.default)
def _frac(x: Tensor) -> Tensor:
    return x - _trunc(x)


@spelling(aten.isnan.default)
def _isnan(x: Tensor) -> Tensor:
    """No whole number is."""
    return torch.isnan(x) if x.is_floating_point() else x != x


@spelling(aten.isinf.default)
def _isinf(x: Tensor) -> Tensor:
    return torch.abs(x) == math.inf


@spelling(aten.outer.default, aten.ger.default)
def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(1) * b


@spelling(aten.glu.default)
def _glu(x: Tensor, dim: int = -1) -> Tensor:
    """``a sigmoid(b)`` of the two halves."""
    half = x.shape[dim] // 2
    a, b = torch.split_with_sizes(x, [half, half], dim)
    return a * torch.sigmoid(b)


@spelling(aten.rrelu.default)
def _rrelu(
    x: Tensor, lower: Number = 1 / 8, upper: Number = 1 / 3, training: bool = False, generator: Any = None
) -> Tensor:
    """In eval mode a leaky ReLU with the mean slope."""
    return torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


@spelling(aten.square.default)
def _square(x: Tensor) -> Tensor:
    return torch.pow(x, 2)


@spelling(aten.max.other, aten.maximum.default)
def _maximum(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a, b)


@spelling(aten.min.other, aten.minimum.default)
def _minimum(a: Tensor, b: Tensor) -> Tensor:
    return torch.minimum(a, b)


@spelling(aten.fmax.default)
def _fmax(a: Tensor, b: Tensor) -> Tensor:
    """The larger of two, or the one that is not NaN; at a tie the first, with the whole cotangent."""
    return torch.where((a >= b) | torch.isnan(b), a, b)


@spelling(aten.fmin.default)
def _fmin(a: Tensor, b: Tensor) -> Tensor:
    return torch.where((a <= b) | torch.isnan(b), a, b)


@spelling(aten.copysign.Tensor, aten.copysign.Scalar)
def _copysign(a: Tensor, b: Tensor | Number) -> Tensor:
    """``|a|`` with the sign of ``b``, which a zero has too."""
    dtype = torch.result_type(a, b)
    dtype = dtype if dtype.is_floating_point else torch.get_default_dtype()
    a = a if a.dtype == dtype else a.to(dtype)
    if not isinstance(b, Tensor):
        return a.abs() * math.copysign(1.0, b)
    side = torch.where(b == 0, 1 / b, b).detach()
    return a.abs() * torch.where(side < 0, a.new_full((), -1.0), a.new_full((), 1.0))


@spelling(aten.hypot.default)
def _hypot(a: Tensor, b: Tensor) -> Tensor:
    return torch.sqrt(a * a + b * b)


@spelling(aten.ldexp.Tensor)
def _ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    return x * torch.pow(2.0, exponent)


@spelling(aten.addcmul.default)
def _addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: Number = 1) -> Tensor:
    return torch.add(x, a * b, alpha=value)


@spelling(aten.addcdiv.default)
def _addcdiv(x: Tensor, a: Tensor, b: Tensor, *, value: Number = 1) -> Tensor:
    return torch.add(x, a / b, alpha=value)


@spelling(aten.lerp.Scalar, aten.lerp.Tensor)
def _lerp(a: Tensor, b: Tensor, weight: Tensor | Number) -> Tensor:
    """``a + weight (b - a)``."""
    return a + (b - a) * weight


@spelling(aten.where.ScalarSelf)
def _where_number_or(condition: Tensor, a: Number, b: Tensor) -> Tensor:
    return torch.where(condition, _filler(b, a), b)


@spelling(aten.where.ScalarOther)
def _where_or_number(condition: Tensor, a: Tensor, b: Number) -> Tensor:
    return torch.where(condition, a, _filler(a, b))


@spelling(aten.where.Scalar)
def _where_numbers(condition: Tensor, a: Number, b: Number) -> Tensor:
    dtype = torch.result_type(a, b)
    left, right = (condition.new_full((), value, dtype=dtype) for value in (a, b))
    return torch.where(condition, left, right)


def _filler(x: Tensor, value: Number) -> Tensor:
    """Return a number as a tensor, of x's dtype unless that cannot hold it."""
    dtype = torch.result_type(x, value)
    return x.new_full((), value) if dtype == x.dtype else x.new_full((), value, dtype=dtype)


@spelling(aten.masked_fill.Tensor)
def _masked_fill(x: Tensor, mask: Tensor, value: Tensor) -> Tensor:
    return torch.where(mask, value.type_as(x) if value.dtype != x.dtype else value, x)


@spelling(aten.div.Tensor_mode, aten.div.Scalar_mode)
def _div_mode(a: Tensor, b: Tensor | Number, *, rounding_mode: str | None) -> Tensor:
    """Rounded, its derivative is zero."""
    if rounding_mode is None:
        return a / b
    a, b = a.detach(), b.detach() if isinstance(b, Tensor) else b
    if rounding_mode == "floor":
        return aten.floor_divide(a, b)
    towards = a.sign() * (b.sign() if isinstance(b, Tensor) else (b > 0) - (b < 0))
    return aten.floor_divide(a.abs(), abs(b)) * towards


@spelling(aten.nan_to_num.default)
def _nan_to_num(
    x: Tensor, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """A number for NaN and for each infinity; by default 0, and the largest that the dtype has."""
    if not x.is_floating_point():
        return x
    largest = torch.finfo(x.dtype).max
    x = x.masked_fill(x.isnan(), 0.0 if nan is None else nan)
    x = x.masked_fill(x == math.inf, largest if posinf is None else posinf)
    return x.masked_fill(x == -math.inf, -largest if neginf is None else neginf)
