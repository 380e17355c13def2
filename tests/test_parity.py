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
from exporter.program import to_module
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
DEEPER = {
    *("resnet34", "resnet101", "resnet152", "cifar_resnet32", "cifar_resnet44", "cifar_resnet56"),
    *("vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
}
"""Networks of the blocks of another, more of them: tried by the method that the project is for."""

SHAPES = {"mlp": (1, 28, 28), "digits_cnn": (1, 8, 8), "alexnet": (3, 63, 63)}


def test_every_zoo_model_is_here() -> None:
    assert set(NARROW) == set(models.names())


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(3)
    model = NARROW[name](num_classes=CLASSES).eval()
    for module in model.modules():  # statistics that a batch norm has to use
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.7, 1.4)
    return model, SHAPES.get(name, (3, 32, 32))


@pytest.mark.parametrize("name", NARROW)
def test_written_files_equal_live_autograd(name: str, tmp_path: Path) -> None:
    model, shape = network(name)
    images = decided_images(model, 4, shape)
    program = canonicalize(capture(model, images))
    for method, rule in METHODS.items():
        if name in DEEPER and method != "guided":
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


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "cifar_resnet20", "alexnet"])
def test_float64_agrees_to_1e_12(name: str, tmp_path: Path) -> None:
    model, shape = network(name)
    images = torch.randn(3, *shape, dtype=torch.float64)
    target = torch.tensor([-1, 3, 0])
    program = canonicalize(capture(model, images.float()))
    exact = copy.deepcopy(model).double()
    for method, rule in METHODS.items():
        explicit = differentiate(program, rule)
        write(explicit, "torchscript", tmp_path / "model.pt")
        session = open_session(tmp_path / "model.pt", "torchscript", double=True)
        _, eager = copy.deepcopy(to_module(explicit)).double()(images, target)
        _, expected = attribute(exact, images, target, method)
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
