"""Masks by arithmetic: what counts as zero, and as the ceiling."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from exporter.lowering.finite import LEAST_CEILING, below_zero_or_at_ceiling

CEILINGS = (6.0, 1.0, 2.0, 0.01, 20.0, LEAST_CEILING, 3e38, math.inf)
"""A ReLU6's; powers of two, whose next number below is nearer than the one above; and the ends of the range."""


def values(ceiling: float, dtype: torch.dtype) -> list[float]:
    """Return outputs of a rectifier: its least and its greatest, their neighbours, and some between."""
    numbers = np.float32 if dtype == torch.float32 else np.float64
    top = numbers(min(ceiling, np.finfo(np.float32).max))
    below = [top]
    for _ in range(3):
        below.append(np.nextafter(below[-1], numbers(0)))
    return [float(one) for one in (0.0, -0.0, *below, top / 2, top / 3, top * numbers(0.999))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ceiling", CEILINGS)
def test_arithmetic_tells_what_a_comparison_tells(ceiling: float, dtype: torch.dtype) -> None:
    if ceiling != math.inf:
        ceiling = float(torch.tensor(ceiling, dtype=dtype))  # as hardtanh clips there
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
