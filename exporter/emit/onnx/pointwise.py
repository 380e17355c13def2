"""Translations of arithmetic, comparisons and elementary functions."""

from __future__ import annotations

import math
from typing import Any

import torch

from exporter.emit.onnx.emitter import Emitter, Translation, Value, translates
from exporter.errors import UnsupportedOp
from exporter.program import of_weights

aten = torch.ops.aten


_OF_BOOLEANS = {"Add": "Or", "Max": "Or", "Mul": "And", "Min": "And"}
"""What ONNX calls arithmetic of booleans."""


def _binary(kind: str) -> Translation:
    def translation(e: Emitter, a: Value, b: Value | float, alpha: float = 1) -> str:
        dtype = e.fake.dtype
        if dtype == torch.bool:
            return e.op(_OF_BOOLEANS[kind], a, e.as_value(b, dtype))
        right = e.as_value(b, dtype)
        if alpha != 1:
            right = e.op("Mul", right, e.constant(alpha, dtype))
        return e.op(kind, e.as_value(a, dtype), right)

    return translation


def _comparison(kind: str) -> Translation:
    def translation(e: Emitter, a: Value, b: Value | float) -> str:
        return e.op(kind, a, e.as_value(b, a.dtype))

    return translation


def _unary(kind: str) -> Translation:
    return lambda e, x: e.op(kind, x)


for _kind in ("Add", "Sub", "Mul", "Div"):
    _overloads = getattr(aten, _kind.lower())
    translates(_overloads.Tensor, _overloads.Scalar)(_binary(_kind))
for _name, _kind in (
    ("gt", "Greater"),
    ("ge", "GreaterOrEqual"),
    ("lt", "Less"),
    ("le", "LessOrEqual"),
    ("eq", "Equal"),
):
    _overloads = getattr(aten, _name)
    translates(_overloads.Tensor, _overloads.Scalar)(_comparison(_kind))
_FUNCTIONS = (
    "abs acos acosh asin asinh atan atanh ceil cos cosh erf exp floor log neg reciprocal round sign sin sinh sqrt tan"
)
for _name in _FUNCTIONS.split():
    translates(getattr(aten, _name).default)(_unary(_name.capitalize()))
translates(aten.isnan.default)(lambda e, x: e.op("IsNaN", x))
translates(aten.bitwise_not.default, aten.logical_not.default)(lambda e, x: e.op("Not", e.as_value(x, torch.bool)))
translates(aten.maximum.default)(_binary("Max"))
translates(aten.minimum.default)(_binary("Min"))
translates(aten.pow.Tensor_Tensor, aten.pow.Scalar)(_binary("Pow"))


def _logical(kind: str) -> Translation:
    def translation(e: Emitter, a: Value, b: Value) -> str:
        return e.op(kind, e.as_value(a, torch.bool), e.as_value(b, torch.bool))

    return translation


def _bitwise(kind: str) -> Translation:
    def translation(e: Emitter, a: Value, b: Value) -> str:
        if e.fake.dtype != torch.bool:
            raise UnsupportedOp("of whole numbers, bit by bit, there is no translation; of booleans there is")
        return e.op(kind, a, b)

    return translation


for _name, _kind in (("and", "And"), ("or", "Or"), ("xor", "Xor")):
    translates(getattr(aten, f"logical_{_name}").default)(_logical(_kind))
    translates(getattr(aten, f"bitwise_{_name}").Tensor)(_bitwise(_kind))
translates(aten.__and__.Tensor)(_bitwise("And"))
translates(aten.__or__.Tensor)(_bitwise("Or"))


@translates(aten.ne.Tensor, aten.ne.Scalar)
def _not_equal(e: Emitter, a: Value, b: Value | float) -> str:
    return e.op("Not", e.op("Equal", a, e.as_value(b, a.dtype)))


@translates(aten.detach.default)
def _identity(e: Emitter, x: Value) -> str:
    return e.op("Identity", x)


@translates(aten.rsub.Scalar, aten.rsub.Tensor)
def _rsub(e: Emitter, a: Value, b: Value | float, alpha: float = 1) -> str:
    if alpha != 1:
        return e.op("Sub", e.as_value(b, a.dtype), e.op("Mul", a, e.constant(alpha, a.dtype)))
    return e.op("Sub", e.as_value(b, a.dtype), a)


@translates(aten.rsqrt.default)
def _rsqrt(e: Emitter, x: Value) -> str:
    if of_weights(e.node):  # onnxruntime before 1.19 rounds square roots wrongly on some processors, but powers well
        return e.op("Pow", x, e.constant(-0.5, x.dtype))
    return e.op("Reciprocal", e.op("Sqrt", x))


@translates(aten.where.self, aten.where.ScalarSelf, aten.where.ScalarOther)
def _where(e: Emitter, condition: Value, a: Value | float, b: Value | float) -> str:
    if e.fake.dtype == torch.bool:  # onnxruntime has no Where of them
        chosen, other = e.as_value(a, torch.bool), e.as_value(b, torch.bool)
        return e.op("Or", e.op("And", condition, chosen), e.op("And", e.op("Not", condition), other))
    return e.op("Where", condition, e.as_value(a, e.fake.dtype), e.as_value(b, e.fake.dtype))


@translates(aten.masked_fill.Scalar)
def _masked_fill(e: Emitter, x: Value, mask: Value, value: float) -> str:
    return e.op("Where", mask, e.constant(value, x.dtype), x)


@translates(aten._to_copy.default, aten.to.dtype, aten.type_as.default)
def _to(e: Emitter, x: Value, *args: Any, **kwargs: Any) -> str:
    return e.cast(x, e.fake.dtype)


@translates(aten.pow.Tensor_Scalar)
def _pow(e: Emitter, x: Value, exponent: float) -> str:
    return e.op("Mul", x, x) if exponent == 2 else e.op("Pow", x, e.constant(exponent, x.dtype))


@translates(aten.floor_divide.default)
def _floor_divide(e: Emitter, a: Value, b: Value | float) -> str:
    """What divides without a rest: ``floor(a / b)`` of rounded quotients would make 10 of ``1.0 // 0.1``."""
    divisor = e.as_value(b, a.dtype)
    quotient = e.op("Div", e.op("Sub", a, _remainder(e, a, b)), divisor)
    if not a.dtype.is_floating_point:
        return quotient
    whole = e.op("Round", quotient)
    if not isinstance(b, Value):
        return whole
    return e.op("Where", e.op("Equal", divisor, e.constant(0, a.dtype)), e.op("Div", a, divisor), whole)


@translates(aten.remainder.Scalar, aten.remainder.Tensor)
def _remainder(e: Emitter, a: Value, b: Value | float) -> str:
    """Has the sign of ``b``, as the Mod of whole numbers has; that of others has the sign of ``a``."""
    dtype = e.fake.dtype
    dividend, divisor = e.as_value(a, dtype), e.as_value(b, dtype)
    if not dtype.is_floating_point:
        return e.op("Mod", dividend, divisor)
    found = e.op("Mod", dividend, divisor, fmod=1)
    other_side = e.op("Less", e.op("Mul", e.op("Sign", found), divisor), e.constant(0, dtype))
    return e.op("Where", other_side, e.op("Add", found, divisor), found)


@translates(aten.fmod.Scalar, aten.fmod.Tensor)
def _fmod(e: Emitter, a: Value, b: Value | float) -> str:
    """Has the sign of ``a``."""
    dtype = e.fake.dtype
    return e.op("Mod", e.as_value(a, dtype), e.as_value(b, dtype), fmod=1)


@translates(aten.atan2.default)
def _atan2(e: Emitter, a: Value, b: Value) -> str:
    """The angle of the point (b, a): that of its slope and, left of the axis, half a turn more or less.

    A zero has a side too, which its reciprocal shows.
    """
    dtype = e.fake.dtype
    zero = e.constant(0, dtype)
    rise, run = e.as_value(a, dtype), e.as_value(b, dtype)
    nowhere = [e.op("Equal", value, zero) for value in (rise, run)]
    below, left = (
        e.op("Less", e.op("Where", none, e.op("Reciprocal", value), value), zero)
        for value, none in zip((rise, run), nowhere, strict=True)
    )
    slope = e.op("Where", e.op("And", *nowhere), rise, e.op("Atan", e.op("Div", rise, run)))
    half_turn = e.op("Where", below, e.constant(-math.pi, dtype), e.constant(math.pi, dtype))
    return e.op("Where", left, e.op("Add", slope, half_turn), slope)


@translates(aten.log1p.default)
def _log1p(e: Emitter, x: Value) -> str:
    return e.op("Log", e.op("Add", x, e.constant(1, x.dtype)))


@translates(aten.expm1.default)
def _expm1(e: Emitter, x: Value) -> str:
    return e.op("Sub", e.op("Exp", x), e.constant(1, x.dtype))
