"""Calls in other words: the same values as PyTorch's own, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

import exporter
from exporter.rewritten import Rewritten


class Counts(nn.Module):
    """Has as many numbers as its input is long."""

    def __init__(self, bounds: tuple[float, float], options: dict[str, Any]) -> None:
        super().__init__()
        self.bounds, self.options = bounds, options

    def forward(self, x: Tensor) -> Tensor:
        return torch.linspace(*self.bounds, x.shape[1], **self.options)


@pytest.mark.parametrize(
    ("bounds", "options"),
    [((-1, 1), {}), ((-0.3, 2.7), {}), ((5, 0.1), {"dtype": torch.float64})],
)
def test_linspace(bounds: tuple[float, float], options: dict[str, Any]) -> None:
    module = Counts(bounds, options)
    with Rewritten():
        exported = torch.export.export(module, (torch.zeros(2, 8),), dynamic_shapes=({1: Dim("length", min=1)},))
    for length in range(1, 80):
        found, expected = exported.module()(torch.zeros(2, length)), torch.linspace(*bounds, length, **options)
        assert found.dtype == expected.dtype
        if options.get("dtype") is torch.float64:  # the kernel rounds a sum and a product at once
            torch.testing.assert_close(found, expected, rtol=1e-15, atol=1e-15)
        else:
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("varies", "options"), [(False, {}), (True, {"dtype": torch.int64})])
def test_what_does_not_vary_or_has_whole_numbers_is_left_alone(varies: bool, options: dict[str, Any]) -> None:
    shapes = ({1: Dim.AUTO},) if varies else None
    with Rewritten():
        exported = torch.export.export(Counts((-3, 3), options), (torch.zeros(2, 8),), dynamic_shapes=shapes)
    assert torch.ops.aten.linspace.default in [node.target for node in exported.graph.nodes]


class Pooled(nn.Module):
    """One call of a pool on a signal whose length varies."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.max_pool1d(x, 3),
        lambda x: F.max_pool1d(x, [3], stride=[2], padding=[1], ceil_mode=True),
        lambda x: torch.max_pool1d(x, (2,), (1,), dilation=3),
        nn.MaxPool1d(4, 2, 2, 2),
        lambda x: F.max_pool1d(x[0], 2),
    ],
    ids=["alone", "ceil mode", "dilation", "module", "no batch"],
)
def test_maxima_of_signals_of_any_length(pool: Callable[[Tensor], Tensor]) -> None:
    with Rewritten():
        exported = torch.export.export(Pooled(pool), (torch.zeros(2, 3, 16),), dynamic_shapes=({2: Dim.AUTO},))
    for length in (9, 16, 21):
        x = torch.randn(2, 3, length)
        assert torch.equal(exported.module()(x), pool(x))


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.max_pool2d(x, (x.shape[2], 1)),
        lambda x: F.max_pool2d(x, (1, x.shape[3]), stride=1),
        lambda x: F.max_pool2d(x, x.shape[2:]),
        lambda x: F.adaptive_max_pool2d(x, (None, 1)),
        lambda x: F.max_pool1d(x.flatten(2), x.shape[2] * x.shape[3]),
        lambda x: F.max_pool3d(x[:, None], (1, x.shape[2], x.shape[3])),
        lambda x: F.max_pool3d(x[:, None], (1, 1, x.shape[3])),
        lambda x: F.adaptive_max_pool3d(x[:, None], (None, 1, None)),
        lambda x: F.avg_pool2d(x, (x.shape[2], 2), (5, 3), (0, 1), count_include_pad=False),
        lambda x: F.avg_pool3d(x[:, None], (2, x.shape[2], 1), 1, ceil_mode=True),
    ],
    ids=["column", "row", "image", "adaptive", "flat", "slices", "rows of slices", "adaptive rows", "mean", "3d mean"],
)
def test_windows_as_long_as_an_axis_that_varies(pool: Callable[[Tensor], Tensor]) -> None:
    """Of equal values the first is the largest, as in PyTorch's own pool: to it alone goes the gradient."""
    sizes = ({2: Dim.AUTO, 3: Dim.AUTO},)
    with Rewritten():
        exported = torch.export.export(Pooled(pool), (torch.zeros(2, 3, 7, 9),), dynamic_shapes=sizes)
    for height, width in ((7, 9), (5, 12)):
        x = torch.randint(3, (2, 3, height, width)).float().requires_grad_()
        found, expected = exported.module()(x), pool(x)
        ct = torch.randint(-4, 5, expected.shape).float()
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(*(torch.autograd.grad(y, x, ct)[0] for y in (found, expected)))


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (nn.LPPool1d(2, 3), (2, 3, 8)),
        (nn.LPPool1d(3, 2, stride=1, ceil_mode=True), (2, 3, 9)),
        (nn.LPPool2d(2, (3, 2), stride=(2, 1), ceil_mode=True), (2, 3, 8, 6)),
        (nn.LPPool2d(1, 2), (2, 3, 8, 6)),
        (nn.LPPool2d(float("inf"), 2), (2, 3, 8, 6)),
        (nn.LPPool3d(2, 2), (2, 3, 4, 4, 6)),
    ],
    ids=repr,
)
def test_power_averages_have_no_rectifier(pool: nn.Module, shape: tuple[int, ...], tmp_path: Path) -> None:
    """Of inputs of both signs, and with whole windows of zeros, of which the derivative is zero."""
    x = torch.randn(shape, dtype=torch.float64)
    x[..., :4] = 0
    assert x.min() < 0 < x.max()
    x = x.abs() if pool.norm_type == 3 else x  # otherwise a root of a negative number
    with Rewritten():
        exported = torch.export.export(Pooled(pool), (x,))
    assert torch.ops.aten.relu.default not in [node.target for node in exported.graph.nodes]
    given = x.requires_grad_()
    found, expected = exported.module()(given), pool(given)
    ct = torch.randn_like(expected)
    assert torch.equal(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(y, given, ct)[0] for y in (found, expected)))
    first = nn.ReLU() if pool.norm_type == 3 else nn.Conv1d(3, 3, 1) if len(shape) == 3 else nn.Identity()
    head = nn.Linear(expected[0].numel(), 3)
    for before in (first, nn.ReLU()):
        exporter.export(nn.Sequential(before, pool, nn.Flatten(), head), shape[1:], tmp_path / "a")
