"""Activations: the cotangent times the derivative.

Rectifiers stand in ``exporter/rectifiers.py``: the method decides what they do. ``hardtanh``, ``clamp`` and
``threshold`` come here only where they do not clip at zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from exporter.rules.table import vjp

aten = torch.ops.aten
Number = int | float

SIXTH = 0.1666666716337204
"""The float32 next to 1/6."""


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


@vjp(aten.prelu.default)
def prelu(ct: Tensor, y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """1 where ``x > 0``, else the slope. x: [N, C, ...]; weight: [C] or [1]; returns x's shape."""
    slope = weight.view(-1, *[1] * max(0, x.ndim - 2))
    return torch.where(x > 0, ct, ct * slope)


@vjp(aten.elu.default)
def elu(ct: Tensor, y: Tensor, x: Tensor, alpha: Number = 1, scale: Number = 1, input_scale: Number = 1) -> Tensor:
    """``scale`` where ``x > 0``, else ``input_scale (y + alpha scale)``.

    There ``y = scale alpha (e^(input_scale x) - 1)``.
    """
    return torch.where(x > 0, ct * scale, ct * ((y + alpha * scale) * input_scale))


@vjp(aten.gelu.default)
def gelu(ct: Tensor, y: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor:
    """``Phi(x) + x phi(x)``, with the normal distribution's function and density; arXiv:1606.08415, section 2.

    With ``approximate="tanh"``, ``y = x (1 + t) / 2`` for ``t = tanh(u)`` and ``u = sqrt(2 / pi) (x + 0.044715 x^3)``.
    """
    square = x * x
    if approximate == "none":
        cdf = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))
        return ct * (cdf + x * (torch.exp(square * -0.5) / math.sqrt(2 * math.pi)))
    root = math.sqrt(2 / math.pi)
    t = torch.tanh(x * (root + root * 0.044715 * square))
    return ct * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (root + 3 * root * 0.044715 * square))


@vjp(aten.mish.default)
def mish(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``t + x s (1 - t^2)`` with ``t = tanh(softplus(x))`` and ``s = sigmoid(x)``."""
    t = torch.tanh(torch.nn.functional.softplus(x))
    return ct * (t + x * torch.sigmoid(x) * (1 - t * t))


@vjp(aten.softplus.default)
def softplus(ct: Tensor, y: Tensor, x: Tensor, beta: Number = 1, threshold: Number = 20) -> Tensor:
    """``sigmoid(beta x)``, and 1 above the threshold, where the operator is the identity."""
    return torch.where(x * beta > threshold, ct, ct * torch.sigmoid(x * beta))


@vjp(aten.log_sigmoid.default)
def log_sigmoid(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``1 - sigmoid(x)``, as ``sigmoid(-x)``."""
    return ct * torch.sigmoid(-x)


@vjp(aten.hardsigmoid.default)
def hardsigmoid(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """1/6 strictly between -3 and 3; the float32 next to 1/6 in every dtype, as PyTorch's kernel has it."""
    return ct * ((x > -3) & (x < 3)) * SIXTH


@vjp(aten.hardswish.default)
def hardswish(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """``x / 3 + 1/2`` strictly between -3 and 3, 0 below, 1 above."""
    return torch.where(x < 3, ct * ((x / 3 + 0.5) * (x > -3)), ct)


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
