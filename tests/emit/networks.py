"""Tiny networks, one for each operator, written as a user would; the fixture of the emitters' tests.

Each ends in a ``flatten(1)``, so that what it computes is its logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

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


def _weighted(x: Tensor, weight: Tensor) -> Tensor:
    """A product whose second factor depends on the image."""
    flat = x.flatten(1)
    return torch.addmm(weight[0], flat, weight * flat.mean(0)[:, None])


def _standardised(weight: Tensor) -> Tensor:
    """A kernel with mean 0 and deviation 1 for each output."""
    flat = weight.reshape(1, len(weight), -1)
    return F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(weight)


def _mixed(parts: Sequence[Tensor]) -> Tensor:
    """Each part differently, the last one twice and one not at all."""
    return parts[0].sin() + parts[-1] * parts[-1]


def _written(x: Tensor) -> Tensor:
    """Views that are written into."""
    x[:, :2].mul_(3)
    x[:, 0] = x[:, 1]
    x[:, 2, ::2] = x[:, 1, ::2] * 2
    x[..., 7::2] = x[..., :0]
    x[..., 1:1] = x[..., :0]
    x[x < -1] = -1.0
    x.view(x.shape[0], -1).mul_(2)
    x[:, 1:].relu_()
    return x


def _pointed(x: Tensor) -> Tensor:
    """Values written to places."""
    x[:, [2, 0]] = x[:, [0, 1]].sin()
    x[:, :, [1, -1], [0, 2]] = x[:, :, 2, :2] * 2
    x[:, :, [3, 5, 4]] += x[:, :, :3] * 0.5
    x.index_fill_(3, torch.tensor([1]), 0.5)
    return x.index_copy(2, torch.tensor([5]), x[:, :, :1].exp())


def _pointed_twice(x: Tensor) -> Tensor:
    """Two values written to one place, of which the last one stays: on a CPU, for a GPU has no order."""
    x[:, :, [3, 3, 4]] += x[:, :, :3] * 0.5
    return x


class Transformer(nn.Module):
    """A spatial transformer (Jaderberg et al. 2015, arXiv:1506.02025): the image says how it is turned."""

    def __init__(self, mode: str, padding: str) -> None:
        super().__init__()
        self.localise = nn.Linear(90, 6)
        self.mode, self.padding = mode, padding

    def forward(self, x: Tensor) -> Tensor:
        theta = self.localise(x.flatten(1)).reshape(-1, 2, 3)
        grid = F.affine_grid(theta, [x.shape[0], 3, 4, 7], align_corners=False)
        return F.grid_sample(x, grid, self.mode, self.padding, align_corners=False)


def _turned(x: Tensor) -> Tensor:
    """Angles of points on the axes, where a zero has a side, and of the origin."""
    zero = x.detach() * 0
    return (
        torch.atan2(x.relu(), x.sign().relu() * x)
        + torch.atan2(x, -zero)
        + torch.atan2(zero, x)
        + torch.atan2(-zero, x)
    )


class OwnKernels(nn.Module):
    """Convolutions whose kernels are mixed for each image (Yang et al. 2019, arXiv:1904.04971)."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(2, 4 * 3 * 3 * 2))
        self.bias = nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        routing = x.mean((2, 3))[:, :2].sigmoid()
        weight = (routing @ self.experts).reshape(-1, 3, 3, 2)
        images = x.reshape(1, -1, *x.shape[2:])
        bias = (routing @ self.bias).flatten()
        y = F.conv2d(images, weight, bias, (2, 1), (1, 0), groups=x.shape[0])
        sums = F.conv1d(images.flatten(2), weight[:, :, 0], None, 1, 1, 2, x.shape[0])
        return y.reshape(x.shape[0], -1, *y.shape[2:]).flatten(1) * sums.reshape(x.shape[0], -1).mean(1, keepdim=True)


class Recurrent(nn.Module):
    """Two layers in both directions over the rows of a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 3, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        output, (h, c) = self.lstm(x[:, 0])
        return output * h.sum(0)[:, None].repeat(1, 1, 2) + c[0, :, None].repeat(1, 1, 2)


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
    "conv same": lambda: nn.Conv2d(3, 4, (2, 3), padding="same", dilation=(1, 2)),
    "conv transpose groups dilation": lambda: nn.ConvTranspose2d(3, 6, 3, (1, 2), 2, (0, 1), 3, False, (2, 2)),
    "conv transpose 3d": lambda: nn.Sequential(
        nn.Unflatten(1, (3, 1)), nn.ConvTranspose3d(3, 6, (1, 2, 2), 1, (0, 1, 1), (0, 1, 1), 3, dilation=(1, 2, 2))
    ),
    "conv transpose output padding": lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 2, 3, 1, 1, output_padding=1, dilation=2),
        nn.ConvTranspose2d(2, 2, (3, 1), (1, 2), 0, output_padding=(2, 1), dilation=3),
    ),
    "baddbmm": lambda: lambda x: torch.baddbmm(x[:, 0, :5], x[:, 1].transpose(1, 2), x[:, 2], beta=2, alpha=0.5),
    "addmm of images": lambda: Times(lambda x, w: torch.addmm(x.flatten(1), x.flatten(1), w), 90, 90),
    "addmm of a computed weight": lambda: Times(lambda x, w: _weighted(x, w), 90, 4),
    "einsum": lambda: Times(lambda x, w: torch.einsum("nchw,hk,nchw->nkc", x, w, x), 6, 4),
    "einsum of one": lambda: lambda x: torch.einsum("nchw->nwc", x),
    "attention": lambda: lambda x: F.scaled_dot_product_attention(x, x, x.sin()),
    "attention causal": lambda: lambda x: F.scaled_dot_product_attention(x, x * 2, x, is_causal=True, scale=0.3),
    "a kernel for each image": lambda: OwnKernels(),
    "bilinear": lambda: Times(lambda x, w: F.bilinear(x, x.sin(), w), 4, 5, 5),
    "addmm by addbmm and addmv": lambda: Times(
        lambda x, w: (
            torch.addbmm(w[0, 0], x.permute(1, 0, 2, 3).flatten(2), w)
            * torch.addmv(x[:, 0, 0, 0], x.flatten(1), w[:, :, 0].flatten())[:, None]
        ),
        3,
        30,
        4,
    ),
    "attention of groups": lambda: lambda x: F.scaled_dot_product_attention(x, x[:, :1], x[:, 1:2], enable_gqa=True),
    "attention mask": lambda: Times(lambda x, w: F.scaled_dot_product_attention(x, x, x, w) + x, 6, 6),
    "attention boolean mask": lambda: (
        lambda x: F.scaled_dot_product_attention(x, x, x, torch.ones(6, 6, dtype=torch.bool).tril())
    ),
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
    "layer_norm": lambda: _norm(nn.LayerNorm(5, eps=0.5)),
    "layer_norm of an image": lambda: nn.LayerNorm(IMAGE, elementwise_affine=False),
    "layer_norm without bias": lambda: _norm(nn.LayerNorm(5, bias=False)),
    "group_norm": lambda: nn.Sequential(nn.Conv2d(3, 4, 1), _norm(nn.GroupNorm(2, 4))),
    "group_norm of vectors": lambda: nn.Sequential(nn.Flatten(), _norm(nn.GroupNorm(10, 90, affine=False))),
    "group_norm of a slice": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 1), Function(lambda x: x[:, 1:5]), _norm(nn.GroupNorm(2, 4))
    ),
    "instance_norm": lambda: _norm(nn.InstanceNorm2d(3, affine=True)),
    "instance_norm with statistics": lambda: _norm(nn.InstanceNorm2d(3, track_running_stats=True)),
    "rms_norm": lambda: _norm(nn.RMSNorm(5, eps=1e-3)),
    "weight standardisation": lambda: Times(lambda x, w: F.conv2d(x, _standardised(w)), 4, 3, 2, 2),
    "local_response_norm": lambda: nn.LocalResponseNorm(2, alpha=0.5),
    "max_pool1d": lambda: nn.Sequential(nn.Flatten(2), nn.MaxPool1d(3, 2, 1)),
    "max_pool3d": lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.MaxPool3d((2, 3, 2), (1, 2, 2), (1, 1, 0))),
    "avg_pool1d": lambda: nn.Sequential(nn.Flatten(2), nn.AvgPool1d(3, 2, 1)),
    "avg_pool3d": lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.AvgPool3d((2, 3, 2), (1, 2, 2), (1, 1, 0), True)),
    "adaptive_avg_pool3d": lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.AdaptiveAvgPool3d((2, 4, 5))),
    "adaptive_max_pool2d": lambda: nn.AdaptiveMaxPool2d((4, 3)),
    "max_pool2d": lambda: nn.MaxPool2d(3, stride=2, padding=1),
    "max_pool2d ceil": lambda: nn.MaxPool2d(2, stride=(3, 2), ceil_mode=True),
    "max_pool2d ceil, dilation": lambda: nn.MaxPool2d(2, stride=2, padding=1, dilation=3, ceil_mode=True),
    "max_pool2d dilation": lambda: nn.MaxPool2d(2, stride=1, padding=1, dilation=2),
    "max_pool2d dilation ceil": lambda: nn.MaxPool2d(2, (2, 4), (1, 0), 2, ceil_mode=True),
    "max_pool3d dilation ceil": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.MaxPool3d(2, (3, 3, 4), (1, 1, 0), 2, ceil_mode=True)
    ),
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
    "powers": lambda: lambda x: x.square() + x**3 + (x.abs() + 1) ** 0.75 + x.pow(0) + (x.abs() + 1).reciprocal(),
    "powers of tensors": lambda: Times(lambda x, w: (x.abs() + 1) ** w + w.abs() ** x + 2**x, 6, 5),
    "rsqrt": lambda: lambda x: (x.abs() + 1).rsqrt(),
    "elementary functions": lambda: lambda x: x.sin() + x.cos() + x.erf() + x.expm1() + (x.abs() + 1).log1p(),
    "whole numbers among others": lambda: Function(
        lambda x: (
            x * (2.5 - torch.arange(5))
            + (torch.arange(5) > 1.5) * torch.arange(5).sqrt()
            + torch.arange(5).clamp(0.5, 2.5)
            + torch.arange(5) // 0.7
            + torch.arange(5) // 0.1
            + torch.rsub(torch.arange(5), x)
            + (torch.arange(5) > 2).sqrt()
            + (torch.arange(5) != 2.5) * ((x > 0) > torch.arange(5))
            + ((x > 0) == 1) * x.isnan().logical_not()
        )
    ),
    "inverse and hyperbolic functions": lambda: (
        lambda x: (x.tanh() * 0.9).asin() + (x.tanh() * 0.9).acos() + x.atan() + x.tanh().tan() + x.sinh() + x.cosh()
    ),
    "inverse hyperbolic functions": lambda: lambda x: x.asinh() + (x.abs() + 1.5).acosh() + (x.tanh() * 0.9).atanh(),
    "angles": lambda: Times(
        lambda x, w: torch.atan2(x, w) + torch.atan2(w[:, :1], x) + _turned(x) + torch.hypot(x, w),
        6,
        5,
    ),
    "fmod": lambda: Times(lambda x, w: torch.fmod(x, w) + torch.fmod(x, -0.75) * torch.fmod(w, x), 6, 5),
    "to two digits": lambda: (
        lambda x: x * x.round(decimals=1) + torch.fmax(x, x.sin()).copysign(x.cos()) * torch.fmin(x, x.cos())
    ),
    "remainder": lambda: Times(
        lambda x, w: (
            x % 0.75
            + x % -0.75 * (w % x)
            + torch.ones(5) % (x - x.detach() + 0.1)
            + (torch.arange(5) % 3 + torch.arange(-4, 1) % 3 + torch.arange(5) % -3)
        ),
        6,
        5,
    ),
    "maximum minimum": lambda: Times(
        lambda x, w: torch.maximum(x, w) + torch.minimum(x, w[:, :1]) * torch.max(x, x), 6, 5
    ),
    "clamp between tensors": lambda: Times(
        lambda x, w: x.clamp(w, w[:, :1] + 1) + x.clamp(min=w) * torch.clamp_max(x, w) + torch.clip(w, -x, x), 6, 5
    ),
    "where masked_fill": lambda: (
        lambda x: torch.where(x > 0, x.sin(), x[:, :1]) + torch.where(x > 1, 0.5, x) + x.masked_fill(x < 0, -1.0)
    ),
    "where of whole numbers": lambda: lambda x: x * torch.where(x > 0, 1, 2) * torch.where(x > 0, x, (x > 1) * 2),
    "conversions": lambda: lambda x: x.double().sin().float() + x.to(torch.float64).type_as(x),
    "to dtype": lambda: lambda x: aten.to.dtype(x, torch.float64).cos().type_as(x),
    "logic": lambda: lambda x: x * (~(x > 0) | (x > 1)) + x * aten.bitwise_or(x > 0, x < -1),
    "logic of numbers": lambda: lambda x: x * torch.logical_xor(x > 0, x.relu()) + x * torch.logical_and(x, x > 1),
    "exclusive or": lambda: lambda x: x * torch.logical_xor(x > 0, x < 1) + x * ((x > 0) ^ (x > 1)),
    "arithmetic of booleans": lambda: (
        lambda x: x * ((x > 0) + (x < -1)) + x * torch.where(x > 0, x > 1, x < -1) + x * torch.maximum(x > 0, x < -1)
    ),
    "a mean of booleans": lambda: lambda x: x * (x > 0).mean(1, keepdim=True, dtype=torch.float32),
    "a function of weights without a translation": lambda: Times(lambda x, w: x * w.median(), 6, 5),
    "one of weights with several results": lambda: Times(lambda x, w: x * w.sort(0)[0] + w.sort(0)[1], 6, 5),
    "logical operators": lambda: lambda x: x * torch.logical_or(x.logical_not(), x > 1),
    "rsub a tensor": lambda: Times(lambda x, w: torch.rsub(x, w, alpha=2), 6, 5),
    "rsub alpha": lambda: lambda x: torch.rsub(x, 2, alpha=3),
    "div": lambda: lambda x: x[:, :1] / (x.abs() + 1),
    "neg exp": lambda: lambda x: (-x).exp(),
    "log sqrt": lambda: lambda x: (x.abs() + 1).log() + (x.abs() + 1).sqrt(),
    "sigmoid tanh silu": lambda: lambda x: x.sigmoid() + x.tanh() + F.silu(x),
    "leaky_relu": lambda: lambda x: F.leaky_relu(x) + F.leaky_relu(x, 0.5),
    "elu": lambda: lambda x: F.elu(x, 0.5) + F.selu(x) + F.celu(x, 0.5),
    "gelu": lambda: lambda x: F.gelu(x) + F.gelu(x * 2, approximate="tanh"),
    "mish hardswish hardsigmoid": lambda: lambda x: F.mish(x) + F.hardswish(x * 3) + F.hardsigmoid(x * 3),
    "softplus": lambda: lambda x: F.softplus(x) + F.softplus(x, 2, 1) + F.logsigmoid(x),
    "prelu": lambda: nn.Sequential(nn.PReLU(3), nn.PReLU(), nn.Flatten(), nn.PReLU()),
    "glu": lambda: Times(lambda x, w: F.glu(x @ w), 5, 4),
    "rrelu": lambda: nn.RReLU(),
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
    "sum and mean of everything": lambda: lambda x: x * 2 + x.sum() * x.mean(),
    "var std": lambda: lambda x: x.var(1) + x.var((1, 2), correction=0, keepdim=True)[:, 0] + x.std((1, 2))[:, None],
    "amax amin": lambda: lambda x: x.amax(1) + x.amin((1, -1), keepdim=True)[:, 0],
    "max min": lambda: lambda x: x.max(1).values + x.min(1).values + x.max(2, keepdim=True)[0][:, 0],
    "norms": lambda: lambda x: x.norm(dim=1) + x.norm(1, (1, 2))[:, None] + F.normalize(x)[:, 0],
    "logsumexp cumsum": lambda: lambda x: x.logsumexp(1) * x.cumsum(2)[:, 1] + x.logsumexp((1, 2), keepdim=True)[:, 0],
    "products": lambda: lambda x: x.prod(1) + x.cumprod(2)[:, 0] + x.prod(-1, keepdim=True)[:, 2],
    "logcumsumexp": lambda: lambda x: x.logcumsumexp(3),
    "medians": lambda: lambda x: x.median(1)[0] + x.median(2, keepdim=True).values[:, 0] * x.kthvalue(2, 1)[0],
    "other norms": lambda: (
        lambda x: torch.linalg.vector_norm(x, 3, 1) * torch.linalg.vector_norm(x, 1.5, (1, 2))[:, None]
    ),
    "distances": lambda: lambda x: torch.cdist(x, x.sin()),
    "cosine_similarity": lambda: lambda x: F.cosine_similarity(x, x.sin()),
    # -- shape
    "reshape after permute": lambda: lambda x: x.permute(0, -2, 3, 1).reshape(x.shape[0], 10, -1),
    "view after contiguous": lambda: lambda x: x.transpose(1, -1).contiguous().view(x.size(0), -1),
    "squeeze unsqueeze": lambda: lambda x: x[:, :1].squeeze(1).unsqueeze(-1).squeeze(-1).unsqueeze(1).squeeze((1,)),
    "expand": lambda: lambda x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1),
    "expand_as": lambda: lambda x: x.mean((1, 3), keepdim=True).expand_as(x),
    "cat": lambda: lambda x: torch.cat([x, x[:, 1:] * 2, -x], 1),
    "cat of the last axis": lambda: lambda x: torch.cat([x * x, x.exp()], -1),
    "stack": lambda: lambda x: torch.stack([x, x.sin()], 1) + torch.stack([-x, x.cos()], -1).sum(-1)[:, None],
    "split": lambda: lambda x: _mixed(x.split(2, 2)) + x.split([1, 4], 3)[1][:, :, :2, :1],
    "split unused": lambda: lambda x: x.split([1, 0, 2], 1)[2] * x.chunk(3, 1)[1] + x.tensor_split(3, 1)[0],
    "unbind": lambda: lambda x: _mixed(x.unbind(1)) + x.unbind(2)[-1][:, :1],
    "flip roll": lambda: lambda x: x.flip(1, -1) * x.roll((1, -2), (2, 3)) + x.roll(1, 2),
    "roll by more than the size": lambda: lambda x: x.roll((1, 13), (2, -1)) * x.roll(-17, 2) + x.roll((3, 5), (3, 3)),
    "triangles": lambda: lambda x: x.tril() + x.triu(1).sin(),
    "repeat": lambda: lambda x: x.repeat(1, 2, 1, 3) * x.tile(2, 1, 3) + x.repeat_interleave(2, 1).repeat(1, 1, 1, 3),
    "repeat of weights": lambda: Times(lambda x, w: torch.cat([x, w.repeat(x.shape[0], 1, 1, 1)], 1), 2, 6, 5),
    "pixels and channels": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.ChannelShuffle(2), nn.PixelUnshuffle(2)
    ),
    "pad reflect": lambda: nn.Conv2d(3, 2, 3, padding=(2, 1), padding_mode="reflect"),
    "pad replicate": lambda: lambda x: F.pad(x, (2, 0, 1, 3), "replicate"),
    "pad circular": lambda: nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular"),
    "upsample nearest": lambda: lambda x: F.interpolate(x, scale_factor=2) + F.interpolate(x, (12, 10), mode="nearest"),
    "upsample nearest uneven": lambda: lambda x: F.interpolate(x, (4, 7)),
    "upsample bilinear": lambda: lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "upsample corners": lambda: lambda x: F.interpolate(x, (4, 9), mode="bilinear", align_corners=True),
    "upsample bicubic": lambda: lambda x: F.interpolate(x, (8, 7), mode="bicubic"),
    "upsample antialiased": lambda: (
        lambda x: (
            F.interpolate(x, (4, 3), mode="bilinear", antialias=True)
            + F.interpolate(x, (4, 3), mode="bicubic", antialias=True)
        )
    ),
    "a spatial transformer": lambda: Transformer("bilinear", "zeros"),
    "a transformer with reflections": lambda: Transformer("bilinear", "reflection"),
    "a transformer with bicubic taps": lambda: Transformer("bicubic", "border"),
    "sampled nearest": lambda: lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), "nearest", align_corners=True),
    "sampled volumes": lambda: (
        lambda x: F.grid_sample(x[:, None], x.permute(0, 2, 3, 1)[:, None], padding_mode="border", align_corners=False)
    ),
    "upsample 3d": lambda: lambda x: F.interpolate(x[:, None], (5, 6, 7), mode="trilinear"),
    "lstm": lambda: Recurrent(),
    "index": lambda: lambda x: x[:, [2, 0, -1]] * x[:, :, :, [1, 1, 4]].sum(-1, keepdim=True),
    "index of pairs": lambda: (
        lambda x: x[:, [2, 0, -1], :, [1, -1, 4]].transpose(0, 1) + x[:, :, [0, 3], [1, -5]].sum(-1, keepdim=True)
    ),
    "windows": lambda: lambda x: F.fold(F.unfold(x, 3, 1, 1, 2), (5, 5), 3, 1, 1, 2) * x.unfold(2, 2, 1)[..., 0],
    "diagonals": lambda: lambda x: x.diagonal(1, 2, 3) * torch.einsum("ncii->ni", x[:, :, :5])[:, None, :4],
    "a diagonal written": lambda: lambda x: (x * 1).diagonal_scatter(x[:, :, 0] * 2, 0, 2, 3),
    "written by index": lambda: lambda x: _pointed(x * 1),
    "written twice by index": lambda: lambda x: _pointed_twice(x * 1),
    "added by index": lambda: (
        lambda x: x.index_add(1, torch.tensor([2, 2, 0]), x.sin()).scatter_add(
            2, x.argmax(2, keepdim=True), x[:, :, :1]
        )
    ),
    "means by index": lambda: lambda x: x.scatter_reduce(3, (x > 0).long(), x.sin(), "mean"),
    "taken": lambda: Times(lambda x, w: x * torch.take(w.sin(), torch.tensor([3, -1, 0, 2, 2])), 4, 5),
    "index of a table": lambda: Times(lambda x, w: x + w[torch.tensor([[0, 1], [1, 3], [2, 2]])].sum(1)[:, None], 4, 5),
    "gather": lambda: lambda x: x.gather(2, x.argmax(2, keepdim=True)) + x,
    "written in place": lambda: lambda x: _written(x * 1),
    "constants": lambda: (
        lambda x: x * torch.full((5,), 2.0) + x.new_full((6, 1), 3.0) + torch.linspace(0, 1, 5) + torch.arange(1, 6)
    ),
    "matmul of two rows": lambda: lambda x: x[:, :2].transpose(2, 3) @ x[:, :2],  # as many as the sample has images
    "a size as a tensor": lambda: lambda x: x / torch.tensor([x.shape[0], 2])[:1],
    "constants of a square": lambda: lambda x: x[:, :, :5] * torch.eye(5) + x[:, :, 1:] * torch.eye(5, 5) * 2,
    "constants with a step": lambda: lambda x: x * torch.arange(0, 10, 2) + x * (torch.arange(-2, 3) // 2),
    "floor division": lambda: lambda x: x * (x.detach() // 0.7),
    "division with a rounding mode": lambda: (
        lambda x: x * torch.div(x, 0.7, rounding_mode="floor") + torch.div(x, -0.7, rounding_mode="trunc") * x
    ),
    "whole numbers divided": lambda: (
        lambda x: x * torch.div(torch.arange(-2, 3), torch.tensor([2, -2, 2, -2, 2]), rounding_mode="trunc") + x
    ),
    "meshgrid": lambda: (
        lambda x: x * (grids := torch.meshgrid(torch.arange(6), torch.arange(5), indexing="ij"))[0] + x * grids[1]
    ),
    "meshgrid xy": lambda: lambda x: x * torch.meshgrid(torch.arange(5), torch.arange(6), indexing="xy")[0],
    "cumsum of a mask": lambda: lambda x: x * (x > 0).cumsum(2, dtype=torch.float32),
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
    "crop after conv_transpose2d": lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 2, 3, 2, padding=1, output_padding=1), nn.ZeroPad2d((1, -2, -1, -1))
    ),
    "crop after conv_transpose1d": lambda: nn.Sequential(
        nn.Flatten(2), nn.ConvTranspose1d(3, 2, 4, 3), nn.ConstantPad1d((2, -1), 0.5)
    ),
    "crop and more of conv_transpose2d": lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 2, 3, 2), Function(lambda x: F.pad(x, (0, -2, 0, 0)).sum(3) + x.sum(3))
    ),
    "crop channels after conv_transpose2d": lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 3, 3, 2), Function(lambda x: F.pad(x, (0, -1, 0, 0, 0, -1)))
    ),
    "slices": lambda: lambda x: x[:, -2:, 1:-1, ::2],
    "slices with a step": lambda: lambda x: x[:, :, 1::4, 1:4:2],
    "select": lambda: lambda x: x[:, -1] + x[:, 0],
    "topk": lambda: lambda x: x.topk(2, 1)[0].sum(1, keepdim=True) * x + x.topk(3, -1, largest=False).values[..., :1],
    "sort": lambda: lambda x: x.sort(-1)[0] * x + x.sort(1, descending=True)[0] * x.argsort(2),
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


def compiled(
    model: nn.Module, shape: tuple[int, ...], method: str = "gradient", dtype: torch.dtype = torch.float32
) -> Program:
    """Return the program of any model's logits and attribution."""
    return differentiate(canonicalize(capture(model, torch.zeros(1, *shape, dtype=dtype))), METHODS[method])


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
