"""The rules of ``exporter/rules/normalization.py``."""

from __future__ import annotations

import torch

from tests.rules.checker import Case, case, check_vjp, checks, positive, real

aten = torch.ops.aten

# training, momentum, eps, cudnn_enabled; var + eps is 1 or 4 in whole numbers, so that the division is exact
EVAL = (False, 0.1, 0.0, False)

CASES = [
    # x, weight, bias, mean, var
    case(aten.batch_norm.default, real(2, 3, 4, 4), real(3), real(3), real(3), positive(3), *EVAL),
    case(aten.batch_norm.default, real(2, 3, 4, 4), None, None, real(3), positive(3), *EVAL),
    case(aten.batch_norm.default, real(4, 3), real(3), None, real(3), positive(3), *EVAL),
    case(aten.batch_norm.default, real(2, 3, 5), real(3), real(3), real(3), positive(3), *EVAL),
    case(
        aten.batch_norm.default,
        *(real(1, 2, 3, 3), real(2), real(2), real(2), positive(2), False, 0.1, 0.5, False),
        exact=False,
    ),
    # x, shape, weight, bias, eps
    case(aten.native_layer_norm.default, real(2, 3, 4), [4], real(4), real(4), 1e-5, exact=False),
    case(aten.native_layer_norm.default, real(2, 3, 4), [3, 4], None, None, 0.5, exact=False),
    case(aten.native_layer_norm.default, real(2, 3, 4), [4], real(4), None, 1e-5, exact=False),
    # x, weight, bias, batch, channels, positions, groups, eps
    case(aten.native_group_norm.default, real(2, 4, 3, 2), real(4), real(4), 2, 4, 6, 2, 1e-5, exact=False),
    case(aten.native_group_norm.default, real(2, 4, 5), None, None, 2, 4, 5, 4, 0.5, exact=False),
    case(aten.native_group_norm.default, real(2, 6), real(6), None, 2, 6, 1, 2, 1e-5, exact=False),
]


@checks(CASES)
def test_rule(case: Case, wrt: int) -> None:
    check_vjp(case, wrt)
