"""Whole-number networks: float32 arithmetic is exact, so every runtime must agree with autograd to the bit.

Inputs, weights and all intermediate values are whole numbers below 2^24 (or whole multiples of a power of two), with
ties in max-pools and exact zeros at rectifiers: there is no rounding for a wrong comparison to hide behind.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.differentiate import differentiate
from exporter.emit.onnx import translate
from exporter.lowering import PASSES, TARGETS, lower
from exporter.methods import METHODS
from exporter.pipeline import EMISSION, write
from exporter.program import Program, to_module
from exporter.runtime import open_session
from tests.oracle import attribute

CLASSES = 5


class Residual(nn.Module):
    """A strided block with a projection, as in a ResNet: reused in-place ReLU, ``+=``."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs, eps=0)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.project = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.conv2(y)
        y += self.project(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """A strided block between pointwise convolutions, with a projection, as in a deeper ResNet."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels, eps=0)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1)
        self.conv3 = nn.Conv2d(channels, 2 * channels, 1)
        self.project = nn.Conv2d(channels, 2 * channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(self.conv3(y) + self.project(x))


class Identity(nn.Module):
    """Two convolutions beside nothing, the block of every stage but its first."""

    def __init__(self, channels: int, rectify: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, groups=channels)
        self.rectify = rectify

    def forward(self, x: Tensor) -> Tensor:
        return self.rectify(x + self.conv2(self.rectify(self.conv1(x))))


class Dense(nn.Module):
    """Channels beside others, from pools, under a batch norm, as in a DenseNet."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(2 * channels, eps=0)
        self.conv = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([F.avg_pool2d(x, 2), F.max_pool2d(x, 2)], 1)
        return torch.relu(self.conv(torch.relu(self.bn(y))))


class Functional(nn.Module):
    """Rectifiers that no module shows, and a value that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.a(x))
        b = self.b(a).relu_()
        c = F.relu(b - a)
        return torch.cat([a, c, F.threshold(b - 3, 0, 0)], 1)


def _net(*layers: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, CLASSES))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: _net(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), features=9), (3, 4)),
    "resnet stem": (
        lambda: _net(
            nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8, eps=0), nn.ReLU(), nn.MaxPool2d(3, 2, 1), features=128
        ),
        (3, 16, 16),
    ),
    "inception stem": (
        lambda: _net(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True), features=72),
        (3, 16, 15),
    ),
    "stem whose pool comes first": (
        lambda: _net(nn.Conv2d(3, 8, 5, (2, 3), 2), nn.MaxPool2d(2), nn.ReLU(), features=48),
        (3, 12, 13),
    ),
    "residual, stride 2": (lambda: _net(nn.Conv2d(3, 8, 3), nn.ReLU(), Residual(8, 16, 2), features=256), (3, 10, 10)),
    "residual, odd size": (lambda: _net(nn.Conv2d(3, 8, 3), nn.ReLU(), Residual(8, 8, 2), features=160), (3, 11, 9)),
    "residual, stride 3": (lambda: _net(Residual(3, 8, 1), Residual(8, 8, 3), features=128), (3, 12, 11)),
    "vgg": (
        lambda: _net(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, ceil_mode=True),
            features=72,
        ),
        (3, 10, 11),
    ),
    "overlapping pools": (
        lambda: _net(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 1), nn.MaxPool2d(5, 3, 2), features=32),
        (1, 9, 8),
    ),
    "pool before the rectifier": (
        lambda: _net(nn.Conv2d(1, 8, 3), nn.MaxPool2d((2, 3), (2, 1), (1, 1)), nn.ReLU(), features=192),
        (1, 8, 8),
    ),
    "pool with gaps": (lambda: _net(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2, 3), features=32), (1, 9, 9)),
    "depthwise, relu6": (
        lambda: _net(
            nn.Conv2d(8, 8, 3, 2, 1, groups=8),
            nn.ReLU6(),
            nn.Conv2d(8, 16, 1),
            nn.ReLU6(inplace=True),
            nn.Conv2d(16, 16, 3, 1, 1, groups=16),
            nn.ReLU6(),
            features=400,
        ),
        (8, 10, 9),
    ),
    "groups, strides, dilation": (
        lambda: _net(
            nn.Conv2d(8, 16, 3, (2, 1), (1, 0), groups=4),
            nn.ReLU(),
            nn.Conv2d(16, 8, (3, 2), 1, 2, dilation=2, groups=2),
            nn.ReLU(),
            nn.Conv2d(8, 8, 5, 2, 1, groups=2),
            nn.ReLU(),
            features=80,
        ),
        (8, 9, 11),
    ),
    "bottleneck, stride 2": (
        lambda: _net(nn.Conv2d(3, 16, 1), nn.ReLU(), Bottleneck(16, 2), features=288),
        (3, 6, 5),
    ),
    "inverted bottleneck": (
        lambda: _net(
            nn.Conv2d(3, 16, 1),
            nn.Conv2d(16, 32, 1, bias=False),
            nn.BatchNorm2d(32, eps=0),
            nn.ReLU6(),
            nn.Conv2d(32, 32, 3, (3, 2), 1, groups=32),
            nn.ReLU6(),
            nn.Conv2d(32, 8, 1),
            features=72,
        ),
        (3, 7, 6),
    ),
    "average pools": (
        lambda: _net(nn.Conv2d(3, 8, 1, 2), nn.ReLU(), nn.AvgPool2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), features=8),
        (3, 16, 16),
    ),
    "blocks": (
        lambda: _net(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
            Residual(16, 16, 1),
            features=64,
        ),
        (3, 8, 8),
    ),
    "blocks, pools and relu6": (
        lambda: _net(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(16, 16, 3, 1, 1, groups=16),
            nn.ReLU6(),
            nn.Conv2d(16, 16, 1),
            nn.ReLU6(),
            nn.Conv2d(16, 16, 2),
            nn.ReLU(),
            nn.MaxPool2d(2, 3),
            features=32,
        ),
        (1, 11, 9),
    ),
    "blocks beside nothing": (
        lambda: _net(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            Identity(16, F.relu),
            Identity(16, F.relu6),
            Identity(16, F.relu),
            features=320,
        ),
        (1, 5, 4),
    ),
    "blocks beside each other": (lambda: _net(nn.Conv2d(1, 16, 3), nn.ReLU(), Dense(16), features=96), (1, 6, 8)),
    "functional": (lambda: _net(Functional(), nn.MaxPool2d(2), features=384), (3, 8, 8)),
}


def whole_numbers(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give a network small whole weights, and batch norms powers of four: in it float32 is exact."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator).float()
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randint(-3, 4, module.running_mean.shape, generator=generator))
            module.running_var.copy_(4.0 ** torch.randint(-1, 2, module.running_var.shape, generator=generator))
    return model


def whole(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network with small whole weights and a batch of small whole inputs."""
    factory, shape = NETWORKS[name]
    generator = torch.Generator().manual_seed(len(name))
    model = whole_numbers(factory().eval(), generator)
    return model, torch.randint(-2, 3, (3, *shape), generator=generator).float()


@functools.cache
def explicit(name: str, method: str) -> Program:
    """Return the program of a network in whole numbers, captured once for every test of it: none changes it."""
    return differentiate(_canonical(name), METHODS[method])


@functools.cache
def _canonical(name: str) -> Program:
    return canonicalize(capture(*whole(name)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_runtime_agrees_to_the_bit(name: str, method: str, tmp_path: Path) -> None:
    model, images = whole(name)
    target = torch.tensor([-1, 2, 0])
    logits, expected = attribute(model, images, target, method)
    assert logits.abs().max() < 2**24
    assert expected.any()
    program = explicit(name, method)
    for format, runtime in (("torchscript", "torchscript"), ("onnx", "onnxruntime")):
        write(program, format, tmp_path / format)
        result = open_session(tmp_path / format, runtime)(images.numpy(), target.numpy())
        assert (result.logits == logits.numpy()).all(), runtime
        assert (result.attribution == expected.numpy()).all(), runtime
    eager = to_module(program)(images, target)
    assert torch.equal(eager[0], logits)
    assert torch.equal(eager[1], expected)


@pytest.mark.parametrize("target", PASSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_lowering_gives_the_same_numbers(name: str, target: str) -> None:
    _, images = whole(name)
    program = explicit(name, "guided")
    wanted = torch.tensor([-1, 2, 0])
    logits, expected = to_module(program)(images, wanted)
    lowered = lower(program, target)
    eager = to_module(lowered)(images, wanted)
    assert torch.equal(eager[0], logits)
    assert torch.equal(eager[1], expected)
    if target not in TARGETS:
        return  # TorchScript's has operators that ONNX lacks, and its file is the test above
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = translate(lowered, ("logits", "attribution"), 18, **EMISSION.get(target, {}))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    found = session.run(None, {"image": images.numpy(), "target": wanted.numpy()})
    assert (found[0] == logits.numpy()).all()
    assert (found[1] == expected.numpy()).all()


def test_the_networks_have_ties_and_zeros() -> None:
    """Without them these tests would prove less than they claim."""
    seen = {"ties": 0, "zeros": 0}

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func in (F.relu, F.relu6, torch.relu):
                seen["zeros"] += int((args[0] == 0).sum())
            if func is F.max_pool2d or func is torch.max_pool2d:
                windows = F.unfold(args[0], 2)
                windows = windows.reshape(len(args[0]), args[0].shape[1], 4, -1)
                seen["ties"] += int(((windows == windows.amax(2, keepdim=True)).sum(2) > 1).sum())
            return func(*args, **(kwargs or {}))

    for name in NETWORKS:
        model, images = whole(name)
        with Watch(), torch.no_grad():
            model(images)
    assert seen["zeros"] > 500
    assert seen["ties"] > 500
