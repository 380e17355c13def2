"""The rules of ``exporter/rules/activation.py``."""

from __future__ import annotations

import pytest
import torch

from exporter.rules import VJPS
from tests.rules.checker import Case, case, check_vjp, checks, real

aten = torch.ops.aten

CASES = [
    # whole numbers lie at each bound
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
    case(aten.prelu.default, real(2, 3, 4), real(3)),
    case(aten.prelu.default, real(2, 3), real(3)),
    case(aten.prelu.default, real(2, 3, 2, 2), real(1)),
    # x, alpha, scale, input_scale
    case(aten.elu.default, real(4, 6), exact=False),
    case(aten.elu.default, real(4, 6), 0.5, exact=False),
    case(aten.elu.default, real(4, 6), 1.6732632423543772, 1.0507009873554805, exact=False),
    case(aten.elu.default, real(4, 6), 2.0, 1.0, 0.5, exact=False),
    case(aten.gelu.default, real(4, 6), exact=False),
    case(aten.gelu.default, real(4, 6), approximate="tanh", exact=False),
    case(aten.mish.default, real(4, 6), exact=False),
    # x, beta, threshold
    case(aten.softplus.default, real(4, 6), exact=False),
    case(aten.softplus.default, real(4, 6), 2, 3, exact=False),
    case(aten.log_sigmoid.default, real(4, 6), exact=False),
    case(aten.hardsigmoid.default, real(4, 6), exact=False),
    case(aten.hardswish.default, real(4, 6), exact=False),
]


@checks(CASES)
def test_rule(case: Case, wrt: int) -> None:
    check_vjp(case, wrt)


@pytest.mark.parametrize(
    "op", [aten.hardsigmoid, aten.hardswish, aten.softplus, aten.log_sigmoid, aten.mish, aten.gelu]
)
def test_far_from_zero_and_at_the_bounds(op: torch._ops.OpOverloadPacket) -> None:
    """Where exponentials overflow, and at the bounds of the pieces."""
    values = [-1000.0, -100.0, -20.5, -4.0, -3.0, -0.0, 0.0, 3.0, 4.0, 19.5, 20.0, 20.5, 100.0, 1000.0]
    x = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    y, ct = op(x), torch.arange(1.0, 15.0, dtype=torch.float64)
    (expected,) = torch.autograd.grad(y, x, ct)
    torch.testing.assert_close(VJPS[op.default, 0](ct, y, x), expected, rtol=1e-12, atol=1e-15)
