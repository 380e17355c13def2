"""Translations of activations, rectifiers among them."""

from __future__ import annotations

import math

import torch

from exporter.emit.onnx.emitter import Emitter, Value, translates

aten = torch.ops.aten


translates(aten.relu.default)(lambda e, x: e.op("Relu", x))
translates(aten.sigmoid.default)(lambda e, x: e.op("Sigmoid", x))
translates(aten.tanh.default)(lambda e, x: e.op("Tanh", x))


@translates(aten.silu.default)
def _silu(e: Emitter, x: Value) -> str:
    return e.op("Mul", x, e.op("Sigmoid", x))


@translates(aten.leaky_relu.default)
def _leaky_relu(e: Emitter, x: Value, slope: float = 0.01) -> str:
    return e.op("LeakyRelu", x, alpha=float(slope))


@translates(aten.clamp.default, aten.clamp_min.default)
def _clamp(e: Emitter, x: Value, min: float | None = None, max: float | None = None) -> str:
    """A Clip with one bound only would cut infinities to the largest finite number in onnxruntime."""
    if min is not None and max is not None:
        return e.op("Clip", x, e.as_value(min, x.dtype), e.as_value(max, x.dtype))
    if min == 0 and x.dtype.is_floating_point:
        return e.op("Relu", x)  # merges with the convolution before it
    if min is not None:
        return e.op("Max", x, e.as_value(min, x.dtype))
    assert max is not None
    return e.op("Min", x, e.as_value(max, x.dtype))


@translates(aten.clamp.Tensor)
def _clamp_between(e: Emitter, x: Value, low: Value | None = None, high: Value | None = None) -> Value | str:
    found = e.as_value(x, e.fake.dtype)
    for kind, bound in (("Max", low), ("Min", high)):
        if bound is not None:
            found = e.op(kind, found, e.as_value(bound, e.fake.dtype))
    return found


@translates(aten.hardtanh.default)
def _hardtanh(e: Emitter, x: Value, low: float = -1.0, high: float = 1.0) -> str:
    return _clamp(e, x, low, high)


@translates(aten.relu6.default)
def _relu6(e: Emitter, x: Value) -> str:
    return _clamp(e, x, 0.0, 6.0)


@translates(aten.clamp_max.default)
def _clamp_max(e: Emitter, x: Value, max: float) -> str:
    return _clamp(e, x, None, max)


@translates(aten.threshold.default)
def _threshold(e: Emitter, x: Value, threshold: float, value: float) -> str:
    if threshold == value == 0:
        return e.op("Relu", x)
    below = e.op("LessOrEqual", x, e.constant(threshold, x.dtype))  # a NaN is not, and passes
    return e.op("Where", below, e.constant(value, x.dtype), x)


@translates(aten.prelu.default)
def _prelu(e: Emitter, x: Value, weight: Value) -> str:
    return e.op("PRelu", x, e.reshape(weight, [weight.shape[0], *[1] * max(0, x.ndim - 2)]))


@translates(aten.elu.default)
def _elu(e: Emitter, x: Value, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> str:
    y: str
    if input_scale == 1:
        y = e.op("Elu", x, alpha=float(alpha))
    else:
        below = e.op("Mul", e.op("Min", x, e.constant(0, x.dtype)), e.constant(input_scale, x.dtype))
        y = e.op("Add", e.op("Relu", x), e.op("Elu", below, alpha=float(alpha)))
    return y if scale == 1 else e.op("Mul", y, e.constant(scale, x.dtype))


@translates(aten.gelu.default)
def _gelu(e: Emitter, x: Value, approximate: str = "none") -> str:
    def number(value: float) -> str:
        return e.constant(value, x.dtype)

    if approximate == "none":
        bent = e.op("Erf", e.op("Mul", x, number(math.sqrt(0.5))))
    else:
        cube = e.op("Mul", e.op("Mul", x, x), x)
        inner = e.op("Add", x, e.op("Mul", cube, number(0.044715)))
        bent = e.op("Tanh", e.op("Mul", inner, number(math.sqrt(2 / math.pi))))
    return e.op("Mul", e.op("Mul", x, e.op("Add", bent, number(1))), number(0.5))


@translates(aten.mish.default)
def _mish(e: Emitter, x: Value) -> str:
    return e.op("Mul", x, e.op("Tanh", e.op("Softplus", x)))


@translates(aten.softplus.default)
def _softplus(e: Emitter, x: Value, beta: float = 1, threshold: float = 20) -> str:
    scaled = x if beta == 1 else e.op("Mul", x, e.constant(beta, x.dtype))
    y = e.op("Softplus", scaled)
    y = y if beta == 1 else e.op("Div", y, e.constant(beta, x.dtype))
    return e.op("Where", e.op("Greater", scaled, e.constant(threshold, x.dtype)), x, y)


@translates(aten.log_sigmoid.default)
def _log_sigmoid(e: Emitter, x: Value) -> str:
    return e.op("Neg", e.op("Softplus", e.op("Neg", x)))


@translates(aten.hardsigmoid.default)
def _hardsigmoid(e: Emitter, x: Value) -> str:
    return e.op("Div", _relu6_of_3_more(e, x), e.constant(6, x.dtype))


@translates(aten.hardswish.default)
def _hardswish(e: Emitter, x: Value) -> str:
    return e.op("Div", e.op("Mul", x, _relu6_of_3_more(e, x)), e.constant(6, x.dtype))


def _relu6_of_3_more(e: Emitter, x: Value) -> str:
    name: str = e.op("Clip", e.op("Add", x, e.constant(3, x.dtype)), e.constant(0, x.dtype), e.constant(6, x.dtype))
    return name
