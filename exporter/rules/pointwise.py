"""Pointwise operators: the cotangent times the derivative.

Rectifiers stand in ``exporter/rectifiers.py``: the method decides what they do. ``hardtanh`` and ``clamp`` come
here only where they do not clip at zero.
"""

from __future__ import annotations

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
    aten.le.Scalar,
    aten.le.Tensor,
    aten.lt.Scalar,
    aten.lt.Tensor,
    aten.ne.Scalar,
    aten.ne.Tensor,
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


# -- activations that are not rectifiers ----------------------------------------------------------------------


@vjp(aten.sigmoid.default)
def sigmoid(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``y (1 - y)``."""
    return ct * (y * (1 - y))


@vjp(aten.tanh.default)
def tanh(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``1 - y^2``."""
    return ct * (1 - y * y)


@vjp(aten.silu.default)
def silu(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``s (1 + x (1 - s))`` with ``s = sigmoid(x)``."""
    s = torch.sigmoid(x)
    return ct * (s * (1 + x * (1 - s)))


@vjp(aten.leaky_relu.default)
def leaky_relu(ct: Tensor, y: Tensor, x: Tensor, slope: float = 0.01) -> Tensor:
    """1 where ``x > 0``, else the slope."""
    return torch.where(x > 0, ct, ct * slope)


@vjp(aten.hardtanh.default)
def hardtanh(ct: Tensor, y: Tensor, x: Tensor, low: float = -1.0, high: float = 1.0) -> Tensor:
    """1 strictly between the bounds."""
    return ct * ((x > low) & (x < high))


@vjp(aten.clamp.default, aten.clamp_min.default)
def clamp(ct: Tensor, y: Tensor, x: Tensor, min: Number | None = None, max: Number | None = None) -> Tensor:
    """1 between the bounds and, unlike ``hardtanh``, at them."""
    if min is not None:
        ct = ct * (x >= min)
    return ct if max is None else ct * (x <= max)


@vjp(aten.clamp_max.default)
def clamp_max(ct: Tensor, y: Tensor, x: Tensor, max: Number) -> Tensor:
    """1 up to the bound."""
    return ct * (x <= max)


@vjp(aten.threshold.default)
def threshold(ct: Tensor, y: Tensor, x: Tensor, threshold: Number, value: Number) -> Tensor:
    """1 above the threshold."""
    return ct * (x > threshold)


# -- reductions and softmax -----------------------------------------------------------------------------------


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


def _restore(ct: Tensor, x: Tensor, dim: list[int] | None, keepdim: bool) -> Tensor:
    """Give back the axes that a reduction of ``x`` removed, each with size 1."""
    if not keepdim:
        for axis in sorted(d % x.ndim for d in dim or range(x.ndim)):
            ct = ct.unsqueeze(axis)
    return ct


@vjp(aten.softmax.int, aten._softmax.default)
def softmax(ct: Tensor, y: Tensor, x: Tensor, dim: int, *args: object) -> Tensor:
    """``y (ct - sum(ct y))``."""
    return y * (ct - (ct * y).sum(dim, keepdim=True))


@vjp(aten.log_softmax.int, aten._log_softmax.default)
def log_softmax(ct: Tensor, y: Tensor, x: Tensor, dim: int, *args: object) -> Tensor:
    """``ct - exp(y) sum(ct)``."""
    return ct - torch.exp(y) * ct.sum(dim, keepdim=True)
