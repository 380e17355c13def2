"""Guided backprop as one writes it in eager PyTorch: a function of one's own in place of each rectifier module."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class _Guided(torch.autograd.Function):
    """``g * (0 < x < most) * (g > 0)``, arXiv:1412.6806, from the output, which is kept anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, most: float) -> Tensor:
        y = x.clamp(min=0) if most == math.inf else x.clamp(0, most)
        ctx.save_for_backward(y)
        ctx.most = most
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        passed = grads[0].clamp(min=0) * (y > 0)
        return (passed if ctx.most == math.inf else passed * (y < ctx.most)), None


class _GuidedReLU(nn.Module):
    def __init__(self, most: float) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        return _Guided.apply(x, self.most)  # type: ignore[no-untyped-call,no-any-return]


MODULES = {nn.ReLU: math.inf, nn.ReLU6: 6.0}
"""Kind of rectifier -> its largest value."""


def guided(network: nn.Module) -> nn.Module:
    """Return a network that shares its weights with another, with guided functions in place of rectifier modules."""
    tensors = [*network.parameters(), *network.buffers()]
    twin = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    for name, module in list(twin.named_modules()):
        if type(module) in MODULES:
            twin.set_submodule(name, _GuidedReLU(MODULES[type(module)]))
    return twin


class _Functional(TorchFunctionMode):
    """Notes whether rectifiers are called that are no modules."""

    called = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.called = self.called or func in _FUNCTIONS
        return func(*args, **(kwargs or {}))


_FUNCTIONS = {F.relu, F.relu6, F.hardtanh, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


def has_functional_rectifiers(network: nn.Module, images: Tensor) -> bool:
    """Tell whether a guided network still calls rectifiers, as torchvision's densenet does in its ``forward``."""
    with torch.no_grad(), _Functional() as mode:
        network(images[:1])
    return mode.called
