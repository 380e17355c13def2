"""The rules of ``exporter/rules/pooling.py``."""

from __future__ import annotations

import torch

from exporter.rules import VJPS
from tests.rules.checker import Case, case, check_vjp, checks, real

aten = torch.ops.aten

CASES = [
    # x, kernel, stride, padding, dilation, ceil_mode; whole numbers tie in nearly every window
    case(aten.max_pool2d_with_indices.default, real(2, 2, 4, 4), [2, 2]),
    case(aten.max_pool2d_with_indices.default, real(2, 2, 7, 7), [3, 3], [2, 2], [1, 1]),
    case(aten.max_pool2d_with_indices.default, real(1, 2, 5, 6), [3, 3], [1, 1], [1, 1]),
    case(aten.max_pool2d_with_indices.default, real(1, 2, 7, 5), [3, 2], [2, 1], [1, 0]),
    case(aten.max_pool2d_with_indices.default, real(1, 2, 6, 6), [3, 3], [2, 2], [0, 0], [1, 1], True),
    case(aten.max_pool2d_with_indices.default, real(1, 2, 7, 7), [3, 3], [2, 2], [1, 1], [2, 2]),
    case(aten.max_pool2d_with_indices.default, real(1, 2, 7, 7), [2], [3], [1], [1], True),
    case(aten.max_pool2d_with_indices.default, real(2, 5, 5), [2, 2]),
    case(aten.max_pool3d_with_indices.default, real(1, 2, 4, 4, 4), [2, 2, 2]),
    case(aten.max_pool3d_with_indices.default, real(1, 1, 3, 4, 5), [3, 2, 3], [1, 2, 2], [1, 0, 1], [1, 1, 1], True),
    # x, kernel, stride, padding, ceil_mode, count_include_pad, divisor
    case(aten.avg_pool2d.default, real(2, 2, 4, 4), [2, 2]),
    case(aten.avg_pool2d.default, real(1, 2, 5, 7), [2], [3]),
    case(aten.avg_pool2d.default, real(1, 2, 5, 6), [3, 2], [2, 1], [1, 0]),
    case(aten.avg_pool2d.default, real(1, 2, 7, 7), [3, 3], [2, 2], [1, 1]),
    case(aten.avg_pool2d.default, real(1, 2, 5, 6), [3, 3], [1, 1], [1, 1], False, False),
    case(aten.avg_pool2d.default, real(1, 2, 6, 5), [3, 3], [2, 2], [0, 0], True),
    case(aten.avg_pool2d.default, real(1, 2, 6, 5), [3, 2], [2, 2], [1, 1], True, True),
    case(aten.avg_pool2d.default, real(1, 2, 6, 5), [3, 2], [2, 2], [1, 1], True, False),
    case(aten.avg_pool2d.default, real(1, 2, 4, 4), [3, 3], [3, 3], [1, 1], True, True),
    case(aten.avg_pool2d.default, real(1, 2, 5, 6), [3, 3], [2, 2], [1, 1], False, True, 4),
    case(aten.avg_pool2d.default, real(1, 2, 6, 6), [3, 3], [2, 2], [1, 1], True, False, 5),
    case(aten.avg_pool2d.default, real(2, 5, 5), [2, 2], [2, 2], [1, 1], True),
    case(aten.avg_pool3d.default, real(1, 2, 4, 4, 4), [2]),
    case(aten.avg_pool3d.default, real(1, 1, 4, 5, 4), [2, 3, 2], [2, 2, 1], [1, 1, 0], True, True),
    case(aten.avg_pool3d.default, real(1, 1, 4, 5, 4), [2, 3, 1], [2, 2, 1], [1, 1, 0], True, False),
    case(aten.avg_pool3d.default, real(1, 1, 4, 3, 4), [2, 3, 2], [2, 2, 2], [1, 1, 0], False, False, 5),
]


@checks(CASES)
def test_rule(case: Case, wrt: int) -> None:
    check_vjp(case, wrt)


def test_a_tie_goes_to_the_first_maximum() -> None:
    """Row by row: of [[0, 7], [7, 7]] the 7 in the first row."""
    x = torch.tensor([[[[0.0, 7.0], [7.0, 7.0]]]])
    y = aten.max_pool2d_with_indices(x, [2, 2])
    ct = VJPS[aten.max_pool2d_with_indices.default, 0](torch.tensor([[[[3.0]]]]), y, x, [2, 2])
    assert ct.tolist() == [[[[0.0, 3.0], [0.0, 0.0]]]]
