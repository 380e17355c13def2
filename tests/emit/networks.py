"""Tiny networks, one for each operator, written as a user would; the fixture of the emitters' tests.

Each ends in a ``flatten(1)``, so that what it computes is its logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.differentiate import differentiate
from exporter.methods import METHODS
from exporter.program import Program

aten = torch.ops.aten
IMAGE = (3, 6, 5)


class Network(nn.Module):
    """A body, then ``flatten(1)``."""

    def __init__(self, body: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(1)


class Times(nn.Module):
    """``x @ weight``, or what else a function makes of the two."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.forward = function


def _norm(norm: nn.Module) -> nn.Module:
    """Give a batch norm statistics and weights that are not the identity."""
    for values in norm.state_dict().values():
        if values.is_floating_point():
            values.uniform_(0.5, 2)
    return norm


BODIES: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = {
    # -- linear
    "conv1d": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 2, 3, stride=2, padding=1)),
    "conv2d": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "conv2d stride": lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 3), padding=(1, 0), bias=False),
    "conv2d groups dilation": lambda: nn.Conv2d(3, 6, 2, padding=1, dilation=2, groups=3),
    "conv2d uncovered rows": lambda: nn.Conv2d(3, 2, 2, stride=4),
    "conv3d": lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, 2, stride=(1, 2, 1))),
    "conv_transpose1d": lambda: nn.Sequential(nn.Flatten(2), nn.ConvTranspose1d(3, 2, 3, stride=2)),
    "conv_transpose2d": lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=(1, 0)),
    "conv_transpose3d": lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.ConvTranspose3d(1, 2, 2)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(90, 4)),
    "linear of 4 axes": lambda: nn.Linear(5, 4),
    "addmm": lambda: Times(lambda x, w: torch.addmm(w[0], x.flatten(1), w[1:]), 91, 4),
    "mm": lambda: Times(lambda x, w: torch.mm(x.flatten(1), w), 90, 4),
    "mm t": lambda: Times(lambda x, w: torch.mm(x.flatten(1), aten.t(w)), 4, 90),
    "bmm": lambda: lambda x: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)),
    "matmul": lambda: Times(lambda x, w: x @ w, 5, 2),
    "matmul vector": lambda: Times(lambda x, w: x @ w, 5),
    # -- normalisation and pooling
    "batch_norm": lambda: _norm(nn.BatchNorm2d(3, eps=0.5)),
    "batch_norm without weights": lambda: _norm(nn.BatchNorm2d(3, affine=False)),
    "max_pool2d": lambda: nn.MaxPool2d(3, stride=2, padding=1),
    "max_pool2d ceil": lambda: nn.MaxPool2d(2, stride=(3, 2), ceil_mode=True),
    "max_pool2d dilation": lambda: nn.MaxPool2d(2, stride=1, padding=1, dilation=2),
    "avg_pool2d": lambda: nn.AvgPool2d(2),
    "avg_pool2d padding": lambda: nn.AvgPool2d(3, stride=2, padding=1),
    "avg_pool2d without padding": lambda: nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    "avg_pool2d ceil": lambda: nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True),
    "avg_pool2d ceil without padding": lambda: nn.AvgPool2d(
        (3, 2), stride=2, padding=1, ceil_mode=True, count_include_pad=False
    ),
    "avg_pool2d divisor": lambda: nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True, divisor_override=4),
    "adaptive_avg_pool2d 1": lambda: nn.AdaptiveAvgPool2d(1),
    "adaptive_avg_pool2d divides": lambda: nn.AdaptiveAvgPool2d((3, 5)),
    "adaptive_avg_pool2d": lambda: nn.AdaptiveAvgPool2d((4, 7)),
    # -- pointwise
    "add alpha": lambda: Times(lambda x, w: torch.add(torch.add(x, w, alpha=2), x, alpha=3), 6, 1),
    "add sub mul div numbers": lambda: lambda x: ((2 * x + 3) / 4 - 1) * (1 - x),
    "operators on scalars": lambda: (
        lambda x: aten.div.Scalar(aten.mul.Scalar(aten.sub.Scalar(aten.add.Scalar(x, 2), 3), 5), 4)
    ),
    "sub broadcast": lambda: lambda x: torch.sub(x, x.mean((2, 3), keepdim=True), alpha=2),
    "rsub a tensor": lambda: Times(lambda x, w: torch.rsub(x, w, alpha=2), 6, 5),
    "rsub alpha": lambda: lambda x: torch.rsub(x, 2, alpha=3),
    "div": lambda: lambda x: x[:, :1] / (x.abs() + 1),
    "neg exp": lambda: lambda x: (-x).exp(),
    "log sqrt": lambda: lambda x: (x.abs() + 1).log() + (x.abs() + 1).sqrt(),
    "sigmoid tanh silu": lambda: lambda x: x.sigmoid() + x.tanh() + F.silu(x),
    "leaky_relu": lambda: lambda x: F.leaky_relu(x) + F.leaky_relu(x, 0.5),
    "relu": lambda: nn.ReLU(),
    "relu in place": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.Sequential(nn.ReLU6(), Function(F.relu6)),
    "hardtanh": lambda: lambda x: F.hardtanh(x) + F.hardtanh(x, 0, 0.5),
    "clamp": lambda: lambda x: x.clamp(-1, 1) + x.clamp(min=0) + x.clamp(max=0.5) + x.clamp(min=-0.5),
    "clamp_min clamp_max": lambda: lambda x: torch.clamp_min(x, -0.5) + torch.clamp_max(x, 0.5),
    "threshold": lambda: lambda x: F.threshold(x, 0.5, -1.0) + F.threshold(x, 0.0, 0.0),
    "comparisons": lambda: lambda x: x * (x > 0) * (x >= -1) * (x < 1.5) * (x <= 1) * (x != 0.5),
    "comparisons of tensors": lambda: Times(
        lambda x, w: x * (x > w) + x * (x >= w) * 2 + x * (x < w) * 3 + x * (x <= w) * 4 + x * (x != w) + x * (x == w),
        6,
        5,
    ),
    "no gradient": lambda: lambda x: x + x.floor() * x + x.ceil() + x.round() + x.sign() * x + x.detach(),
    "fills": lambda: lambda x: (x + torch.ones(5)) * (torch.ones_like(x) + torch.zeros(5) + x.new_zeros(6, 1)),
    "where": lambda: lambda x: x * torch.where((x > 0).logical_and(x < 1), x.detach(), x.sign()),
    "bitwise_and": lambda: lambda x: x * ((x > 0) & (x < 1)) + x * aten.bitwise_and(x > 0, x < 1),
    "softmax": lambda: lambda x: x.softmax(1) + x.log_softmax(-1),
    "softmax of the core": lambda: lambda x: aten._softmax(x, 1, False) + aten._log_softmax(x, 2, False),
    # -- reductions
    "sum": lambda: lambda x: x.sum(1) * x.sum((1, -1), keepdim=True)[:, 0],
    "mean": lambda: lambda x: x.mean(1) + x.mean((2, 3))[:, :1, None] + x.mean((1, -1), keepdim=True)[:, 0],
    "mean over the image": lambda: lambda x: x.mean((-2, -1), keepdim=True),
    # -- shape
    "reshape after permute": lambda: lambda x: x.permute(0, -2, 3, 1).reshape(x.shape[0], 10, -1),
    "view after contiguous": lambda: lambda x: x.transpose(1, -1).contiguous().view(x.size(0), -1),
    "squeeze unsqueeze": lambda: lambda x: x[:, :1].squeeze(1).unsqueeze(-1).squeeze(-1).unsqueeze(1).squeeze((1,)),
    "expand": lambda: lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1),
    "expand_as": lambda: lambda x: x.mean((1, 3), keepdim=True).expand_as(x),
    "cat": lambda: lambda x: torch.cat([x, x[:, 1:] * 2, -x], 1),
    "cat of the last axis": lambda: lambda x: torch.cat([x * x, x.exp()], -1),
    "pad": lambda: lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad a value": lambda: lambda x: F.pad(x, (0, 0, 0, 0, 1, 0), value=0.5),
    "pad and crop": lambda: lambda x: F.pad(x, (-1, 1, 2, -2)),
    "pad before conv2d": lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(3, 2, 3, padding=(1, 0))),
    "pad before conv1d": lambda: nn.Sequential(nn.Flatten(2), nn.ConstantPad1d((2, 1), 0.0), nn.Conv1d(3, 2, 3)),
    "pad rows before conv2d": lambda: nn.Sequential(nn.ZeroPad2d((1, 2)), nn.Conv2d(3, 2, 3, stride=2)),
    "pad channels before conv2d": lambda: nn.Sequential(
        Function(lambda x: F.pad(x, (0, 0, 0, 0, 0, 1))), nn.Conv2d(4, 2, 3, padding=1)
    ),
    "pad a value before conv2d": lambda: nn.Sequential(nn.ConstantPad2d(1, 0.5), nn.Conv2d(3, 2, 3)),
    "crop before conv2d": lambda: nn.Sequential(nn.ZeroPad2d((-1, 2, 0, 0)), nn.Conv2d(3, 2, 3)),
    "slices": lambda: lambda x: x[:, -2:, 1:-1, ::2],
    "slices with a step": lambda: lambda x: x[:, :, 1::4, 1:4:2],
    "select": lambda: lambda x: x[:, -1] + x[:, 0],
    "index_select of weights": lambda: Times(lambda x, w: x * w.index_select(0, w.sum(1).argmax(0, True)), 6, 5),
    "stack of weights": lambda: Times(
        lambda x, w: x * torch.stack([w, w * 2, -w]) + torch.stack([w, w], -1)[:, :, 0], 6, 5
    ),
    "flip of weights": lambda: Times(lambda x, w: x * w.flip(0, 1), 6, 5),
    "squeeze of weights": lambda: Times(lambda x, w: x * w.squeeze(), 1, 1, 5),
    "rsqrt of weights": lambda: Times(lambda x, w: x * w.abs().rsqrt(), 6, 5),
    "conversions of weights": lambda: Times(lambda x, w: x * (w * 4).to(torch.int32).to(torch.float32), 6, 5),
    "masked_fill of weights": lambda: Times(lambda x, w: x * w.masked_fill(w > 0, 0.5), 6, 5),
    "arange": lambda: lambda x: x * torch.arange(5),
}


@functools.cache
def network(name: str) -> nn.Module:
    """Return one network of the table, the same one each time."""
    torch.manual_seed(0)
    return Network(BODIES[name]()).eval()


@functools.cache
def explicit(name: str) -> Program:
    """Return the program of a network's logits and gradient."""
    return compiled(network(name), IMAGE)


def compiled(model: nn.Module, shape: tuple[int, ...], method: str = "gradient") -> Program:
    """Return the program of any model's logits and attribution."""
    return differentiate(canonicalize(capture(model, torch.zeros(1, *shape))), METHODS[method])


def inputs(batch: int, shape: tuple[int, ...], classes: int) -> tuple[Tensor, Tensor]:
    """Return images and targets; the first target is the predicted class."""
    generator = torch.Generator().manual_seed(batch)
    target = torch.randint(0, classes, (batch,), generator=generator)
    target[0] = -1
    return torch.randn(batch, *shape, generator=generator), target


def live(model: nn.Module, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and gradient by autograd."""
    leaf = image.clone().requires_grad_()
    logits = model(leaf.clone())
    chosen = torch.where(target == -1, logits.argmax(1), target)
    (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), leaf)
    return logits.detach(), gradient
