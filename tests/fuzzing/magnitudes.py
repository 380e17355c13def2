"""Whether float32 is exact for a computation, whatever order its sums are taken in."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

SUMS = (
    "add",  # addmm, baddbmm, scatter_add, index_add
    "avg_pool",
    "bmm",
    "conv",
    "cumsum",
    "index_put",
    "max_pool2d_with_indices_backward",
    "max_pool3d_with_indices_backward",
    "mean",
    "mm",
    "pad",
    "select_backward",
    "sum",
    "upsample",
)
"""Parts of the names of ATen operators whose outputs are sums: a partial sum may be larger than the sum."""

BITS = 22
"""How many significant bits a value may have: float32 has 24, the rest is for intermediate values that differ."""

FINEST = 24
"""Values that are no multiple of 2^-24 count as not exact."""


class Magnitudes(TorchDispatchMode):
    """Watches every operator, autograd's backward ones included, of a computation in float64.

    If all values are whole multiples of a power of two, and no sum of absolute values exceeds ``2^22`` of it, then
    every order of summation gives the same float32 result, to the bit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0.0
        self.halvings = 0

    @property
    def exact(self) -> bool:
        """Whether float32 holds all that was seen."""
        return self.halvings <= FINEST and self.largest * 2.0**self.halvings < 2.0**BITS

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, look at its values and, where it sums, at the sum of the absolute ones."""
        kwargs = kwargs or {}
        bound = None
        if any(part in func.__name__ for part in SUMS) and not func._schema.is_mutable:
            bound = func(*_absolute(args), **_absolute(kwargs))
        found = func(*args, **kwargs)
        for value in () if "empty" in func.__name__ else _floating(found):  # what is to be written yet is no value
            self._look(value)
        for value in _floating(bound):
            self.largest = max(self.largest, value.abs().max().item())
        return found

    def _look(self, value: Tensor) -> None:
        if not value.isfinite().all():
            self.halvings = FINEST + 1
            return
        self.largest = max(self.largest, value.abs().max().item())
        while self.halvings <= FINEST and not _whole(value, self.halvings):
            self.halvings += 1


def _whole(value: Tensor, halvings: int) -> bool:
    scaled = value * 2.0**halvings
    return bool((scaled == scaled.round()).all())


def _floating(values: Any) -> list[Tensor]:
    return [
        value.detach()
        for value in tree_leaves(values)
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel()
    ]


def _absolute(values: Any) -> Any:
    return tree_map_only(Tensor, lambda x: x.abs() if x.is_floating_point() else x, values)
