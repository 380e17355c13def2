"""Every spelling keeps the value of the operator that it replaces, and what follows understands it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.canonicalize import SPELLINGS, canonicalize
from exporter.capture import capture
from exporter.errors import UnsupportedOp
from exporter.program import to_module

aten = torch.ops.aten


def tensor(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


X = tensor(2, 3, 6, 5)
STATISTICS = (tensor(3), tensor(3) - 1, tensor(3) + 1, tensor(3).abs() + 0.5)  # weight, bias, mean, var

CALLS: list[tuple[Any, tuple[Any, ...]]] = [
    (aten.alias.default, (X,)),
    (aten.clone.default, (X,)),
    (aten.contiguous.default, (X.transpose(1, 2),)),
    (aten.lift_fresh_copy.default, (X,)),
    (aten.dropout.default, (X, 0.5, False)),
    (aten.feature_dropout.default, (X, 0.5, False)),
    (aten._native_batch_norm_legit_no_training.default, (X, *STATISTICS, 0.1, 1e-3)),
    (aten._native_batch_norm_legit_no_training.default, (X, None, None, *STATISTICS[2:], 0.1, 0.5)),
    (aten._native_batch_norm_legit_no_training.default, (X[:, :, 0, 0], *STATISTICS, 0.1, 1e-5)),
    (aten.max_pool2d.default, (X, [2, 2])),
    (aten.max_pool2d.default, (X, [3, 2], [2, 1], [1, 0])),
    (aten.max_pool2d.default, (X, [2, 2], [3, 2], [1, 1], [2, 1], True)),
    (aten.adaptive_avg_pool2d.default, (X, [1, 1])),
    (aten.adaptive_avg_pool2d.default, (X, [6, 5])),
    (aten.adaptive_avg_pool2d.default, (X, [3, 1])),
    (aten.adaptive_avg_pool2d.default, (X, [2, 5])),
    (aten.adaptive_avg_pool2d.default, (X, [4, 3])),
    (aten.adaptive_avg_pool2d.default, (X, [5, 5])),
    (aten.adaptive_avg_pool2d.default, (X, [7, 9])),
    (aten.adaptive_avg_pool2d.default, (X, [1, 7])),
    (aten.adaptive_avg_pool2d.default, (X[:, :, :1, :1], [7, 7])),
    (aten.adaptive_max_pool2d.default, (X, [3, 5])),
    (aten.adaptive_max_pool2d.default, (X, [1, 1])),
    (aten.reshape.default, (X, [2, -1])),
    (aten.reshape.default, (X.transpose(1, 2), [2, -1])),
    (aten.view.default, (X, [6, 30])),
    (aten._unsafe_view.default, (X, [6, 30])),
    (aten.flatten.using_ints, (X, 1)),
    (aten.flatten.using_ints, (X, 1, -2)),
    (aten.pad.default, (X, [1, 2])),
    (aten.pad.default, (X, [1, 2, 0, 3], "constant", 2.0)),
    (aten.pad.default, (X, [-1, 2, 1, -2, 0, 1])),
    (aten.pad.default, (X, [1, 2, 0, 3], "reflect")),
    (aten.pad.default, (X, [1, 2, 0, 3], "replicate")),
    (aten.matmul.default, (X, tensor(5, 4))),
    (aten.matmul.default, (X, tensor(5))),
    (aten.matmul.default, (tensor(6), X)),
    (aten.matmul.default, (tensor(5), tensor(5))),
    (aten.matmul.default, (tensor(6), tensor(6, 4))),
    (aten.matmul.default, (tensor(4, 6), tensor(6))),
]


def _name(value: Any) -> str:
    return "x".join(map(str, value.shape)) if isinstance(value, Tensor) else str(value)


@pytest.mark.parametrize(
    ("op", "args"),
    [pytest.param(op, args, id=f"{op}({', '.join(map(_name, args))})") for op, args in CALLS],
)
def test_a_spelling_keeps_the_value(op: Any, args: tuple[Any, ...]) -> None:
    expected, found = op(*args), SPELLINGS[op](*args)
    if isinstance(expected, tuple):  # what else these return serves training only
        expected, found = expected[0], found[0]
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_every_spelling_has_a_call() -> None:
    assert set(SPELLINGS) - {op for op, _ in CALLS} == set()


class Network(nn.Module):
    """A body, then ``flatten(1)``."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(1)


NETWORKS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout2d(F.dropout(x, 0.5, False), 0.5, False),
    "nn.Dropout": nn.Sequential(nn.Dropout(), nn.Dropout2d()),
    "batch norm": nn.BatchNorm2d(3).double(),
    "pools": lambda x: F.adaptive_avg_pool2d(F.max_pool2d(x, 2, ceil_mode=True), (2, 5)),
    "adaptive max pool": lambda x: F.adaptive_max_pool2d(x, (3, 1)),
    "a view of a contiguous copy": lambda x: x.permute(0, 2, 3, 1).contiguous().view(x.shape[0], 6, -1),
    "a view of a clone": lambda x: x.transpose(1, 2).clone(memory_format=torch.contiguous_format).view(-1, 90),
    "pad": lambda x: F.pad(x, (1, 0, 2, -1), value=3.0),
    "by a vector": lambda x: x @ torch.arange(5, dtype=x.dtype),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_canonical_program_computes_what_the_network_does(name: str, batch: int) -> None:
    net = Network(NETWORKS[name]).eval()
    program = canonicalize(capture(net, X))
    image = tensor(batch, 3, 6, 5)
    (found,) = to_module(program)(image)
    torch.testing.assert_close(found, net(image), rtol=0, atol=1e-14)
    again = canonicalize(program)
    assert [node.target for node in again.graph.nodes] == [node.target for node in program.graph.nodes]


def test_averaging_windows_follow_the_dtype() -> None:
    """The weights of uneven windows are made where the program runs, in its precision."""
    program = canonicalize(capture(Network(nn.AdaptiveAvgPool2d((4, 7))), X.float()))
    (found,) = to_module(program)(X)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(X, (4, 7)).flatten(1), rtol=0, atol=1e-14)


def test_an_uneven_adaptive_max_pool_is_refused_with_its_place() -> None:
    with pytest.raises(
        UnsupportedOp, match=r"^adaptive_max_pool2d from 6x5 to 4x5: sizes must divide \(body, .*\.py:\d+\)$"
    ):
        canonicalize(capture(Network(nn.AdaptiveMaxPool2d((4, 5))), X))
