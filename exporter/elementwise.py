"""What a trace need not run: the value of an elementwise operator on fake tensors that look alike is known before."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, in_kernel_invocation_manager
from torch.fx import _lazy_graph_module
from torch.fx.experimental import proxy_tensor
from torch.utils._python_dispatch import TorchDispatchMode

from exporter.patch import PatchesHere

aten = torch.ops.aten

_UNTAGGED = {
    aten.floor_divide.default,
    aten.leaky_relu_backward.default,
    aten.rsub.Scalar,
    aten.rsub.Tensor,
}
"""What is elementwise without PyTorch's saying so."""

_NUMBERS = (bool, int, float)
"""What an elementwise operator may take beside tensors."""


_described: Any = getattr(proxy_tensor, "_extract_tensor_metadata", None)


def _description(value: Tensor) -> Any:
    """Describe a value as PyTorch does, but not in a thread that reads no description."""
    return None if bare.here() else _described(value)


bare = PatchesHere(
    (
        (proxy_tensor, "_extract_tensor_metadata", _description),
        (_lazy_graph_module, "_use_lazy_graph_module_flag", True),
    )
)
"""Let traces of this thread make graphs alone: a sixth of their time is saved.

Without a second description of each value beside the fake one, for which PyTorch works out its order in memory, and
without Python code for each graph before somebody runs it.
"""


def looks_like(a: Tensor, b: Tensor) -> bool:
    """Tell whether two fake tensors have the same dtype and device, and by formula the same sizes and strides."""
    with torch._C.DisableTorchFunction():  # a trace has modes that each look at a tensor would go through
        return a is b or (a.dtype == b.dtype and a.ndim == b.ndim and _layout(a) == _layout(b))


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    """Return the device, sizes and strides; one that varies by its formula, so that nothing is asked about it."""
    return (tensor.device, *(n if isinstance(n, int) else n.node.expr for n in (*tensor.shape, *tensor.stride())))


class Elementwise(TorchDispatchMode):
    """Answers elementwise operators on contiguous fake tensors of one shape without running them.

    For tensors of a varying size PyTorch works out promotion, broadcasting and the order in memory anew for each shape,
    in one to three milliseconds. But the value of ``g * m`` looks like ``g``, whatever the sizes. All else, a product
    that broadcasts for example, is left to PyTorch. This mode is entered within the fake mode.
    """

    def __init__(self) -> None:
        """Know no tensor yet."""
        super().__init__()
        self._known: dict[Any, Tensor | None] = {}
        self._dtypes: dict[Any, torch.dtype] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answer an operator, or run it."""
        kwargs = kwargs or {}
        value = self._value(func, args, kwargs)
        return func(*args, **kwargs) if value is None else value

    def _value(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> FakeTensor | None:
        """Return a new tensor like those that an operator is given; None where it is not known."""
        tensors = [arg for arg in args if not isinstance(arg, _NUMBERS)]
        if not tensors or not all(isinstance(tensor, FakeTensor) and tensor.ndim for tensor in tensors):
            return None
        first, *others = tensors
        layout = _layout(first)
        if op is aten._to_copy.default and kwargs.keys() == {"dtype"}:
            return self._like(first, layout, kwargs["dtype"])
        if kwargs or not is_elementwise(op):
            return None
        if any(_layout(other) != layout for other in others):
            return None
        return self._like(first, layout, self._dtype(op, args))

    def _dtype(self, op: Any, args: tuple[Any, ...]) -> torch.dtype:
        """Return the dtype of an operator's value, for tensors of some dtypes and numbers of some types."""
        key = (op, *(type(arg) if isinstance(arg, _NUMBERS) else arg.dtype for arg in args))
        if key not in self._dtypes:
            with torch._C._DisableTorchDispatch():
                given = (kind(1) if kind in _NUMBERS else torch.empty(1, dtype=kind, device="meta") for kind in key[1:])
                self._dtypes[key] = op(*given).dtype
        return self._dtypes[key]

    def _like(self, first: FakeTensor, layout: tuple[Any, ...], dtype: torch.dtype) -> FakeTensor | None:
        """Return a new tensor of a layout, if it is contiguous; values of one layout share what they are made from."""
        key = (layout, dtype)
        with in_kernel_invocation_manager(first.fake_mode):
            if key not in self._known:
                self._known[key] = torch.empty_like(first, dtype=dtype) if _is_contiguous(layout[1:]) else None
            known = self._known[key]
            return None if known is None else FakeTensor(first.fake_mode, known, first.fake_device)


@cache
def is_elementwise(op: torch._ops.OpOverload) -> bool:
    """Tell whether each element of an operator's one value is computed from the same elements of its tensors."""
    schema = op._schema
    one_new_tensor = not schema.is_mutable and [str(value.type) for value in schema.returns] == ["Tensor"]
    return one_new_tensor and (torch.Tag.pointwise in op.tags or op in _UNTAGGED)


def _is_contiguous(sizes_and_strides: tuple[Any, ...]) -> bool:
    """Tell whether a tensor lies in memory as its sizes say; one that need not, for a size of 1, counts as if not."""
    ndim = len(sizes_and_strides) // 2
    stride = 1
    for size, own in zip(reversed(sizes_and_strides[:ndim]), reversed(sizes_and_strides[ndim:]), strict=True):
        if own != stride:
            return False
        stride = stride * size
    return True
