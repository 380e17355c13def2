"""Sizes that may vary, and settings that stand for every axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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


def from_start(place: int | torch.SymInt, length: int | torch.SymInt) -> int | torch.SymInt:
    """Return a place on an axis counted from its start: a negative one counts from the end, and none is before 0.

    The sign of one that varies is asked for: it must be the same at every size.
    """
    return torch.sym_max(length + place, 0) if place < 0 else place


def per_axis(value: Any, axes: int) -> list[Any]:
    """Repeat a single setting, a number or a list of one, for every spatial axis."""
    each = list(value) if isinstance(value, Sequence) else [value]
    return each * axes if len(each) == 1 else each
