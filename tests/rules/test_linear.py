"""The rules of ``exporter/rules/linear.py``."""

from __future__ import annotations

import torch

from tests.rules.checker import Case, case, check_vjp, checks, real

aten = torch.ops.aten

CASES = [
    # x, weight, bias, stride, padding, dilation, groups
    case(aten.conv1d.default, real(2, 3, 7), real(4, 3, 3), real(4)),
    case(aten.conv1d.default, real(2, 4, 9), real(4, 2, 3), None, [2], [1], [2], 2),
    case(aten.conv2d.default, real(2, 3, 5, 5), real(4, 3, 3, 3)),
    case(aten.conv2d.default, real(1, 2, 5, 6), real(3, 2, 3, 3), real(3), [1, 1], [1, 1]),
    case(aten.conv2d.default, real(1, 2, 5, 6), real(3, 2, 1, 1), None, [2, 2]),
    case(aten.conv2d.default, real(1, 2, 6, 7), real(3, 2, 3, 2), real(3), [2, 3], [1, 0]),
    case(aten.conv2d.default, real(1, 2, 8, 8), real(2, 2, 3, 3), None, [3, 1], [2, 2], [2, 1]),
    case(aten.conv2d.default, real(1, 2, 7, 8), real(2, 2, 2, 2), None, [2], [0], [2]),
    case(aten.conv2d.default, real(2, 4, 5, 5), real(4, 1, 3, 3), None, [1, 1], [1, 1], [1, 1], 4),
    case(aten.conv2d.default, real(1, 4, 6, 5), real(6, 2, 3, 3), real(6), [2, 2], [1, 1], [1, 1], 2),
    case(aten.conv2d.default, real(1, 1, 3, 3), real(2, 1, 3, 3), None, [1, 1], [3, 2]),
    case(aten.conv2d.default, real(1, 2, 6, 6), real(2, 2, 2, 2), None, [4, 4]),
    case(aten.conv3d.default, real(1, 2, 4, 3, 4), real(2, 2, 3, 2, 2), real(2), [2, 1, 2], [1, 0, 1]),
    # x, weight, bias, stride, padding, output_padding, groups, dilation
    case(aten.conv_transpose1d.default, real(2, 3, 5), real(3, 2, 3), real(2), [2], [1], [1]),
    case(aten.conv_transpose2d.input, real(1, 2, 3, 4), real(2, 3, 3, 3), real(3)),
    case(aten.conv_transpose2d.input, real(1, 2, 3, 4), real(2, 3, 3, 2), None, [2, 1], [1, 0], [1, 0]),
    case(aten.conv_transpose2d.input, real(1, 4, 3, 3), real(4, 2, 3, 3), None, [2, 2], [1, 1], [0, 0], 2, [1, 2]),
    case(aten.conv_transpose2d.input, real(1, 1, 2, 2), real(1, 1, 4, 4), None, [1, 1], [0, 0], [1, 1], 1, [2, 2]),
    case(aten.conv_transpose3d.input, real(1, 2, 2, 3, 2), real(2, 2, 2, 2, 2), None, [2, 2, 2]),
    # x, weight, bias
    case(aten.linear.default, real(3, 5), real(4, 5), real(4)),
    case(aten.linear.default, real(2, 3, 5), real(4, 5)),
    # bias, x, weight
    case(aten.addmm.default, real(4), real(3, 5), real(5, 4)),
    # a, b
    case(aten.mm.default, real(3, 4), real(4, 2)),
    case(aten.bmm.default, real(2, 3, 4), real(2, 4, 2)),
    case(aten.matmul.default, real(3, 4), real(4, 2)),
    case(aten.matmul.default, real(2, 3, 3, 4), real(2, 3, 4, 2)),
    case(aten.matmul.default, real(2, 3, 3, 4), real(4, 2)),
    case(aten.matmul.default, real(3, 4), real(2, 3, 4, 2)),
    case(aten.matmul.default, real(2, 1, 3, 4), real(1, 3, 4, 2)),
]


@checks(CASES)
def test_rule(case: Case, wrt: int) -> None:
    check_vjp(case, wrt)
