"""Zoo x methods x runtimes: what the written files return is what live autograd returns."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import exporter
import models
from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.differentiate import differentiate
from exporter.methods import METHODS
from exporter.parity import relative_l2
from exporter.pipeline import write
from exporter.program import Program, to_module
from exporter.reference import live
from exporter.runtime import open_session
from models import alexnet, cifar_resnet, digits, mlp, mobilenet, resnet, vgg
from tests.oracle import attribute, decided_images

CLASSES = 7

NARROW = {
    **{name: partial(getattr(resnet, name), width=8) for name in ("resnet18", "resnet34")},
    **{name: partial(getattr(resnet, name), width=8) for name in ("resnet50", "resnet101", "resnet152")},
    **{
        f"vgg{depth}{norm}": partial(getattr(vgg, f"vgg{depth}{norm}"), width=8, hidden=32)
        for depth in (11, 13, 16, 19)
        for norm in ("", "_bn")
    },
    "alexnet": partial(alexnet.alexnet, hidden=32),
    "mobilenet_v2": partial(mobilenet.mobilenet_v2, width=0.25),
    **{
        name: partial(getattr(cifar_resnet, name), width=8)
        for name in ("cifar_resnet20", "cifar_resnet32", "cifar_resnet44", "cifar_resnet56")
    },
    "mlp": mlp.mlp,
    "digits_cnn": digits.digits_cnn,
}
DEEPEST = {"resnet34", "resnet152", "cifar_resnet56", "vgg19", "vgg19_bn"}
"""Networks of the blocks of another, more of them: tried by the method that the project is for."""

ALIKE = {
    "resnet101": "resnet152",
    **{f"cifar_resnet{depth}": "cifar_resnet56" for depth in (32, 44)},
    **{f"vgg{depth}{norm}": f"vgg19{norm}" for depth in (13, 16) for norm in ("", "_bn")},
}
"""Networks in which no layer comes between two that it does not come between in another, which is tried."""

IN_FLOAT64 = {"resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "cifar_resnet20", "alexnet"}

SHAPES = {"mlp": (1, 28, 28), "digits_cnn": (1, 8, 8), "alexnet": (3, 63, 63)}


def test_every_zoo_model_is_here() -> None:
    assert set(NARROW) == set(models.names())


def neighbours(name: str) -> set[tuple[str, ...]]:
    """Return each three layers that are written one after the other, with their settings and channels."""
    layers = [str(one) for one in NARROW[name](num_classes=CLASSES).modules() if not any(one.children())]
    return set(zip(layers, layers[1:], layers[2:], strict=False))


@pytest.mark.parametrize("name", ALIKE)
def test_what_is_not_tried_is_made_of_what_is(name: str) -> None:
    assert ALIKE[name] not in ALIKE
    assert neighbours(name) <= neighbours(ALIKE[name])


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(3)
    model = NARROW[name](num_classes=CLASSES).eval()
    for module in model.modules():  # statistics that a batch norm has to use
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.7, 1.4)
    return model, SHAPES.get(name, (3, 32, 32))


@pytest.mark.parametrize("name", [name for name in NARROW if name not in ALIKE])
def test_written_files_equal_live_autograd(name: str, tmp_path: Path) -> None:
    """To 1e-5; and to 1e-12 in float64, which tells a wrong formula from rounding."""
    model, shape = network(name)
    images = decided_images(model, 4, shape)
    program = canonicalize(capture(model, images))
    for method, rule in METHODS.items():
        if name in DEEPEST and method != "guided":
            continue
        explicit = differentiate(program, rule)
        for format, runtime in (("onnx", "onnxruntime"), ("torchscript", "torchscript")):
            path = tmp_path / f"{method}.{format}"
            write(explicit, format, path)
            session = open_session(path, runtime, threads=1)
            for image, target in ((images[:1], [-1]), (images[1:], [4, -1, CLASSES - 1]), (images[:1], [2])):
                logits, attribution = attribute(model, image, torch.tensor(target), method)
                result = session(image.numpy(), target)
                where = f"{method}, {runtime}, target {target}"
                assert result.logits.dtype == result.attribution.dtype == np.float32, where
                assert max(relative_l2(result.logits, logits.numpy())) < 1e-5, where
                assert max(relative_l2(result.attribution, attribution.numpy())) < 1e-5, where
        if name in IN_FLOAT64:
            agree_in_float64(model, explicit, tmp_path / f"{method}.torchscript", method, shape)


def agree_in_float64(model: nn.Module, explicit: Program, path: Path, method: str, shape: tuple[int, ...]) -> None:
    """Compare a program, and the TorchScript file of it, with live autograd."""
    images = torch.randn(3, *shape, dtype=torch.float64)
    target = torch.tensor([-1, 3, 0])
    session = open_session(path, "torchscript", double=True)
    _, eager = copy.deepcopy(to_module(explicit)).double()(images, target)
    _, expected = attribute(copy.deepcopy(model).double(), images, target, method)
    script = session(images.numpy(), target.numpy()).attribution
    assert max(relative_l2(eager.numpy(), expected.numpy())) < 1e-12, method
    assert max(relative_l2(script, expected.numpy())) < 1e-12, method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["cifar_resnet20", "vgg11_bn", "mobilenet_v2", "mlp"])
def test_the_packaged_reference_equals_the_oracle(name: str, method: str) -> None:
    model, shape = network(name)
    images, target = torch.randn(3, *shape), torch.tensor([-1, 3, 0])
    logits, attribution = attribute(model, images, target, method)
    found_logits, (found,), _ = live(model, images, target, method)
    assert torch.equal(found_logits, logits)
    assert max(relative_l2(found.numpy(), attribution.numpy())) < 1e-6


def test_shipped_networks_on_their_own_weights(tmp_path: Path) -> None:
    from exporter.sources import resolve

    for name in ("cifar_resnet20", "digits_cnn"):
        source = resolve(name)
        images = decided_images(source.model, 2, source.sample_shape)
        exporter.export(source.model, source.sample_shape, tmp_path / name)
        _, expected = attribute(source.model, images, torch.tensor([-1, 2]), "guided")
        for runtime in ("onnxruntime", "torchscript"):
            result = exporter.load(tmp_path / name, runtime)(images.numpy(), [-1, 2])
            assert max(relative_l2(result.attribution, expected.numpy())) < 1e-5
