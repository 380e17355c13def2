"""The rules of ``exporter/rules/pointwise.py``."""

from __future__ import annotations

import pytest
import torch

from exporter.rules import NO_GRADIENT, VJPS
from tests.rules.checker import Case, beyond_one, case, check_vjp, checks, fraction, mask, nonzero, positive, real

aten = torch.ops.aten

CASES = [
    # -- arithmetic: same shapes, either side broadcast, both sides broadcast, a scale ---------------------
    case(aten.add.Tensor, real(2, 3, 4), real(2, 3, 4)),
    case(aten.add.Tensor, real(3, 1), real(2, 3, 4), alpha=3),
    case(aten.add.Tensor, real(2, 3, 4), real(4), alpha=-2),
    case(aten.add.Tensor, real(2, 1, 4), real(1, 3, 1)),
    case(aten.add.Tensor, real(2, 3), real()),
    case(aten.add.Tensor, real(1, 1), real(1)),
    case(aten.add.Tensor, real(2, 3), 2),
    case(aten.add.Scalar, real(2, 3), 2),
    case(aten.sub.Tensor, real(2, 3, 4), real(2, 3, 4)),
    case(aten.sub.Tensor, real(3, 1), real(2, 3, 4), alpha=3),
    case(aten.sub.Tensor, real(2, 3, 4), real(1, 4), alpha=-2),
    case(aten.sub.Scalar, real(2, 3), 2),
    case(aten.rsub.Tensor, real(3, 1), real(2, 3, 4), alpha=3),
    case(aten.rsub.Scalar, real(2, 3), 2),
    case(aten.rsub.Scalar, real(2, 3), 2, 3),
    case(aten.mul.Tensor, real(2, 3, 4), real(2, 3, 4)),
    case(aten.mul.Tensor, real(3, 1), real(2, 3, 4)),
    case(aten.mul.Tensor, real(2, 3, 4), real(4)),
    case(aten.mul.Tensor, real(2, 3), -3),
    case(aten.mul.Scalar, real(2, 3), -3),
    case(aten.div.Tensor, real(2, 3, 4), nonzero(2, 3, 4)),
    case(aten.div.Tensor, real(3, 1), nonzero(2, 3, 4)),
    case(aten.div.Tensor, real(2, 3, 4), nonzero(4)),
    case(aten.div.Tensor, real(2, 3), -4),
    case(aten.div.Scalar, real(2, 3), -4),
    case(aten.neg.default, real(2, 3)),
    case(aten.exp.default, real(2, 3), exact=False),
    case(aten.log.default, positive(2, 3)),
    case(aten.sqrt.default, positive(2, 3)),
    case(aten.abs.default, real(4, 5)),
    case(aten.reciprocal.default, nonzero(2, 3)),
    case(aten.pow.Tensor_Scalar, real(2, 3), 2),
    case(aten.pow.Tensor_Scalar, real(2, 3), 3),
    case(aten.pow.Tensor_Scalar, nonzero(2, 3), -1),
    case(aten.pow.Tensor_Scalar, positive(2, 3), 0.75, exact=False),
    case(aten.pow.Tensor_Tensor, positive(2, 3), real(3), exact=False),
    case(aten.pow.Tensor_Tensor, positive(3, 1), positive(2, 1, 4), exact=False),
    case(aten.pow.Scalar, 2.5, real(2, 3), exact=False),
    case(aten.rsqrt.default, positive(2, 3)),
    case(aten.log1p.default, positive(2, 3), exact=False),
    case(aten.expm1.default, real(2, 3), exact=False),
    case(aten.sin.default, real(2, 3), exact=False),
    case(aten.cos.default, real(2, 3), exact=False),
    case(aten.erf.default, real(2, 3), exact=False),
    case(aten.tan.default, real(2, 3), exact=False),
    case(aten.asin.default, fraction(2, 3), exact=False),
    case(aten.acos.default, fraction(2, 3), exact=False),
    case(aten.atan.default, real(2, 3), exact=False),
    case(aten.sinh.default, real(2, 3), exact=False),
    case(aten.cosh.default, real(2, 3), exact=False),
    case(aten.asinh.default, real(2, 3), exact=False),
    case(aten.acosh.default, beyond_one(2, 3), exact=False),
    case(aten.atanh.default, fraction(2, 3), exact=False),
    case(aten.atan2.default, real(2, 3), nonzero(2, 3), exact=False),
    case(aten.atan2.default, real(4, 6), real(4, 6)),
    case(aten.atan2.default, nonzero(2, 1, 3), real(4, 1), exact=False),
    case(aten.fmod.Scalar, real(4, 6), 1.3, exact=False),
    case(aten.fmod.Scalar, real(4, 6), -3),
    case(aten.fmod.Tensor, real(8, 6), nonzero(6)),
    case(aten.remainder.Scalar, real(4, 6), 1.3, exact=False),
    case(aten.remainder.Scalar, real(4, 6), -3),
    case(aten.remainder.Tensor, real(8, 6), nonzero(6)),
    # -- choices: whole numbers tie often ------------------------------------------------------------------------
    case(aten.maximum.default, real(4, 6), nonzero(4, 6)),
    case(aten.maximum.default, real(4, 1), nonzero(6)),
    case(aten.minimum.default, real(4, 6), nonzero(4, 6)),
    case(aten.minimum.default, real(6), nonzero(4, 1)),
    case(aten.clamp.Tensor, real(8, 6), real(8, 1), real(6)),
    case(aten.clamp.Tensor, real(4, 1), nonzero(6)),
    case(aten.clamp.Tensor, real(6), None, nonzero(4, 1)),
    case(aten.where.self, mask(4, 6), real(4, 6), real(4, 6)),
    case(aten.where.self, mask(4, 6), real(6), real()),
    case(aten.where.self, mask(6), real(4, 1), real(4, 6)),
    case(aten.masked_fill.Scalar, real(4, 6), mask(4, 6), 3.0),
    case(aten.masked_fill.Scalar, real(4, 6), mask(6), -2),
    case(aten._to_copy.default, real(2, 3), dtype=torch.float64),
    case(aten.to.dtype, real(2, 3), torch.float64),
    case(aten.type_as.default, real(2, 3), real(1)),
]


@checks(CASES)
def test_rule(case: Case, wrt: int) -> None:
    check_vjp(case, wrt)


def test_a_power_at_the_corners() -> None:
    """Where a formula would divide by zero, autograd says 0: an exponent of 0, and a base of 0."""
    base = torch.tensor([0.0, 0.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    exponent = torch.tensor([0.0, 2.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    y, ct = torch.pow(base, exponent), torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    expected = torch.autograd.grad(y, (base, exponent), ct)
    for wrt in (0, 1):
        assert torch.equal(VJPS[aten.pow.Tensor_Tensor, wrt](ct, y, base, exponent), expected[wrt])
    y = torch.pow(base, 0)
    (nothing,) = torch.autograd.grad(y, base, ct)
    assert torch.equal(VJPS[aten.pow.Tensor_Scalar, 0](ct, y, base, 0), nothing)


@pytest.mark.parametrize("op", sorted(NO_GRADIENT, key=str), ids=str)
def test_no_gradient(op: torch._ops.OpOverload) -> None:
    """Autograd itself sends nothing through these."""
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    same = torch.zeros(3, 4, dtype=torch.float64) if op._overloadname == "Tensor" else 0.0
    given = {"other": same, "size": [2], "fill_value": 0.0}
    y = op(x, *(given[argument.name] for argument in op._schema.arguments if argument.name in given))
    if y.requires_grad:
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert not gradient.any()
