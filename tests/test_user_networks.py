"""Networks as users write them, each with one habit that a compiler may stumble over: proven, and held to an oracle."""

from __future__ import annotations

import itertools
import math
import operator
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import exporter
from exporter.lowering import TARGETS
from exporter.network import uncompiled
from exporter.runtime import RUNTIMES
from exporter.sources import load_weights
from tests.oracle import attribute


class Written(nn.Module):
    """A network of a function and the modules that it uses."""

    def __init__(self, forward: Callable[..., Tensor], **modules: Any) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


class Extra(nn.Linear):
    """Keeps in its state dict what is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 2}

    def set_extra_state(self, state: Any) -> None:
        pass


def ungraded(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.first(x))
    with torch.no_grad():
        gate = torch.sigmoid(x)
    return net.second(x * gate)


def ungraded_beside_writing(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        gate, shift = torch.sigmoid(x), x.mean(1, keepdim=True)
    y = net.first(x) * gate
    y[:, 1:] += shift
    return net.second(y.relu_())


def ungraded_writing_inside(net: Any, x: Tensor) -> Tensor:
    x = F.relu(net.first(x))
    with torch.no_grad():
        gate = torch.sigmoid(x).clone()
        gate.mul_(2)
        gate[:, 1:].add_(1)
    return net.second(x * gate)


def many(net: Any, x: Tensor) -> Tensor:
    weight = net.second.weight
    for _ in range(16):
        weight = weight * 0.5 + weight * weight
    return net.second(net.first(x).relu()) * weight.median()


def attended(net: Any, x: Tensor) -> Tensor:
    scores = net.first(x)
    return net.second(F.softmax(scores.float(), -1).type_as(scores).relu())


def quantized(dtype: torch.dtype) -> nn.Module:
    net = Written(lambda net, x: F.relu(F.linear(x, net.table.float() * 0.01)))
    net.register_buffer("table", torch.randint(-127, 127, (3, 8), dtype=dtype))
    return net


def normed(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch advises against them, and networks have them
        return nn.Sequential(norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3))


def exported() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)).eval()
    batch = {0: torch.export.Dim("batch")}
    return torch.export.export(model, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=(batch,)).module()


def linear(*sizes: int) -> dict[str, nn.Module]:
    names = ("first", "second")
    return {name: nn.Linear(*pair) for name, pair in zip(names, itertools.pairwise(sizes), strict=False)}


def named(name: str) -> nn.Module:
    net = nn.Module()
    net.branches = nn.ModuleDict({name: nn.Linear(8, 4), "local": nn.Linear(8, 4)})
    return Written(
        lambda own, x: own.head(sum(F.relu(one(x)) for one in own.net.branches.values())), net=net, head=nn.Linear(4, 3)
    )


SCALE = torch.from_numpy(np.linspace(0.1, 1, 8))

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "an RMS norm without an epsilon": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.RMSNorm(8), nn.ReLU(), nn.Linear(8, 3)),
        (8,),
    ),
    "a module named meta": (lambda: Written(lambda net, x: F.relu(net.meta(x)), meta=nn.Linear(8, 3)), (8,)),
    "a module named code": (lambda: Written(lambda net, x: F.relu(net.code(x)), code=nn.Linear(8, 3)), (8,)),
    "a module named graph": (lambda: Written(lambda net, x: F.relu(net.graph(x)), graph=nn.Linear(8, 3)), (8,)),
    "a module named constant": (
        lambda: Written(
            lambda net, x: F.hardtanh(net.constant(x), -0.5, 0.7),
            constant=nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)),
        ),
        (8,),
    ),
    "a branch named global": (lambda: named("global"), (8,)),
    "a branch whose name is no identifier": (lambda: named("5x5-conv"), (8,)),
    "a part without gradients": (lambda: Written(ungraded, **linear(8, 8, 3)), (8,)),
    "parts without gradients beside writing": (lambda: Written(ungraded_beside_writing, **linear(8, 8, 3)), (8,)),
    "writing without gradients into what has none": (lambda: Written(ungraded_writing_inside, **linear(8, 8, 3)), (8,)),
    **{
        f"a {mode} resampling to the same size": (
            lambda mode=mode: Written(
                lambda net, x: net.first(F.interpolate(F.relu(x), scale_factor=(1.1, 1.5), mode=mode).flatten(1)),
                **linear(2 * 9 * 13, 3),
            ),
            (2, 9, 9),
        )
        for mode in ("nearest", "nearest-exact", "bilinear", "bicubic")
    },
    "a float64 constant": (
        lambda: Written(lambda net, x: F.relu(net.first((x * SCALE).float())), **linear(8, 3)),
        (8,),
    ),
    "a float64 constant after a rectifier": (
        lambda: Written(lambda net, x: net.second((F.relu(net.first(x)) * SCALE).float()), **linear(8, 8, 3)),
        (8,),
    ),
    "a sum in float64": (
        lambda: Written(
            lambda net, x: net.second(F.relu(net.first(x)).unflatten(1, (2, 4)).sum(1, dtype=torch.float64).float()),
            first=nn.Linear(8, 8),
            second=nn.Linear(4, 3),
        ),
        (8,),
    ),
    "a root of a rectifier": (
        lambda: Written(lambda net, x: net.second(F.relu(net.first(x)).sqrt()), **linear(8, 8, 3)),
        (8,),
    ),
    "a power of a mean of a rectifier": (
        lambda: Written(
            lambda net, x: net.second((F.relu(net.first(x)).unflatten(1, (4, 2)).mean(2) + 0) ** 0.5),
            first=nn.Linear(8, 8),
            second=nn.Linear(4, 3),
        ),
        (8,),
    ),
    "a GRU": (
        lambda: Written(
            lambda net, x: net.second(net.gru(x)[0][:, -1].relu()),
            gru=nn.GRU(4, 6, batch_first=True),
            second=nn.Linear(6, 3),
        ),
        (5, 4),
    ),
    "a plain RNN": (
        lambda: Written(
            lambda net, x: net.second(net.rnn(x)[0][:, -1].relu()),
            rnn=nn.RNN(4, 6, batch_first=True),
            second=nn.Linear(6, 3),
        ),
        (5, 4),
    ),
    "a GRU cell": (
        lambda: Written(lambda net, x: net.second(net.cell(x).relu()), cell=nn.GRUCell(8, 6), second=nn.Linear(6, 3)),
        (8,),
    ),
    "an LSTM cell": (
        lambda: Written(
            lambda net, x: net.second(net.cell(x)[0].relu()), cell=nn.LSTMCell(8, 6), second=nn.Linear(6, 3)
        ),
        (8,),
    ),
    "distances of pairs": (
        lambda: Written(
            lambda net, x: torch.stack(
                [F.pairwise_distance(net.first(x), net.second(x).relu()), x.sum(1), x.mean(1)], 1
            ),
            first=nn.Linear(8, 4),
            second=nn.Linear(8, 4),
        ),
        (8,),
    ),
    "a tensordot": (
        lambda: Written(
            lambda net, x: torch.tensordot(net.first(x).relu(), net.second.weight, ([1], [1])), **linear(8, 8, 3)
        ),
        (8,),
    ),
    "differences": (
        lambda: Written(
            lambda net, x: net.second(net.first(x).relu().diff(dim=1).fliplr().absolute()),
            first=nn.Linear(8, 9),
            second=nn.Linear(8, 3),
        ),
        (8,),
    ),
    "an epsilon of its dtype": (
        lambda: Written(
            lambda net, x: net.second(
                F.normalize(net.first(x).relu(), eps=1e3 * torch.finfo(x.dtype).eps)
                / (net.first(x).norm(dim=1, keepdim=True) + torch.finfo(x.dtype).eps)
            ),
            **linear(8, 8, 3),
        ),
        (8,),
    ),
    "a window that is a constant": (
        lambda: Written(
            lambda net, x: net.second(net.first(x).relu() * torch.hann_window(8, dtype=x.dtype)), **linear(8, 8, 3)
        ),
        (8,),
    ),
    "distances to prototypes": (
        lambda: Written(lambda net, x: -torch.cdist(net.first(x).relu(), net.second.weight), **linear(8, 8, 3)),
        (8,),
    ),
    "a NaN of its own": (
        lambda: Written(
            lambda net, x: net.second(torch.where(x > 0.5, net.first(x).relu(), float("nan")).nan_to_num(0.25)),
            **linear(8, 8, 3),
        ),
        (8,),
    ),
    "an old weight norm": (lambda: normed(nn.utils.weight_norm), (8,)),
    "an old spectral norm": (lambda: normed(nn.utils.spectral_norm), (8,)),
    "a max-pool with lists of one number": (
        lambda: Written(
            lambda net, x: net.first(net.pool(x.relu()).flatten(1)),
            pool=nn.MaxPool2d((3,), stride=(2,), padding=(1,)),
            **linear(9, 3),
        ),
        (1, 6, 6),
    ),
    "a concatenation that starts with nothing": (
        lambda: Written(
            lambda net, x: net.second(torch.cat([torch.empty(0), net.first(x).relu()], 1)), **linear(8, 8, 3)
        ),
        (8,),
    ),
    "a linear layer of one row": (
        lambda: Written(
            lambda net, x: torch.stack([F.linear(net.first(x).relu(), row) for row in net.second.weight], 1),
            **linear(8, 8, 3),
        ),
        (8,),
    ),
    "a value written by index": (
        lambda: Written(
            lambda net, x: net.second(net.first(x).relu().scatter(1, x.argmin(1, keepdim=True), 0.5)), **linear(8, 8, 3)
        ),
        (8,),
    ),
    "a resampling to twice the size by another factor": (
        lambda: Written(
            lambda net, x: net.first(F.interpolate(x.relu(), scale_factor=2.1).flatten(1)), **linear(100, 3)
        ),
        (1, 5, 5),
    ),
    "frequencies in float64": (
        lambda: Written(
            lambda net, x: net.second(
                net.first(x).relu() * (1 / 10000 ** (torch.arange(8, dtype=torch.float64) / 8)).float()
            ),
            **linear(8, 8, 3),
        ),
        (8,),
    ),
    "a softmax in float64": (
        lambda: Written(
            lambda net, x: net.second(torch.softmax(input=net.first(x).relu(), dim=1, dtype=torch.float64).float()),
            **linear(8, 8, 3),
        ),
        (8,),
    ),
    "many functions of weights": (lambda: Written(many, **linear(8, 8, 3)), (8,)),
    "numbers for what is none": (
        lambda: Written(
            lambda net, x: net.second(
                torch.log(net.first(x).relu().detach()).nan_to_num(neginf=-1.0) + net.first(x).relu().nan_to_num()
            ),
            **linear(8, 8, 3),
        ),
        (8,),
    ),
    "a group norm of a thin image": (
        lambda: Written(
            lambda net, x: net.second(
                F.relu(F.group_norm(net.next(F.relu(net.first(x))).transpose(-1, -2), 1).transpose(-1, -2)).flatten(1)
            ),
            first=nn.Conv2d(16, 16, (1, 2)),
            next=nn.Conv2d(16, 16, 1),
            second=nn.Linear(32, 3),
        ),
        (16, 2, 2),
    ),
    "a pool that is undone": (
        lambda: Written(
            lambda net, x: net.first(F.max_unpool2d(*F.max_pool2d(x.relu(), 2, return_indices=True), 2).flatten(1)),
            **linear(36, 3),
        ),
        (1, 6, 6),
    ),
    "scores in order": (
        lambda: Written(
            lambda net, x: net.second(net.first(x).relu().sort(1, descending=True)[0] + net.first(x).topk(8, 1)[0]),
            **linear(8, 8, 3),
        ),
        (8,),
    ),
    "an empty tensor that is filled": (
        lambda: Written(
            lambda net, x: net.second(net.first(x).relu() + torch.empty_like(x).fill_(2)), **linear(8, 8, 3)
        ),
        (8,),
    ),
    "what torch.export has made": (exported, (3, 8, 8)),
    "a table of int8": (lambda: quantized(torch.int8), (8,)),
    "a table of int16": (lambda: quantized(torch.int16), (8,)),
    "a state that is no tensor": (lambda: nn.Sequential(Extra(8, 8), nn.ReLU(), nn.Linear(8, 3)), (8,)),
    "a max-pool of vectors": (
        lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.MaxPool1d(2), nn.Linear(16, 3)),
        (16,),
    ),
    "an average pool of vectors": (
        lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.AvgPool1d(2), nn.Linear(16, 3)),
        (16,),
    ),
    "an adaptive pool of vectors": (
        lambda: Written(lambda net, x: net.first(F.adaptive_avg_pool1d(F.relu(x), 4)), **linear(4, 3)),
        (8,),
    ),
    "a max-pool of images without channels": (
        lambda: Written(lambda net, x: net.first(F.max_pool2d(F.relu(x), 2).flatten(1)), **linear(9, 3)),
        (6, 6),
    ),
    "an average pool of images without channels": (
        lambda: Written(lambda net, x: net.first(F.avg_pool2d(F.relu(x), 2).flatten(1)), **linear(9, 3)),
        (6, 6),
    ),
    "an adaptive max-pool of images without channels": (
        lambda: Written(lambda net, x: net.first(F.adaptive_max_pool2d(F.relu(x), (4, 3)).flatten(1)), **linear(12, 3)),
        (6, 6),
    ),
    "a max-pool of volumes without channels": (
        lambda: Written(lambda net, x: net.first(F.max_pool3d(F.relu(x), 2).flatten(1)), **linear(8, 3)),
        (4, 4, 4),
    ),
    "an average pool of volumes without channels": (
        lambda: Written(lambda net, x: net.first(F.avg_pool3d(F.relu(x), 2).flatten(1)), **linear(8, 3)),
        (4, 4, 4),
    ),
}


def made(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    factory, shape = NETWORKS[name]
    model = factory()
    return model if name == "what torch.export has made" else model.eval(), shape


@pytest.mark.parametrize("name", NETWORKS)
def test_user_networks(name: str, tmp_path: Path) -> None:
    model, shape = made(name)
    image, target = torch.randn(3, *shape), torch.tensor([-1, 2, 0])
    logits, attribution = attribute(model, image, target, "guided")
    assert attribution.isfinite().all()
    exporter.export(model, shape, tmp_path / "a")
    for runtime in RUNTIMES:
        found = exporter.load(tmp_path / "a", runtime)(image.numpy(), target.numpy())
        assert (found.logits.dtype, found.attribution.dtype) == (np.float32, np.float32)
        np.testing.assert_allclose(found.logits, logits.detach(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.attribution, attribution, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_user_networks_built(name: str) -> None:
    """By another method."""
    model, shape = made(name)
    image, target = torch.randn(3, *shape), torch.tensor([-1, 2, 0])
    expected = attribute(model, image, target, "gradient")
    built = exporter.build(model, image, "gradient")
    for ours, theirs in zip(built(image, target), expected, strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("name", ["an old weight norm", "an old spectral norm"])
def test_what_is_kept_of_a_run_is_copied(name: str, dtype: str, tmp_path: Path) -> None:
    """Such a norm's weight has a gradient, which PyTorch does not copy."""
    model, shape = made(name)
    exporter.export(model, shape, tmp_path / "a", dtype=dtype)
    assert model[0].weight.dtype == torch.float32


def two_images(net: Any, left: Tensor, right: Tensor) -> Tensor:
    return net.head((net.conv(left) + net.conv(right)).relu().mean((2, 3)))


class Two(Written):
    """A network of two images."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self._forward(self, left, right)


ANY_SIZE = ("batch", "height", "width")


def test_two_images_that_meet_vary_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Two(two_images, conv=nn.Conv2d(3, 4, 3), head=nn.Linear(4, 3))
    inputs = [exporter.Input("left", (3, 8, 8)), exporter.Input("right", (3, 8, 8))]
    exporter.export(model, inputs, tmp_path / "a", dynamic=ANY_SIZE)
    found = exporter.load(tmp_path / "a")({name: np.ones((1, 3, 9, 7), np.float32) for name in ("left", "right")})
    assert found.attribution["right"].shape == (1, 3, 9, 7)


def test_two_images_of_other_sizes_do_not(tmp_path: Path) -> None:
    model = Two(two_images, conv=nn.Conv2d(3, 4, 3), head=nn.Linear(4, 3))
    inputs = [exporter.Input("left", (3, 8, 8)), exporter.Input("right", (3, 6, 8))]
    with pytest.raises(exporter.UsageError, match="inputs share one height, and here left 8 and right 6"):
        exporter.export(model, inputs, tmp_path / "a", dynamic=ANY_SIZE)


def coordinates(net: Any, x: Tensor) -> Tensor:
    """Has where a pixel is as two channels, once from the middle and once from the corner."""
    height, width = x.shape[2:]
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(0, width - 1, width)
    corner = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    place = torch.stack([rows[:, None] * columns, rows[:, None] + columns]) + corner / torch.tensor([[[height]], [[9]]])
    return net.head(net.conv(torch.cat([x[:, :1], place.expand(x.shape[0], -1, -1, -1)], 1)).relu().mean((2, 3)))


def fractions(net: Any, x: Tensor) -> Tensor:
    """Computes sizes by fractions, and numbers from sizes."""
    x = F.interpolate(net.conv(x).relu(), scale_factor=0.5, mode="bilinear")
    x = F.interpolate(x, scale_factor=(1.3, 1.5), mode="nearest")
    x = F.pad(x, (0, round(x.shape[3] * 0.3), math.ceil(x.shape[3] / 2), math.floor(x.shape[3] / 3.0)))
    return net.head(x.sum((2, 3)) * x.shape[2] ** -0.5 / torch.sym_sqrt(x.shape[3]))


def parts(net: Any, x: Tensor) -> Tensor:
    """Is cut in pieces whose lengths differ, and normalised over all of the image."""
    x = net.conv(x).relu()
    x = F.layer_norm(x, x.shape[1:]) * x
    first, second = x.chunk(2, 3)
    return net.head(
        first.amax((2, 3)) + second.mean((2, 3)) + sum(x.tensor_split(3, 2)[i].amax((2, 3)) for i in (0, 2))
    )


def pooled(net: Any, x: Tensor) -> Tensor:
    """Has windows as large as the image: a generalised mean, and a maximum."""
    x = net.conv(x).relu()
    mean = F.avg_pool2d(x.clamp(min=1e-2).pow(3), x.shape[2:]).pow(1 / 3)
    x = x @ torch.eye(x.shape[3]) + nn.AvgPool2d(kernel_size=(x.shape[2], x.shape[3]))(x)
    return net.head((mean + F.max_pool2d(x, kernel_size=x.size()[2:])).flatten(1))


def gated(net: Any, x: Tensor) -> Tensor:
    """Is weighed by itself after a stride, whose sizes PyTorch writes as sums of many terms."""
    x = F.conv2d(x, net.conv.weight, net.conv.bias, stride=2, padding=1)
    x = x * x.mean((2, 3), keepdim=True).sigmoid()
    y = F.group_norm(x, 2).relu()
    return net.head((F.pad(y, (1, 1, 1, 1)) * F.pad(x, (2, 2, 2, 2))[:, :, 1:-1, 1:-1]).mean((2, 3)))


def windows(net: Any, x: Tensor) -> Tensor:
    """Has windows of two after a stride of two, so that sizes 7 and 8 are one, and 9 is none."""
    x = F.conv2d(x, net.conv.weight, net.conv.bias, stride=2, padding=1).relu()
    count, channels, height, width = x.shape
    x = x.view(count, channels, height // 2, 2, width // 2, 2)
    return net.head((x * x.softmax(3)).amax((3, 5)).mean((2, 3)))


def rounded(net: Any, x: Tensor) -> Tensor:
    """Has windows whose number is a fraction rounded up: PyTorch keeps the formula of how wide they are, which is 2."""
    x = F.conv2d(x, net.conv.weight, net.conv.bias, stride=2, padding=1).relu()
    count, channels, height, width = x.shape
    across = math.ceil(width / 2)
    pairs = x.reshape(count * channels * height, across, 2)
    pairs = (pairs * pairs.softmax(2)).reshape(count, channels, height, across * 2)
    halves = x.reshape(count, channels, -1, across)
    return net.head((pairs * 2).mean((2, 3)) + (halves * halves.softmax(3)).amax((2, 3)))


def restored(net: Any, x: Tensor) -> Tensor:
    """Is made as large again as it was before a stride: where that was odd, and where a row is to spare."""
    y = F.conv2d(x, net.conv.weight, net.conv.bias, stride=2, padding=1).relu()
    spare = [length - 2 * short + 1 for length, short in zip(x.shape[2:], y.shape[2:], strict=True)]
    x = x * F.conv_transpose2d(y, net.conv.weight, None, 2, 1, spare)
    kernels = torch.linspace(-1, 1, 36).reshape(4, 1, 3, 3)
    return net.head(
        (F.conv_transpose2d(y, kernels, net.conv.bias, 2, 2, [spare[0] + 1, 1], 4, 3) * 2).amax((2, 3))
        + net.conv(x).mean((2, 3))
    )


def centred(net: Any, x: Tensor, write: bool = False) -> Tensor:
    """Reads or writes the middle of what may be longer than what comes up from below, or just as long."""
    x = F.conv2d(F.pad(x, (1, 2, 1, 2)), net.conv.weight, net.conv.bias).relu()
    below = F.interpolate(F.max_pool2d(x, 3, 2), scale_factor=2)
    height, width = below.shape[2:]
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    if not write:
        return net.head((below * x[:, :, top : top + height, left : left + width]).mean((2, 3)))
    whole = x.clone()
    whole[:, :, top : top + height] *= 2
    return net.head(whole.amax((2, 3)))


def written_at(net: Any, x: Tensor) -> Tensor:
    """Writes into a middle that begins at 1 in the sample, and elsewhere at other sizes."""
    x = net.conv(x).relu()
    height, width = x.shape[2:]
    whole = x.new_zeros(x.shape[0], 4, 2 * height, 2 * width)
    whole[:, :, height // 6 : height // 6 + height, width // 5 : width // 5 + width] = x
    return net.head(whole.square().mean((2, 3)) + whole[:, :, height // 6].amax(2))


def strips(net: Any, x: Tensor) -> Tensor:
    """Pools rows, columns, and all that there is as one row."""
    x = net.conv(x).relu()
    height, width = x.shape[2:]
    rows = F.avg_pool2d(x, (1, width)) + F.max_pool2d(x, (1, width)) + nn.AdaptiveMaxPool2d((None, 1))(x)
    columns = F.avg_pool2d(x, (height, 2), stride=1, padding=(0, 1)).mean(3)
    flat = x.flatten(2)
    return net.head(
        (x * rows).mean((2, 3))
        + columns.flatten(1)
        + (F.avg_pool1d(flat, height * width) + F.max_pool1d(flat, height * width))[:, :, 0]
    )


def moved(net: Any, x: Tensor) -> Tensor:
    """Looks at the image from elsewhere, as spatial transformers do."""
    theta = torch.tensor([[0.9, 0.2, 0.1], [-0.1, 0.8, 0.0]]).expand(x.shape[0], 2, 3)
    x = F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
    return net.head(net.conv(x).relu().mean((2, 3)))


def written(net: Any, x: Tensor) -> Tensor:
    """Writes into parts: a border, a half, every second column, the last row."""
    x = net.conv(x).relu().clone()
    x[:, :, -2:] = x[:, :, :2] * 2
    x[:, :, x.shape[2] // 2 :, 1::2] *= 3
    x[:, :, -1, 1:] = 0.5
    x[:, :, :, -(x.shape[3] // 2) :] *= -2
    return net.head(x.square().mean((2, 3)) + x[:, :, -(x.shape[2] // 2) :].sum((2, 3)))


def attended_in_windows(net: Any, x: Tensor, shift: int = 0) -> Tensor:
    """Looks around within windows of 4, with a border where they do not fit, as Swin and SAM do."""
    x = net.conv(x).relu().permute(0, 2, 3, 1)
    count, height, width, channels = x.shape
    x = F.pad(x, (0, 0, 0, (4 - width % 4) % 4, 0, (4 - height % 4) % 4)).roll((-shift, -shift), (1, 2))
    _, rows, columns, _ = x.shape
    x = x.view(count, rows // 4, 4, columns // 4, 4, channels).permute(0, 1, 3, 2, 4, 5).contiguous()
    x = x.view(-1, 16, channels)
    x = (x @ x.transpose(1, 2)).softmax(-1) @ x
    count = x.shape[0] // (rows * columns // 4 // 4)  # the batch, as SAM computes it
    x = x.view(count, rows // 4, columns // 4, 4, 4, channels).permute(0, 1, 3, 2, 4, 5)
    x = x.reshape(count, rows, columns, channels).roll((shift, shift), (1, 2))[:, :height, :width].contiguous()
    return net.head(x.amax((1, 2)))


@pytest.mark.parametrize(
    "body",
    [
        lambda net, x: net.head(F.adaptive_max_pool2d(net.conv(x).relu(), 1).flatten(1)),
        lambda net, x: net.head(net.conv(x).relu()[:, :, : min(5, x.shape[2])].mean((2, 3))),
        lambda net, x: net.head(net.conv(x).relu()[:, :, : max(3, x.shape[2] - 4)].mean((2, 3))),
        coordinates,
        fractions,
        parts,
        pooled,
        gated,
        windows,
        rounded,
        restored,
        centred,
        partial(centred, write=True),
        written_at,
        strips,
        moved,
        written,
        attended_in_windows,
        partial(attended_in_windows, shift=2),
    ],
    ids=[
        "a global max-pool",
        "the smaller size",
        "the larger size",
        "coordinates",
        "fractions",
        "parts",
        "pooled",
        "gated",
        "windows",
        "rounded",
        "restored",
        "centred",
        "centred, written",
        "written at 1",
        "strips",
        "moved",
        "written",
        "attended in windows",
        "attended in shifted windows",
    ],
)
def test_any_size(body: Callable[..., Tensor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Written(body, conv=nn.Conv2d(3, 4, 3), head=nn.Linear(4, 3)).eval()
    artifact = exporter.export(model, (3, 8, 8), tmp_path / "a", dynamic=ANY_SIZE)
    smallest, steps = (
        np.array([each[key] for each in artifact.manifest["dynamic"][1:]]) for key in ("min", "multiple_of")
    )
    target = torch.tensor([1, -1])
    sessions = [exporter.load(tmp_path / "a", runtime) for runtime in RUNTIMES]
    for more in ((0, 0), (1, 0), (8, 3), (2, 33)):
        shape = smallest + steps * more
        image = torch.randn(2, 3, *shape)
        _, attribution = attribute(model, image, target, "guided")
        for session in sessions:
            found = session(image.numpy(), target.numpy())
            np.testing.assert_allclose(found.attribution, attribution, rtol=1e-5, atol=1e-6, err_msg=str(shape))


def to_multiples(net: Any, x: Tensor, mode: str) -> Tensor:
    """Gets a border that makes its sizes multiples of 4, and none where they are, and is cropped again."""
    height, width = x.shape[2:]
    below, beside = -height % 4, (4 - width % 4) % 4
    x = F.pad(net.conv(x).relu(), (beside // 2, beside - beside // 2, 0, below), mode=mode)
    x = x * net.up(net.down(x).relu())
    return net.head(x[:, :, :height, :width].mean((2, 3)) + x.amax((2, 3)))


@pytest.mark.parametrize("side", [7, 8, 9])
@pytest.mark.parametrize("mode", ["reflect", "replicate", "constant"])
def test_a_border_that_makes_sizes_multiples(mode: str, side: int, tmp_path: Path) -> None:
    """Whether the sample itself needs one, or one of a single row, makes no difference."""
    torch.manual_seed(0)
    parts = {"conv": nn.Conv2d(3, 4, 3, padding=1), "down": nn.Conv2d(4, 4, 4, 4), "up": nn.ConvTranspose2d(4, 4, 4, 4)}
    model = Written(partial(to_multiples, mode=mode), **parts, head=nn.Linear(4, 3)).eval()
    artifact = exporter.export(model, (3, side, side + 1), tmp_path / "a", dynamic=ANY_SIZE)
    assert [one["multiple_of"] for one in artifact.manifest["dynamic"]] == [1, 1, 1]
    image, target = torch.randn(2, 3, 16, 13), torch.tensor([1, -1])
    for size in ((16, 12), (16, 13), (14, 11), (5, 8)):
        part = image[:, :, : size[0], : size[1]]
        _, attribution = attribute(model, part, target, "guided")
        for runtime in RUNTIMES:
            found = exporter.load(tmp_path / "a", runtime)(part.numpy(), target.numpy())
            np.testing.assert_allclose(found.attribution, attribution, rtol=1e-5, atol=1e-6, err_msg=str(size))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            lambda x: F.interpolate(x, size=(int(x.shape[2] * 0.5), 4)),
            r"--dynamic height: the network takes a height of 8 only, for Python makes a plain number of it at "
            r".*test_user_networks\.py:\d+, as int\(\), float\(\), range\(\) and comparisons do",
        ),
        (lambda x: x * float(x.shape[3]), r"--dynamic width: the network takes a width of 8 only, for Python makes"),
        (
            lambda x: x * 2 if x.shape[2] * x.shape[3] > 50 else x,
            r"the network asks at .*test_user_networks\.py:\d+ whether height\*width > 50, and takes another way at "
            r"batch 1, height 7, width 7: a graph has one way",
        ),
        (lambda x: x * 2 if x.shape[2] > 40 else x, r"whether height <= 40, and takes another way at a height of 41"),
        (
            lambda x: x * 2 if x.shape[2] == x.shape[3] else x,
            r"whether .*height, width are to each other as here, and takes another way at other sizes",
        ),
        (
            lambda x: x * 2 if x.shape[0] == x.shape[2] else x,
            r"whether Ne\(.*batch.*\), and takes another way at batch",
        ),
        (lambda x: x * 2 if x.shape[2] % 32 == 0 else x, r"whether Ne\(Mod\(height, 32\), 0\), .* at a height of 32"),
    ],
    ids=[
        "a whole number",
        "a float",
        "a comparison of two sizes",
        "a comparison with a number",
        "two sizes that are equal",
        "a size as large as the batch",
        "a rest",
    ],
)
def test_what_python_makes_of_a_size_is_named(body: Callable[[Tensor], Tensor], message: str, tmp_path: Path) -> None:
    model = Written(lambda net, x: net.head(body(x).mean((2, 3))), head=nn.Linear(3, 3))
    with pytest.raises(exporter.UnsupportedModel, match=message):
        exporter.export(model, (3, 8, 8), tmp_path / "a", dynamic=ANY_SIZE)


def test_fractions_that_python_rounds_otherwise_are_refused(tmp_path: Path) -> None:
    """What becomes of ``x * 0.7 * 10`` is a formula ``7.0 * x``, and where that is 49 the other is 48.99."""
    model = Written(
        lambda net, x: net.head(F.pad(x, (0, math.floor(x.shape[3] * 0.7 * 10))).sum((2, 3))), head=nn.Linear(3, 3)
    )
    with pytest.raises(exporter.UnsupportedOp, match=r"no formula for the varying size FloorToInt\(7.0"):
        exporter.export(model, (3, 8, 8), tmp_path / "a", dynamic=ANY_SIZE)


def test_a_size_at_which_nothing_can_be_computed_is_none(tmp_path: Path) -> None:
    model = Written(lambda net, x: net.head(F.pad(x, (0, 32 // (x.shape[2] - 3))).mean((2, 3))), head=nn.Linear(3, 3))
    artifact = exporter.export(model, (3, 8, 8), tmp_path / "a", dynamic=ANY_SIZE)
    assert artifact.manifest["dynamic"][1] == {"name": "height", "min": 4, "multiple_of": 1}


def test_a_branch_of_a_graph_is_refused_with_its_place() -> None:
    def branch(net: Any, x: Tensor) -> Tensor:
        return net.head(torch.cond(net.head.bias.sum() > 0, torch.sin, torch.cos, (x,)))

    with pytest.raises(exporter.UnsupportedModel, match=r"calls cond on functions .*test_user_networks\.py:\d+\), and"):
        exporter.build(Written(branch, head=nn.Linear(8, 3)), torch.zeros(2, 8))


def test_len_of_a_batch_is_named() -> None:
    model = Written(lambda net, x: net.head(x).relu().view(len(x), 3), head=nn.Linear(8, 3))
    with pytest.raises(exporter.UnsupportedModel, match=r"number, or of len\(x\) \(.*test_user_networks\.py:\d+\)"):
        exporter.build(model, torch.zeros(2, 8))


@pytest.mark.parametrize("size", [3, 40])
def test_a_question_about_the_batch_is_named(size: int) -> None:
    model = Written(lambda net, x: net.head(x * 2 if x.shape[0] > size else x).relu(), head=nn.Linear(8, 3))
    with pytest.raises(exporter.UnsupportedModel, match=r"fixed batch size only.*test_user_networks\.py:\d+\)\. int\("):
        exporter.build(model, torch.zeros(2, 8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int64, torch.bool])
def test_logits_of_other_dtypes_are_refused(dtype: torch.dtype) -> None:
    model = Written(lambda net, x: net.second(net.first(x).relu()).to(dtype), **linear(8, 8, 3))
    with pytest.raises(exporter.UnsupportedModel, match=f"returns logits of {str(dtype)[6:]}; an artifact's are of"):
        exporter.build(model, torch.zeros(1, 8))


@pytest.mark.filterwarnings("ignore:.*`torch.jit:DeprecationWarning")
def test_a_part_in_torchscript_is_refused() -> None:
    model = Written(lambda net, x: net.second(net.first(x)), first=torch.jit.script(nn.ReLU()), second=nn.Linear(8, 3))
    with pytest.raises(exporter.UnsupportedModel, match="Written has a part in TorchScript, first: its rectifiers"):
        exporter.build(model, torch.zeros(1, 8))


@pytest.mark.filterwarnings("ignore:.*`torch.jit:DeprecationWarning")
def test_what_is_traced_is_refused_at_once() -> None:
    convolution = torch.jit.trace(nn.Conv1d(1, 2, 3), torch.zeros(2, 1, 8))
    with pytest.raises(exporter.UnsupportedModel, match="it is TorchScript: its rectifiers cannot be told apart"):
        exporter.build(convolution, torch.zeros(2, 1, 8))
    model = Written(lambda net, x: net.second(net.first(x).sum(1)), first=convolution, second=nn.Linear(6, 3))
    with pytest.raises(exporter.UnsupportedModel, match="Written has a part in TorchScript, first: its rectifiers"):
        exporter.build(model, torch.zeros(2, 1, 8))


@pytest.mark.parametrize("how", ["whole", "part", "in place"])
def test_what_is_compiled_runs_as_it_was_written(how: str, tmp_path: Path) -> None:
    compiled: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph

    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    model.append(model[1])
    given: nn.Module = model
    if how == "whole":
        given = torch.compile(model, backend=backend)  # type: ignore[assignment]
    elif how == "part":
        model[2] = torch.compile(model[2], backend=backend)
    else:
        model.compile(backend=backend)
    names = list(given.state_dict())
    artifact = exporter.export(given, (8,), tmp_path / "a")
    assert not compiled
    assert list(given.state_dict()) == names
    held = {name for name, _ in torch.jit.load(artifact.folder / "model.pt").named_buffers()}
    assert held == {name.replace("_orig_mod.", "") for name in names}


class Wrapper(nn.Module):
    """Has a part that is named as torch.compile names its own, and does more than that part."""

    def __init__(self) -> None:
        super().__init__()
        self._orig_mod = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self._orig_mod(x).relu() * 2


def test_a_part_of_that_name_is_no_compiled_network() -> None:
    wrapper = Wrapper()
    assert uncompiled(wrapper) is wrapper


def test_a_graph_module_that_is_compiled_keeps_its_own_forward() -> None:
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(8, 3), nn.ReLU()))
    traced.compile(backend=lambda graph, inputs: pytest.fail("it is compiled"))
    x = torch.randn(2, 8)
    assert torch.equal(uncompiled(traced)(x), traced.get_submodule("0")(x).relu())


def test_bits_of_whole_numbers_are_refused_with_their_place(tmp_path: Path) -> None:
    model = Written(lambda net, x: net.second(net.first(x).relu() * (x.int() ^ x.sign().int())), **linear(8, 8, 3))
    with pytest.raises(exporter.UnsupportedOp, match=r"bitwise_xor\S*: of whole numbers, bit by bit, .*networks.py:"):
        exporter.export(model, (8,), tmp_path / "a")


def test_rectifiers_inside_of_an_operator_are_refused() -> None:
    """Autograd in Python does not see them, so nothing could be proven of them."""
    model = Written(lambda net, x: net.rnn(x)[0][:, -1], rnn=nn.RNN(4, 3, batch_first=True, nonlinearity="relu"))
    with pytest.raises(exporter.UnsupportedOp, match=r"aten.rnn_relu.input has no vjp rule"):
        exporter.build(model, torch.zeros(1, 5, 4))


@pytest.mark.parametrize(
    ("name", "stored"),
    [("a branch named global", "net.branches.global_.weight"), ("a module named meta", "meta_.weight")],
)
def test_a_name_that_cannot_be_an_attribute_is_changed(name: str, stored: str, tmp_path: Path) -> None:
    model, shape = made(name)
    exporter.export(model, shape, tmp_path / "a")
    assert stored in {one.name for one in onnx.load(tmp_path / "a" / "model.onnx").graph.initializer}


def test_weights_beside_a_state_that_is_no_tensor(tmp_path: Path) -> None:
    saved, model = nn.Sequential(Extra(8, 8), nn.ReLU()), nn.Sequential(Extra(8, 8), nn.ReLU())
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    load_weights(model, tmp_path / "weights.pt")
    assert torch.equal(model[0].weight, saved[0].weight)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize(
    "norm", [nn.LayerNorm, partial(nn.LayerNorm, bias=False), nn.RMSNorm], ids=["layer", "no bias", "rms"]
)
def test_norms_in_other_dtypes(norm: Callable[..., nn.Module], dtype: str, runtime: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), norm(8), nn.ReLU(), nn.Linear(8, 3))
    exporter.export(model, (6,), tmp_path / "a", dtype=dtype, formats=[RUNTIMES[runtime]])
    image, target = torch.randn(2, 6, dtype=getattr(torch, dtype)), torch.tensor([1, -1])
    logits, attribution = attribute(model.to(image.dtype).double(), image.double(), target, "guided")
    found = exporter.load(tmp_path / "a", runtime)(image.numpy(), target.numpy())
    tolerance = {"float16": 2e-2, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(found.logits, logits.detach(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found.attribution, attribution, rtol=tolerance, atol=tolerance)


def test_a_cast_to_float32_is_none_in_float64(tmp_path: Path) -> None:
    """So an artifact in float64 is float64 throughout."""
    torch.manual_seed(0)
    model = Written(attended, **linear(8, 8, 3))
    exporter.export(model, (8,), tmp_path / "a", dtype="float64")
    image, target = torch.randn(2, 8, dtype=torch.float64), torch.tensor([1, -1])
    plain = Written(
        lambda net, x: net.second(F.softmax(net.first(x), -1).relu()), first=model.first, second=model.second
    )
    logits, attribution = attribute(plain.double(), image, target, "guided")
    found = exporter.load(tmp_path / "a")(image.numpy(), target.numpy())
    np.testing.assert_allclose(found.logits, logits.detach(), rtol=1e-12)
    np.testing.assert_allclose(found.attribution, attribution, rtol=1e-12, atol=1e-15)


def test_a_float16_network_may_compute_in_float32_in_places(tmp_path: Path) -> None:
    """Then there is no proof in float64, where those places would stay in float32; and the manifest says so."""
    torch.manual_seed(0)
    model = Written(attended, **linear(8, 8, 3))
    artifact = exporter.export(model, (8,), tmp_path / "a", dtype="float16")
    parity = artifact.manifest["parity"]
    assert parity["skipped"] == "the network computes in float32 in places"
    assert {(one["runtime"], one["dtype"]) for one in parity["runtimes"]} == {
        ("torchscript", "float16"),
        ("onnxruntime", "float16"),
    }
    assert exporter.verify(tmp_path / "a", model).skipped == parity["skipped"]


POOLS = {
    "max-pool": nn.MaxPool2d(4),
    "amax": Written(lambda net, x: x.unflatten(3, (2, 4)).unflatten(2, (2, 4)).amax((3, 5))),
    "amin": Written(lambda net, x: x.unflatten(3, (2, 4)).unflatten(2, (2, 4)).amin((3, 5)) + 1),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("pool", "opset"), [("max-pool", 17), ("max-pool", 18), ("max-pool", 23), ("amax", 18), ("amin", 18)]
)
def test_pools_in_float16(pool: str, opset: int, target: str, tmp_path: Path) -> None:
    """Maxima that a runtime has not rounded yet equal nothing that it has."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), POOLS[pool], nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    exporter.export(
        model, (3, 8, 8), tmp_path / "a", dtype="float16", formats=["onnx"], opset=opset, optimize_for=target
    )
    image, target_class = torch.randn(2, 3, 8, 8).half(), torch.tensor([1, -1])
    _, attribution = attribute(model.half().double(), image.double(), target_class, "guided")
    found = exporter.load(tmp_path / "a")(image.numpy(), target_class.numpy())
    assert np.linalg.norm(found.attribution - attribution.numpy()) < 0.02 * attribution.norm()


def test_complex_numbers_are_refused() -> None:
    """They carry a gradient, so leaving them out would be wrong."""
    model = Written(lambda net, x: net.first((x + torch.fft.fft(x).real).relu()), **linear(8, 3))
    with pytest.raises(
        exporter.UnsupportedModel, match=r"aten.fft_fft.default has no vjp rule .*Complex numbers have none"
    ):
        exporter.build(model, torch.zeros(1, 8))


def test_the_manifest_has_the_dtype_that_logits_have(tmp_path: Path) -> None:
    model = Written(lambda net, x: net.second(F.relu(net.first(x))).float(), **linear(8, 8, 3))
    artifact = exporter.export(model, (8,), tmp_path / "a", dtype="float16")
    found = exporter.load(tmp_path / "a")(np.zeros((2, 8), np.float16))
    assert [one["dtype"] for one in artifact.manifest["outputs"]] == ["float32", "float16"]
    assert (found.logits.dtype, found.attribution.dtype) == (np.float32, np.float16)


def test_a_dtype_that_onnx_artifacts_lack_is_named(tmp_path: Path) -> None:
    model = Written(lambda net, x: F.relu(net.first(x.to(torch.bfloat16).float())), **linear(8, 3))
    with pytest.raises(
        exporter.UnsupportedModel, match=r"_to_copy.*cannot have bfloat16; there are float16.*test_user_networks"
    ):
        exporter.export(model, (8,), tmp_path / "a")


def test_a_clip_is_counted_as_a_rectifier(tmp_path: Path) -> None:
    model = Written(lambda net, x: net.second(torch.clip(net.first(x), 0)), **linear(8, 8, 3))
    artifact = exporter.export(model, (8,), tmp_path / "a", formats=["torchscript"])
    assert sum(artifact.manifest["method"]["rectifiers"].values()) == 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 3, 8, 8)), "image has dtype float64; the artifact takes float32"),
        (np.zeros((2, 3, 8, 9), np.float32), r"image has shape \[2, 3, 8, 9\]; the artifact takes \[batch, 3, 8, 8\]"),
        (np.zeros((3, 8, 8), np.float32), r"image has shape \[3, 8, 8\]; the artifact takes \[batch, 3, 8, 8\]"),
    ],
)
def test_a_session_says_what_it_takes(image: Any, message: str, tmp_path: Path) -> None:
    exporter.export(nn.Sequential(nn.Conv2d(3, 2, 8), nn.ReLU(), nn.Flatten()), (3, 8, 8), tmp_path / "a")
    for runtime in RUNTIMES:
        with pytest.raises(exporter.UsageError, match=message):
            exporter.load(tmp_path / "a", runtime)(image)


def test_of_a_varying_size_any_is_taken(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    exporter.export(model, (3, 8, 8), tmp_path / "a", dynamic=("batch", "height", "width"))
    session = exporter.load(tmp_path / "a")
    assert session(np.zeros((1, 3, 9, 7), np.float32)).attribution.shape == (1, 3, 9, 7)
    with pytest.raises(exporter.UsageError, match=r"the artifact takes \[batch, 3, height, width\]"):
        session(np.zeros((1, 4, 9, 7), np.float32))


def test_in_inference_mode_all_is_as_elsewhere(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.inference_mode():
        exporter.build(model, torch.zeros(1, 8))
        exporter.export(model, (8,), tmp_path / "a")
        exporter.verify(tmp_path / "a", model)
        made_here = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        assert torch.is_inference_mode_enabled()
    with pytest.raises(exporter.UnsupportedModel, match="Inference tensors cannot be saved"):
        exporter.build(made_here, torch.zeros(1, 8))


def test_keep_selects_or_multiplies() -> None:
    """Both are the rule; they differ where nothing passes and the cotangent is infinite."""
    from exporter.methods import METHODS, selected

    g, active = torch.tensor([2.0, -2.0, 2.0, torch.inf, -torch.inf]), torch.tensor([True, True, False, False, True])
    for method in METHODS.values():
        chosen, product = method.rule(g, active, selected), method.rule(g, active, operator.mul)
        assert torch.equal(chosen[:3], product[:3])
        assert not chosen.isnan().any()
