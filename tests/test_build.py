"""The explicit module itself: eager, scripted, exported again, and only for the inputs that it was made for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim

import exporter
from tests.oracle import attribute


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def explicit(model: nn.Module) -> nn.Module:
    return exporter.build(model, torch.zeros(1, 3, 16, 16))


IMAGES, TARGET = torch.randn(3, 3, 16, 16), torch.tensor([-1, 2, 0])


def test_eager_scripted_and_exported_agree(model: nn.Module, explicit: nn.Module) -> None:
    batch = Dim("batch")
    again = torch.export.export(explicit, (IMAGES, TARGET), dynamic_shapes=({0: batch}, {0: batch})).module()
    logits, expected = attribute(model, IMAGES, TARGET, "guided")
    with pytest.warns(UserWarning, match="instance-level annotations"):
        scripted = torch.jit.script(explicit)
    for module in (explicit, scripted, again):
        found = module(IMAGES, TARGET)
        assert torch.equal(found[0], logits)
        torch.testing.assert_close(found[1], expected)
        assert torch.equal(module(IMAGES[:2], TARGET[:2])[0], logits[:2])


def test_it_shares_the_networks_tensors_and_names(model: nn.Module, explicit: nn.Module) -> None:
    own = model.state_dict()
    assert {name: value.data_ptr() for name, value in explicit.state_dict().items()} == {
        name: value.data_ptr() for name, value in own.items()
    }


def test_its_code_reads_like_the_network(explicit: nn.Module) -> None:
    code = explicit.code
    for line in ("torch.ops.aten.conv2d(", "torch.ops.aten.relu(", "torch.ops.aten.conv_transpose2d(", "_1_vjp"):
        assert line in code
    assert "autograd" not in code


@pytest.mark.parametrize(
    ("image", "target"),
    [
        ((2, 3, 8, 8), 2),  # the pooled area is a constant: this would run, and be wrong by a factor
        ((2, 3, 32, 32), 2),
        ((2, 3, 8, 32), 2),
        ((2, 3, 1, 16), 2),
        ((2, 1, 16, 16), 2),
        ((2, 3, 16, 16), 1),
        ((2, 3, 16, 16), 3),
        ((1, 3, 16, 16), 2),
    ],
)
def test_other_sizes_are_refused(explicit: nn.Module, image: tuple[int, ...], target: int) -> None:
    with pytest.raises(RuntimeError, match=r"must match the existing size|is invalid for input of size"):
        explicit(torch.zeros(image), torch.full((target,), -1))


def test_an_unknown_method(model: nn.Module) -> None:
    with pytest.raises(exporter.UsageError, match="unknown method 'lrp'; there are guided, gradient, deconvnet"):
        exporter.build(model, torch.zeros(1, 3, 16, 16), "lrp")


def test_an_export_leaves_a_network_in_training_as_it_was(tmp_path: Path) -> None:
    """Its mode, and the running statistics, which a forward pass in training mode would move."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    artifact = exporter.export(model, (1, 4, 4), tmp_path / "a")
    assert all(module.training for module in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert exporter.verify(tmp_path / "a", model).seed == artifact.manifest["seed"]
