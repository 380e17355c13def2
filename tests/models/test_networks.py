"""What the networks compute. That it is what torchvision's do: tests/data/compare_with_torchvision.py."""

import pytest
import torch
from torch import nn

import models
from models.alexnet import alexnet
from models.cifar_resnet import (
    SubsampleAndPad,
    cifar_resnet20,
    cifar_resnet32,
    cifar_resnet44,
    cifar_resnet56,
)
from models.digits import digits_cnn
from models.initialization import he_init
from models.mlp import mlp
from models.mobilenet import InvertedResidual, mobilenet_v2
from models.resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from models.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

NARROW = [
    *((factory, {"width": 8}, (3, 64, 64)) for factory in (resnet18, resnet34, resnet50, resnet101, resnet152)),
    *((factory, {"width": 8, "hidden": 32}, (3, 32, 32)) for factory in (vgg11, vgg13, vgg16, vgg19)),
    *((factory, {"width": 8, "hidden": 32}, (3, 40, 64)) for factory in (vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn)),
    (alexnet, {"hidden": 32}, (3, 63, 63)),
    (mobilenet_v2, {"width": 0.25}, (3, 64, 64)),
    *(
        (factory, {"width": 4}, (3, 32, 32))
        for factory in (cifar_resnet20, cifar_resnet32, cifar_resnet44, cifar_resnet56)
    ),
    (mlp, {"inputs": 12, "hidden": (8, 6)}, (3, 2, 2)),
    (digits_cnn, {"width": 4}, (1, 8, 8)),
]


@pytest.mark.parametrize(("factory", "options", "shape"), NARROW, ids=[factory.__name__ for factory, *_ in NARROW])
def test_narrow_networks_are_finite_and_tell_samples_apart(factory, options, shape):
    torch.manual_seed(0)
    network = factory(num_classes=7, **options).eval()
    with torch.inference_mode():
        logits = network(torch.randn(2, *shape))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert (logits[0] != logits[1]).all()


def test_the_narrow_table_covers_the_zoo():
    assert {factory.__name__ for factory, *_ in NARROW} == set(models.names())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "cifar_resnet20", "cifar_resnet56", "mlp", "digits_cnn"])
def test_full_networks_at_their_own_size(name):
    entry = models.entry(name)
    torch.manual_seed(0)
    network = entry.factory().eval()
    with torch.inference_mode():
        logits = network(torch.randn(1, *entry.input_shape))
    assert 0.01 < logits.std() < 100


def test_depth_does_not_blow_untrained_logits_up():
    torch.manual_seed(0)
    network = resnet152(width=16).eval()
    with torch.inference_mode():
        logits = network(torch.randn(1, 3, 64, 64))
    assert 0.01 < logits.std() < 100


def test_mobilenet_rectifies_with_relu6_alone():
    rectifiers = [m for m in mobilenet_v2(width=0.25).modules() if isinstance(m, nn.ReLU | nn.ReLU6)]
    assert {type(m) for m in rectifiers} == {nn.ReLU6}
    assert len(rectifiers) == 2 + 17 + 16  # the stem and the head, 17 depthwise, 16 expansions


@pytest.mark.parametrize(("stride", "outputs", "residual"), [(1, 8, True), (2, 8, False), (1, 16, False)])
def test_inverted_residual_adds_its_input_where_shapes_agree(stride, outputs, residual):
    block = InvertedResidual(8, outputs, stride, expansion=6).eval()
    nn.init.zeros_(block.conv[-1].weight)
    x = torch.randn(2, 8, 6, 6)
    y = block(x)
    assert torch.equal(y, x if residual else torch.zeros(2, outputs, 6 // stride, 6 // stride))


@pytest.mark.parametrize("size", [4, 5])
def test_option_a_shortcut_takes_every_second_pixel_and_pads_channels_with_zeros(size):
    x = torch.arange(2.0 * 4 * size * size).view(2, 4, size, size)
    y = SubsampleAndPad(4, 8)(x)
    assert y.shape == (2, 8, (size + 1) // 2, (size + 1) // 2)
    assert not y[:, :2].any()
    assert not y[:, 6:].any()
    for row in range(y.shape[2]):
        for column in range(y.shape[3]):
            assert torch.equal(y[:, 2:6, row, column], x[:, :, 2 * row, 2 * column])


def test_he_init_counts_connections_within_a_group():
    layers = nn.Sequential(nn.Conv2d(64, 512, 3), nn.Conv2d(512, 512, 3, groups=512), nn.Linear(300, 400))
    torch.manual_seed(0)
    he_init(layers)
    for layer, connections in zip(layers, (512 * 9, 9, 300), strict=True):
        assert layer.weight.std().item() == pytest.approx((2 / connections) ** 0.5, rel=0.05)
        assert not layer.bias.any()
