"""Sizes that may vary, and settings that stand for every axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def known(size: int | torch.SymInt) -> int | None:
    """Return a size that is the same for every input, or None for one that varies."""
    if isinstance(size, int):
        return size
    formula = size.node.expr
    return int(formula) if formula.is_Integer else None


def is_one(size: int | torch.SymInt) -> bool:
    """Tell a static size of 1 from any other; a dynamic size counts as larger, and no guard is made."""
    return isinstance(size, int) and size == 1


def per_axis(value: Sequence[int], axes: int) -> list[int]:
    """Repeat a single setting for every spatial axis."""
    return list(value) * axes if len(value) == 1 else list(value)
