"""The rules of ``exporter/rules/reduction.py``."""

from __future__ import annotations

import torch

from exporter.rules import VJPS
from tests.rules.checker import Case, case, check_vjp, checks, nonzero, positive, real

aten = torch.ops.aten

CASES = [
    # x, dim, keepdim
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
    case(aten.var.correction, real(2, 3, 4), [1], correction=1),
    case(aten.var.correction, real(2, 3, 4), [-1, 1], correction=0, keepdim=True, exact=False),
    case(aten.var.correction, real(2, 3), exact=False),
    case(aten.std.correction, real(2, 3, 4), [1], correction=1, exact=False),
    case(aten.std.correction, real(2, 3, 4), [-1, 1], correction=0, keepdim=True, exact=False),
    # whole numbers tie
    case(aten.amax.default, real(2, 3, 4), [1]),
    case(aten.amax.default, real(2, 3, 4), [-1, 1], True),
    case(aten.amax.default, real(2, 3)),
    case(aten.amin.default, real(2, 3, 4), [1]),
    case(aten.amin.default, real(2, 3, 4), [2, 1]),
    case(aten.logsumexp.default, real(2, 3, 4), [1], exact=False),
    case(aten.logsumexp.default, real(2, 3, 4), [1, -1], True, exact=False),
    case(aten.linalg_vector_norm.default, real(2, 3, 4), 2, [1], exact=False),
    case(aten.linalg_vector_norm.default, real(2, 3, 4), 2, [2, 1], True, exact=False),
    case(aten.linalg_vector_norm.default, nonzero(2, 3), exact=False),
    case(aten.cumsum.default, real(2, 3, 4), 1),
    case(aten.cumsum.default, positive(2, 3), -1),
    case(aten.cumsum.default, real(2, 3), 1, dtype=torch.float64),
]


@checks(CASES)
def test_rule(case: Case, wrt: int) -> None:
    check_vjp(case, wrt)


def test_nothing_passes_where_a_deviation_or_norm_is_zero() -> None:
    x = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    ct = torch.ones(2, dtype=torch.float64)
    for op, args in ((aten.std.correction, [[1]]), (aten.linalg_vector_norm.default, [2, [1]])):
        y = op(x, *args)
        (expected,) = torch.autograd.grad(y, x, ct)
        assert torch.equal(VJPS[op, 0](ct, y, x, *args), expected)
        assert not expected.any()
