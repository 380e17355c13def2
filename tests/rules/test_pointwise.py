"""The rules of ``exporter/rules/pointwise.py``."""

from __future__ import annotations

import pytest
import torch

from exporter.rules import NO_GRADIENT
from tests.rules.checker import Case, case, check_vjp, checks, nonzero, positive, real

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
    # -- activations that are not rectifiers, whole numbers at each bound -----------------------------------
    case(aten.sigmoid.default, real(2, 3), exact=False),
    case(aten.tanh.default, real(2, 3), exact=False),
    case(aten.silu.default, real(2, 3), exact=False),
    case(aten.leaky_relu.default, real(4, 5), exact=False),
    case(aten.leaky_relu.default, real(4, 5), 0.25),
    case(aten.leaky_relu.default, real(4, 5), -0.5),
    case(aten.hardtanh.default, real(4, 6)),
    case(aten.hardtanh.default, real(4, 6), -2.0, 1.0),
    case(aten.clamp.default, real(4, 6), -1, 1),
    case(aten.clamp.default, real(4, 6), -1),
    case(aten.clamp.default, real(4, 6), None, 1),
    case(aten.clamp.default, real(4, 6), min=-1, max=0),
    case(aten.clamp_min.default, real(4, 6), -1),
    case(aten.clamp_max.default, real(4, 6), 1),
    case(aten.threshold.default, real(4, 6), 1, -2),
    case(aten.threshold.default, real(4, 6), -1, 0),
    # -- reductions: dims, keepdim ----------------------------------------------------------------------------
    case(aten.sum.dim_IntList, real(2, 3, 4), [1]),
    case(aten.sum.dim_IntList, real(2, 3, 4), [-1, 0]),
    case(aten.sum.dim_IntList, real(2, 3, 4), [2, 1], True),
    case(aten.sum.dim_IntList, real(2, 3), []),
    case(aten.sum.dim_IntList, real(2, 3), None),
    case(aten.mean.dim, real(2, 3, 4), [1]),
    case(aten.mean.dim, real(2, 3, 2), [-1, 0]),
    case(aten.mean.dim, real(2, 3, 2), [2, 1], True),
    case(aten.mean.dim, real(2, 3), []),
    case(aten.mean.dim, real(2, 3), None),
    case(aten.softmax.int, real(2, 3, 4), 1, exact=False),
    case(aten.softmax.int, real(2, 3), -1, exact=False),
    case(aten._softmax.default, real(2, 3), 1, False, exact=False),
    case(aten.log_softmax.int, real(2, 3, 4), 1, exact=False),
    case(aten.log_softmax.int, real(2, 3), -1, exact=False),
    case(aten._log_softmax.default, real(2, 3), 1, False, exact=False),
]


@checks(CASES)
def test_rule(case: Case, wrt: int) -> None:
    check_vjp(case, wrt)


@pytest.mark.parametrize("op", sorted(NO_GRADIENT, key=str), ids=str)
def test_no_gradient(op: torch._ops.OpOverload) -> None:
    """Autograd itself sends nothing through these."""
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    rest = {"other": [torch.zeros(3, 4, dtype=torch.float64) if op._overloadname == "Tensor" else 0.0], "size": [[2]]}
    second = [argument.name for argument in op._schema.arguments][1:2]
    y = op(x, *rest.get("".join(second), []))
    if y.requires_grad:
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert not gradient.any()
