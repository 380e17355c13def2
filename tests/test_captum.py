"""Against Captum, on networks of the one kind that it rewrites: every rectifier an ``nn.ReLU`` of its own."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from captum.attr import Deconvolution, GuidedBackprop, Saliency
from torch import nn

import exporter
from exporter.parity import relative_l2
from tests.oracle import decided_images

PEERS = {"guided": GuidedBackprop, "deconvnet": Deconvolution, "gradient": Saliency}


def captum(method: str, model: nn.Module, images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    options = {"abs": False} if method == "gradient" else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum says that it sets hooks
        return PEERS[method](model).attribute(images.clone().requires_grad_(), target=target, **options).detach()


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 12, 3, 2, 1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(48, 16),
        nn.ReLU(),
        nn.Linear(16, 6),
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu1(self.stem(x))
        x = self.relu2(self.conv(x) + x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("method", PEERS)
@pytest.mark.parametrize("network", [plain, Residual])
def test_artifacts_equal_captum(network, method: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = network().eval()
    images = decided_images(model, 3, (3, 16, 16))
    target = torch.tensor([1, 5, 0])
    expected = captum(method, model, images, target)
    exporter.export(model, (3, 16, 16), tmp_path, method=method)
    for runtime in ("onnxruntime", "torchscript"):
        found = exporter.load(tmp_path, runtime)(images.numpy(), target.numpy())
        assert max(relative_l2(found.attribution, expected.numpy())) < 1e-5


def test_captum_misses_what_saliport_sees(tmp_path: Path) -> None:
    """A functional rectifier: Captum gives the plain gradient without a word, the artifact the guided one."""

    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 9), nn.Linear(9, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x)))

    torch.manual_seed(5)
    model = Functional().eval()
    x = torch.randn(2, 6)
    peers = [captum(method, model, x, torch.tensor([1, 1])) for method in ("guided", "gradient")]
    assert torch.equal(*peers)
    exporter.export(model, (6,), tmp_path)
    found = exporter.load(tmp_path)(x.numpy(), 1).attribution
    assert min(relative_l2(found, peers[0].numpy())) > 0.1
