"""Arithmetic and elementary functions: the cotangent times the derivative."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from exporter.rules.table import NO_GRADIENT, unbroadcast, vjp

aten = torch.ops.aten
Number = int | float

NO_GRADIENT |= {
    aten.argmax.default,
    aten.ceil.default,
    aten.detach.default,
    aten.eq.Scalar,
    aten.eq.Tensor,
    aten.floor.default,
    aten.ge.Scalar,
    aten.ge.Tensor,
    aten.gt.Scalar,
    aten.gt.Tensor,
    aten.isnan.default,
    aten.le.Scalar,
    aten.le.Tensor,
    aten.logical_not.default,
    aten.lt.Scalar,
    aten.lt.Tensor,
    aten.ne.Scalar,
    aten.ne.Tensor,
    aten.new_full.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    aten.ones_like.default,
    aten.round.default,
    aten.sign.default,
    aten.zeros_like.default,
}

# -- arithmetic ---------------------------------------------------------------------------------------------


@vjp(aten.add.Tensor, aten.add.Scalar)
def add(ct: Tensor, y: Tensor, a: Tensor, b: Tensor | Number, alpha: Number = 1) -> Tensor:
    """``d(a + alpha b)/da = 1``; returns a's shape."""
    return unbroadcast(ct, a)


@vjp(aten.add.Tensor, wrt=1)
def add_right(ct: Tensor, y: Tensor, a: Tensor, b: Tensor, alpha: Number = 1) -> Tensor:
    """``d(a + alpha b)/db = alpha``; returns b's shape."""
    return unbroadcast(ct if alpha == 1 else ct * alpha, b)


@vjp(aten.sub.Tensor, aten.sub.Scalar)
def sub(ct: Tensor, y: Tensor, a: Tensor, b: Tensor | Number, alpha: Number = 1) -> Tensor:
    """``d(a - alpha b)/da = 1``; returns a's shape."""
    return unbroadcast(ct, a)


@vjp(aten.sub.Tensor, wrt=1)
def sub_right(ct: Tensor, y: Tensor, a: Tensor, b: Tensor, alpha: Number = 1) -> Tensor:
    """``d(a - alpha b)/db = -alpha``; returns b's shape."""
    return unbroadcast(ct * -alpha, b)


@vjp(aten.rsub.Scalar, aten.rsub.Tensor)
def rsub(ct: Tensor, y: Tensor, a: Tensor, b: Tensor | Number, alpha: Number = 1) -> Tensor:
    """``d(b - alpha a)/da = -alpha``; returns a's shape."""
    return unbroadcast(ct * -alpha, a)


@vjp(aten.rsub.Tensor, wrt=1)
def rsub_right(ct: Tensor, y: Tensor, a: Tensor, b: Tensor, alpha: Number = 1) -> Tensor:
    """``d(b - alpha a)/db = 1``; returns b's shape."""
    return unbroadcast(ct, b)


@vjp(aten.mul.Tensor, aten.mul.Scalar)
def mul(ct: Tensor, y: Tensor, a: Tensor, b: Tensor | Number) -> Tensor:
    """``d(a b)/da = b``; returns a's shape."""
    return unbroadcast(ct * b, a)


@vjp(aten.mul.Tensor, wrt=1)
def mul_right(ct: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``d(a b)/db = a``; returns b's shape."""
    return unbroadcast(ct * a, b)


@vjp(aten.div.Tensor, aten.div.Scalar)
def div(ct: Tensor, y: Tensor, a: Tensor, b: Tensor | Number) -> Tensor:
    """``d(a / b)/da = 1 / b``; returns a's shape."""
    return unbroadcast(ct / b, a)


@vjp(aten.div.Tensor, wrt=1)
def div_right(ct: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``d(a / b)/db = -y / b``; returns b's shape."""
    return unbroadcast(-ct * y / b, b)


@vjp(aten.neg.default)
def neg(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``d(-x)/dx = -1``."""
    return -ct


@vjp(aten.reciprocal.default)
def reciprocal(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``d(1 / x)/dx = -y^2``."""
    return -ct * (y * y)


@vjp(aten.pow.Tensor_Scalar)
def pow_(ct: Tensor, y: Tensor, x: Tensor, exponent: Number) -> Tensor:
    """``p x^(p - 1)``, and 0 everywhere for ``p = 0``."""
    if exponent == 0:
        return ct * 0
    return ct * (2 * x if exponent == 2 else exponent * torch.pow(x, exponent - 1))


@vjp(aten.pow.Tensor_Tensor)
def pow_base(ct: Tensor, y: Tensor, base: Tensor, exponent: Tensor) -> Tensor:
    """``p b^(p - 1)``, and 0 where ``p = 0``; returns the base's shape."""
    slope = (exponent * torch.pow(base, exponent - 1)).masked_fill(exponent == 0, 0)
    return unbroadcast(ct * slope, base)


@vjp(aten.pow.Tensor_Tensor, wrt=1)
def pow_exponent(ct: Tensor, y: Tensor, base: Tensor, exponent: Tensor) -> Tensor:
    """``y log(b)``, and 0 where ``b = 0 <= p``; returns the exponent's shape."""
    slope = (y * torch.log(base)).masked_fill((base == 0) & (exponent >= 0), 0)
    return unbroadcast(ct * slope, exponent)


@vjp(aten.pow.Scalar, wrt=1)
def pow_of_number(ct: Tensor, y: Tensor, base: Number, exponent: Tensor) -> Tensor:
    """``y log(b)`` for a positive number ``b``."""
    return ct * (y * math.log(base))


@vjp(aten.exp.default)
def exp(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is y itself."""
    return ct * y


@vjp(aten.log.default)
def log(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``1 / x``."""
    return ct / x


@vjp(aten.sqrt.default)
def sqrt(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``1 / (2 y)``."""
    return ct / (2 * y)


@vjp(aten.abs.default)
def abs_(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``d|x|/dx = sign(x)``, 0 at 0."""
    return ct * torch.sign(x)


@vjp(aten.rsqrt.default)
def rsqrt(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``d x^(-1/2) / dx = -y^3 / 2``."""
    return ct * (y * y * y * -0.5)


@vjp(aten.log1p.default)
def log1p(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``1 / (1 + x)``."""
    return ct / (x + 1)


@vjp(aten.expm1.default)
def expm1(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``y + 1``."""
    return ct * (y + 1)


@vjp(aten.sin.default)
def sin(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``cos(x)``."""
    return ct * torch.cos(x)


@vjp(aten.cos.default)
def cos(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``-sin(x)``."""
    return -ct * torch.sin(x)


@vjp(aten.tan.default)
def tan(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``1 + y^2``."""
    return ct * (1 + y * y)


@vjp(aten.asin.default)
def asin(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``1 / sqrt(1 - x^2)``."""
    return ct * torch.rsqrt(1 - x * x)


@vjp(aten.acos.default)
def acos(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``-1 / sqrt(1 - x^2)``."""
    return -ct * torch.rsqrt(1 - x * x)


@vjp(aten.atan.default)
def atan(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``1 / (1 + x^2)``."""
    return ct / (1 + x * x)


@vjp(aten.sinh.default)
def sinh(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``cosh(x)``."""
    return ct * torch.cosh(x)


@vjp(aten.cosh.default)
def cosh(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``sinh(x)``."""
    return ct * torch.sinh(x)


@vjp(aten.asinh.default)
def asinh(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``1 / sqrt(x^2 + 1)``."""
    return ct * torch.rsqrt(x * x + 1)


@vjp(aten.acosh.default)
def acosh(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``1 / sqrt(x^2 - 1)``."""
    return ct * torch.rsqrt(x * x - 1)


@vjp(aten.atanh.default)
def atanh(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``1 / (1 - x^2)``."""
    return ct / (1 - x * x)


@vjp(aten.atan2.default)
def atan2(ct: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Of the angle, ``dy/da = b / (a^2 + b^2)``, 0 where both are; returns a's shape."""
    return unbroadcast(ct * b * _per_square(a, b), a)


@vjp(aten.atan2.default, wrt=1)
def atan2_right(ct: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Of the angle, ``dy/db = -a / (a^2 + b^2)``, 0 where both are; returns b's shape."""
    return unbroadcast(ct * -a * _per_square(a, b), b)


def _per_square(a: Tensor, b: Tensor) -> Tensor:
    square = a * a + b * b
    return torch.reciprocal(square).masked_fill(square == 0, 0)


@vjp(aten.erf.default)
def erf(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The derivative is ``2 exp(-x^2) / sqrt(pi)``."""
    return ct * (torch.exp(-x * x) * (2 / math.sqrt(math.pi)))


@vjp(aten.remainder.Scalar, aten.remainder.Tensor)
def remainder(ct: Tensor, y: Tensor, a: Tensor, b: Tensor | Number) -> Tensor:
    """``d(a - floor(a / b) b)/da = 1``; returns a's shape."""
    return unbroadcast(ct, a)


@vjp(aten.remainder.Tensor, wrt=1)
def remainder_right(ct: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``d(a - floor(a / b) b)/db = -floor(a / b)``; returns b's shape."""
    return unbroadcast(-ct * torch.round((a - y) / b), b)


@vjp(aten.fmod.Scalar, aten.fmod.Tensor)
def fmod(ct: Tensor, y: Tensor, a: Tensor, b: Tensor | Number) -> Tensor:
    """``d(a - trunc(a / b) b)/da = 1``; returns a's shape."""
    return unbroadcast(ct, a)


@vjp(aten.fmod.Tensor, wrt=1)
def fmod_right(ct: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``d(a - trunc(a / b) b)/db = -trunc(a / b)``; returns b's shape."""
    return unbroadcast(-ct * torch.round((a - y) / b), b)


# -- choices --------------------------------------------------------------------------------------------------


@vjp(aten.maximum.default)
def maximum(ct: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """1 where ``a`` is larger, 1/2 at a tie; returns a's shape."""
    return unbroadcast(torch.where(a == b, ct / 2, ct) * (a >= b), a)


@vjp(aten.maximum.default, wrt=1)
def maximum_right(ct: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """1 where ``b`` is larger, 1/2 at a tie; returns b's shape."""
    return maximum(ct, y, b, a)


@vjp(aten.minimum.default)
def minimum(ct: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """1 where ``a`` is smaller, 1/2 at a tie; returns a's shape."""
    return unbroadcast(torch.where(a == b, ct / 2, ct) * (a <= b), a)


@vjp(aten.minimum.default, wrt=1)
def minimum_right(ct: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """1 where ``b`` is smaller, 1/2 at a tie; returns b's shape."""
    return minimum(ct, y, b, a)


@vjp(aten.clamp.Tensor)
def clamp(ct: Tensor, y: Tensor, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """1 between the bounds and at them; returns x's shape."""
    if low is not None:
        ct = ct * (x >= low)
    return unbroadcast(ct if high is None else ct * (x <= high), x)


@vjp(aten.clamp.Tensor, wrt=1)
def clamp_low(ct: Tensor, y: Tensor, x: Tensor, low: Tensor, high: Tensor | None = None) -> Tensor:
    """1 where ``x`` is below the lower bound, unless the other is not above it; returns the bound's shape."""
    return unbroadcast(ct * (x < low) if high is None else ct * ((x < low) & (low < high)), low)


@vjp(aten.clamp.Tensor, wrt=2)
def clamp_high(ct: Tensor, y: Tensor, x: Tensor, low: Tensor | None, high: Tensor) -> Tensor:
    """1 where ``x`` is above the upper bound, or the other is; returns the bound's shape."""
    return unbroadcast(ct * (x > high) if low is None else ct * ((x > high) | (high < low)), high)


@vjp(aten.where.self, wrt=1)
def where(ct: Tensor, y: Tensor, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The cotangent where the condition holds; returns a's shape."""
    return unbroadcast(ct * condition, a)


@vjp(aten.where.self, wrt=2)
def where_not(ct: Tensor, y: Tensor, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The cotangent where the condition does not hold; returns b's shape."""
    return unbroadcast(ct * torch.logical_not(condition), b)


@vjp(aten.masked_fill.Scalar)
def masked_fill(ct: Tensor, y: Tensor, x: Tensor, mask: Tensor, value: Number) -> Tensor:
    """The cotangent where nothing was filled in; returns x's shape."""
    return unbroadcast(ct.masked_fill(mask, 0), x)


@vjp(aten._to_copy.default, aten.to.dtype, aten.type_as.default)
def to(ct: Tensor, y: Tensor, x: Tensor, *args: object, **kwargs: object) -> Tensor:
    """The cotangent in x's dtype, whatever it is when the program runs."""
    return ct.type_as(x)
