"""Calls in other words: the same values as PyTorch's own, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

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
