"""Masks by arithmetic: what counts as zero, and as the ceiling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.differentiate import differentiate
from exporter.lowering import DEFAULT_TARGET, lower
from exporter.lowering.blocked import is_blocked
from exporter.lowering.finite import CEILINGS, below_zero_or_at_ceiling
from exporter.methods import METHODS
from exporter.program import Program
from tests.lowering.test_passes import count, explicit
from tests.test_exact import NETWORKS

LEVELS = (6.0, 1.0, 2.0, 20.0, 0.5, *CEILINGS, math.inf)
"""A ReLU6's ceiling; powers of two, whose neighbour below is nearer than the one above; the least and the greatest."""


def values(ceiling: float, dtype: torch.dtype) -> list[float]:
    """Return outputs of a rectifier: its least and its greatest, their neighbours, and some between."""
    numbers = np.float32 if dtype == torch.float32 else np.float64
    top = numbers(min(ceiling, np.finfo(np.float32).max))
    below = [top]
    for _ in range(3):
        below.append(np.nextafter(below[-1], numbers(0)))
    least = 1e-20 if dtype == torch.float32 else 1e-15
    between = [one for one in (least, 1e-10, 1e-6, 1e-3, 1.0, 100.0) if one < ceiling]
    return [float(one) for one in (0.0, -0.0, *below, top / 2, top / 3, top * numbers(0.999), *between)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ceiling", LEVELS)
def test_arithmetic_tells_what_a_comparison_tells(ceiling: float, dtype: torch.dtype) -> None:
    y = torch.tensor(values(ceiling, dtype), dtype=dtype)
    found = below_zero_or_at_ceiling(y.reshape(1, 1, 1, -1), ceiling).flatten()
    assert torch.isfinite(found).all()
    assert torch.equal(found > 0, (y <= 0) | (y >= ceiling))
    assert (found[found > 0] >= 1).all()  # so that the largest number times it is not less


@pytest.mark.parametrize(("ceiling", "least"), [(math.inf, 2.0**-127), (6.0, 2.0**-101)])
def test_what_counts_as_zero(ceiling: float, least: float) -> None:
    y = torch.tensor([least, np.nextafter(np.float32(least), np.float32(0))]).reshape(1, 1, 1, 2)
    assert (below_zero_or_at_ceiling(y, ceiling) > 0).flatten().tolist() == [False, True]


def test_infinity_lets_pass_and_nan_is_not_told() -> None:
    y = torch.tensor([math.inf, math.nan]).reshape(1, 1, 1, 2)
    found = below_zero_or_at_ceiling(y).flatten()
    assert found[0] == 0
    assert found[1].isnan()


class Net(nn.Module):
    """A convolution whose channels fill a block, what comes after it, and a convolution of the same."""

    def __init__(self, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.after = after
        self.head = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.conv(x))).sum((2, 3))


def guided(after: Callable[[Tensor], Tensor]) -> Program:
    images = torch.zeros(2, 3, 10, 10)
    return differentiate(canonicalize(capture(Net(after).eval(), images)), METHODS["guided"])


@pytest.mark.parametrize(
    ("after", "blocked"),
    [
        (F.relu, True),
        (lambda y: F.relu(F.max_pool2d(y, 2)), True),
        (lambda y: F.relu(F.avg_pool2d(y, 2)), True),
        (lambda y: F.relu(y + F.max_pool2d(y, 3, 1, 1)), True),
        (lambda y: F.relu(torch.cat([y, y], 2)), False),
        (lambda y: F.relu(y[:, :, 1:]), False),
        (lambda y: F.relu(y.transpose(1, 2).flip(1).transpose(1, 2)), False),
    ],
)
def test_what_stays_in_blocks(after: Callable[[Tensor], Tensor], blocked: bool) -> None:
    program = guided(after)
    y = next(node for node in program.graph.nodes if node.target == torch.ops.aten.relu.default)
    assert is_blocked(y) is blocked


@pytest.mark.parametrize(
    "ceiling",
    [
        1e-9,  # too low
        1e9,  # too high
        1 - 1e-9,  # float32 has no such number, and clips at one
        7.99999999,
    ],
)
def test_other_ceilings_are_compared(ceiling: float) -> None:
    program = guided(nn.Hardtanh(0, ceiling))
    assert count(lower(program, "onnxruntime-finite"))["lt.Scalar"] == 2  # this one and the target's
    clipped = guided(nn.Hardtanh(0, 20))
    assert count(lower(clipped, "onnxruntime-finite"))["lt.Scalar"] == 1


@pytest.mark.parametrize("method", ["gradient", "deconvnet"])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name.startswith(("blocks", "bottleneck"))])
def test_other_rules_have_the_default_lowering(name: str, method: str) -> None:
    program, _ = explicit(name, method)
    finite, default = (count(lower(program, target)) for target in ("onnxruntime-finite", DEFAULT_TARGET))
    for name in ("sym_size.int", "sym_numel.default"):  # the batch may be read off one tensor or another
        del finite[name], default[name]
    assert finite == default
