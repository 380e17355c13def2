"""The table itself, and how a rule gets into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from exporter.sizes import is_one

Rule = Callable[..., Any]

VJPS: dict[tuple[torch._ops.OpOverload, int], Rule] = {}
"""(operator, position of the argument) -> rule."""

NO_GRADIENT: set[torch._ops.OpOverload] = set()
"""Operators whose output carries no gradient: their cotangent ends there."""


def vjp(*ops: torch._ops.OpOverload, wrt: int = 0) -> Callable[[Rule], Rule]:
    """Register a rule for the operators' argument at position ``wrt``."""

    def register(rule: Rule) -> Rule:
        for op in ops:
            if (op, wrt) in VJPS:
                raise ValueError(f"{op} has a rule for argument {wrt} already")
            VJPS[op, wrt] = rule
        return rule

    return register


def unbroadcast(ct: Tensor, like: Tensor) -> Tensor:
    """Sum a cotangent over the axes along which ``like`` was broadcast; returns ``like``'s shape."""
    if ct.ndim > like.ndim:
        ct = ct.sum(tuple(range(ct.ndim - like.ndim)))
    axes = tuple(axis for axis in range(like.ndim) if is_one(like.shape[axis]) and not is_one(ct.shape[axis]))
    return ct.sum(axes, keepdim=True) if axes else ct
