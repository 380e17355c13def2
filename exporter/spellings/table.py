"""The table of spellings, and how one gets into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten
Number = int | float

SPELLINGS: dict[torch._ops.OpOverload, Callable[..., Any]] = {}
"""Operator -> its canonical spelling."""


def spelling(*ops: torch._ops.OpOverload) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the canonical spelling of one or more operators."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        SPELLINGS.update(dict.fromkeys(ops, function))
        return function

    return register
