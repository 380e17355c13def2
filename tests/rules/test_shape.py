"""The rules of ``exporter/rules/shape.py``."""

from __future__ import annotations

import pytest
import torch

from exporter.errors import UnsupportedOp
from tests.emit.networks import compiled
from tests.rules.checker import Case, case, check_vjp, checks, distinct, index, real

aten = torch.ops.aten

CASES = [
    case(aten.reshape.default, real(2, 3, 4), [2, -1]),
    case(aten.view.default, real(2, 3, 4), [6, 4]),
    case(aten.flatten.using_ints, real(2, 3, 4), 1),
    case(aten.flatten.using_ints, real(2, 3, 4), 0, 1),
    case(aten.unsqueeze.default, real(2, 3), 1),
    case(aten.unsqueeze.default, real(2, 3), -1),
    case(aten.squeeze.default, real(2, 1, 3, 1)),
    case(aten.squeeze.dim, real(2, 1, 3, 1), -1),
    case(aten.squeeze.dim, real(2, 1, 3, 1), 0),
    case(aten.squeeze.dims, real(2, 1, 3, 1), [1, -1]),
    case(aten.permute.default, real(2, 3, 4, 5), [0, 2, 3, 1]),
    case(aten.permute.default, real(2, 3, 4, 5), [-2, 0, -1, 1]),
    case(aten.transpose.int, real(2, 3, 4), 1, 2),
    case(aten.transpose.int, real(2, 3, 4), 0, -1),
    case(aten.t.default, real(2, 3)),
    case(aten.expand.default, real(2, 1, 4), [2, 3, 4]),
    case(aten.expand.default, real(1, 4), [2, 3, -1]),
    case(aten.expand.default, real(2, 3), [-1, -1]),
    case(aten.cat.default, [real(2, 3), real(2, 1), real(2, 2)], 1),
    case(aten.cat.default, [real(2, 3, 2), real(2, 3, 4)], -1),
    case(aten.cat.default, [real(2, 3), real(1, 3)]),
    case(aten.stack.default, [real(2, 3), real(2, 3)], 1),
    case(aten.stack.default, [real(2, 3), real(2, 3), real(2, 3)], -1),
    case(aten.split_with_sizes.default, real(2, 5), [2, 0, 3], 1),
    case(aten.split_with_sizes.default, real(4, 3, 2), [1, 2], -2),
    case(aten.unbind.int, real(2, 3, 4), 1),
    case(aten.unbind.int, real(2, 3), -1),
    case(aten.contiguous.default, real(2, 3, 4)),
    case(aten.flip.default, real(2, 3, 4), [1, -1]),
    case(aten.tril.default, real(2, 4, 4)),
    case(aten.tril.default, real(3, 4), -1),
    case(aten.triu.default, real(2, 4, 3), 1),
    case(aten.roll.default, real(2, 5), [2], [1]),
    case(aten.roll.default, real(2, 5, 4), [-1, 7], [1, -1]),
    case(aten.repeat.default, real(2, 3), [2, 1, 3]),
    case(aten.repeat.default, real(2, 3), [1, 2]),
    case(aten.pad.default, real(2, 3, 5), [1, 2], "reflect"),
    case(aten.pad.default, real(1, 2, 4, 5), [4, 0, 2, 3], "reflect"),
    case(aten.pad.default, real(2, 3, 5), [1, 2], "replicate"),
    case(aten.pad.default, real(1, 2, 2, 3), [4, 0, 0, 3], "replicate"),
    case(aten.pad.default, real(1, 1, 2, 2, 3), [1, 1, 1, 0, 0, 2], "replicate"),
    case(aten.constant_pad_nd.default, real(2, 3, 4), [1, 2]),
    case(aten.constant_pad_nd.default, real(2, 3, 4), [0, 1, 2, 0], 5.0),
    case(aten.constant_pad_nd.default, real(2, 4, 5), [-1, 2, 1, -2]),
    case(aten.constant_pad_nd.default, real(2, 4, 5), [-1, -2]),
    case(aten.constant_pad_nd.default, real(1, 2, 3, 4), [0, 0, 0, 0, 1, 3]),
    # x, dim, start, end, step
    case(aten.slice.Tensor, real(3, 5)),
    case(aten.slice.Tensor, real(3, 5), 1, 1, 4),
    case(aten.slice.Tensor, real(3, 5), 1, 2),
    case(aten.slice.Tensor, real(3, 5), -1, -3, -1),
    case(aten.slice.Tensor, real(3, 5), 1, None, -2),
    case(aten.slice.Tensor, real(3, 5), 1, 1, 2**63 - 1),
    case(aten.slice.Tensor, real(3, 5), 1, -100, 100),
    case(aten.slice.Tensor, real(3, 6), 1, 0, None, 2),
    case(aten.slice.Tensor, real(3, 7), 1, 1, None, 3),
    case(aten.slice.Tensor, real(2, 7, 3), -2, 1, -1, 2),
    case(aten.slice.Tensor, real(7, 2), 0, 1, 6, 4),
    case(aten.select.int, real(3, 4), 1, 2),
    case(aten.select.int, real(3, 4), 0, -1),
    case(aten.select.int, real(2, 3, 4), -2, 0),
    # x, dim, index
    case(aten.index_select.default, real(2, 5, 3), 1, index(5, 7)),
    case(aten.index_select.default, real(2, 3, 5), -1, index(5, 2)),
    case(aten.gather.default, real(2, 5, 3), 1, index(5, 2, 1, 3)),
    case(aten.gather.default, real(3, 4), -1, index(4, 2, 6)),
    case(aten.scatter.src, real(3, 6), 1, distinct(6, 3, 4), real(3, 4)),
    case(aten.scatter.value, real(3, 6), 1, distinct(6, 3, 4), 2.0),
    case(aten.scatter_add.default, real(3, 6), 1, index(6, 3, 4), real(3, 4)),
    case(aten.scatter_add.default, real(2, 5, 3), -2, index(5, 2, 7, 3), real(2, 7, 3)),
]


@checks(CASES)
def test_rule(case: Case, wrt: int) -> None:
    check_vjp(case, wrt)


class Contrast(torch.nn.Module):
    """Every image minus the first of the batch: logits that one image does not have on its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x[:1]


def test_a_slice_of_the_batch_is_refused() -> None:
    with pytest.raises(UnsupportedOp, match=r"^a slice of the batch has no vjp rule: every image needs its own logits"):
        compiled(Contrast(), (4,))
