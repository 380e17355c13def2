"""Spellings of what does nothing in eval mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from exporter.spellings.table import aten, spelling


@spelling(
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.alpha_dropout.default,
    aten.dropout.default,
    aten.feature_alpha_dropout.default,
    aten.feature_dropout.default,
    aten.lift_fresh_copy.default,
)
def _identity(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """In eval mode these return their input."""
    return x


@spelling(aten._to_copy.default)
def _to_copy(x: Tensor, *, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
    """A conversion to the dtype that it has already is none, in whatever dtype the program runs."""
    return x if dtype in (None, x.dtype) else aten._to_copy(x, dtype=dtype)


@spelling(aten.to.dtype)
def _to_dtype(x: Tensor, dtype: torch.dtype, *args: Any, **kwargs: Any) -> Tensor:
    return _to_copy(x, dtype=dtype)


@spelling(aten.type_as.default)
def _type_as(x: Tensor, other: Tensor) -> Tensor:
    return x if x.dtype == other.dtype else aten.type_as(x, other.detach())


@spelling(aten.softmax.int)
def _softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """As above: the dtype that the values have already is none to convert to."""
    return aten.softmax(x, dim, None if dtype == x.dtype else dtype)


@spelling(aten.log_softmax.int)
def _log_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    return aten.log_softmax(x, dim, None if dtype == x.dtype else dtype)
