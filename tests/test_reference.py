"""``exporter/reference.py``: what the judge does with networks that cast, and with rectifiers of what is no batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import exporter
from exporter.methods import METHODS
from exporter.reference import live


class Coordinates(nn.Module):
    """Adds where pixels are, computed in the image's dtype, as CoordConv does (arXiv:1807.03247)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(5, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        down = torch.arange(height).float().type_as(x) / (height - 1) * 2 - 1
        across = torch.arange(width).to(x) / 7 + torch.arange(width, dtype=x.dtype) / 3
        radius = torch.sqrt(down[:, None].to(x.dtype) ** 2 + (across - 0.3) ** 2).sqrt().to(dtype=x.dtype)
        maps = torch.stack([radius, (down[:, None] * across).cos()]).expand(batch, -1, -1, -1)
        x = F.relu(self.body(torch.cat([x, maps], 1)))
        return self.head((x * (radius / 3)).mean((2, 3)))


class Casting(nn.Module):
    """Computes in float32 whatever it is given, as many a normalisation does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = x * x.float().square().mean(1, keepdim=True).rsqrt().type_as(x)
        x = x + F.softmax(x, 1, dtype=torch.float32).to(x.dtype) + x.to(torch.float32).exp().type_as(x)
        return self.last(x)


@pytest.mark.parametrize("twin", [False, True])
@pytest.mark.parametrize("length", [16, 17])
@pytest.mark.parametrize("cast", [False, True])
def test_attention_in_float64_with_a_mask_of_float32(length: int, twin: bool, cast: bool) -> None:
    """PyTorch's own fused attention reads the mask's memory as if it were of float64."""
    torch.manual_seed(0)
    x = torch.randn(2, 2, length, 4, dtype=torch.float64)
    mask = torch.full((length, length), float("-inf")).triu(3)

    def attend(x: Tensor) -> Tensor:
        given = mask.type_as(x) if cast else mask
        return F.scaled_dot_product_attention(x, x, x, attn_mask=given).sum(2).flatten(1)

    logits, _, _ = live(attend, x, torch.tensor([0, 1]), "guided", twin=twin)
    expected = ((x @ x.mT / 2 + mask).softmax(-1) @ x).sum(2).flatten(1)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


class Banded(nn.Module):
    """Lets steps see the three before them, with a mask that is made for each input."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones(x.shape[1], x.shape[1], dtype=x.dtype)
        mask = torch.zeros_like(ones).masked_fill((ones.triu(1) + ones.tril(-4)) > 0, float("-inf"))
        x = x + self.attention(x, x, x, attn_mask=mask.to(x.dtype), need_weights=False)[0]
        return self.head(self.body(F.relu(x), mask.float()).mean(1))


class Filled(nn.Module):
    """Writes into constants that it makes, in place and through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.register_buffer("table", torch.arange(8.0) / 7)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(x.shape[0], 8).type_as(x)
        out[:, :4] = x * 3
        out[:, 4:6].copy_(x[:, :2].relu())
        out += torch.cat([x, x.square()], 1)
        return self.head(out * self.table.to(x.dtype, copy=True).mul_(2))


@pytest.mark.parametrize(("network", "shape"), [(Banded, (16, 8)), (Filled, (4,))])
def test_what_is_made_in_float32_is_proven_in_float64(
    network: type[nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    artifact = exporter.export(network().eval(), shape, tmp_path / "a")
    exact = [one for one in artifact.manifest["parity"]["runtimes"] if one["dtype"] == "float64"]
    assert len(exact) == 2
    assert all(one["relative_l2"]["worst"] < 1e-10 for one in exact)


def test_in_float64_a_network_does_not_round_where_it_casts(tmp_path: Path) -> None:
    model = Casting().eval()
    artifact = exporter.export(model, (6,), tmp_path / "a", formats=["torchscript"])
    (double,) = [runtime for runtime in artifact.manifest["parity"]["runtimes"] if runtime["dtype"] == "float64"]
    assert double["relative_l2"]["worst"] < 1e-13
    images, target = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 1, 2, -1])
    cast, _, _ = live(model.double(), images, target, "guided")
    assert not torch.equal(cast, model(images))  # on its own it rounds
    torch.testing.assert_close(cast, model(images).double(), rtol=1e-5, atol=1e-5)


class Table(nn.Module):
    """Adds what a rectifier makes of a table that is as long as no batch, and folds halves into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.full((7, 2), 1e-9) * torch.tensor([1.0, 1e9]))
        self.last = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        halves = x.reshape(-1, 4).relu().reshape(-1, 8)
        return self.last(self.table.relu().sum(1) + halves[:, :7])


@pytest.mark.parametrize("batch", [2, 3])
def test_every_sample_has_the_decisions_of_what_no_sample_owns(batch: int, tmp_path: Path) -> None:
    model = Table().eval()
    images = torch.ones(batch, 8)
    images[1, 6] = 1e-9
    _, _, undecided = live(model, images, torch.zeros(batch, dtype=torch.int64), "guided")
    assert undecided.tolist() == [7, 8, 7][:batch]
    exporter.export(model, (8,), tmp_path / "a")


class Looking(nn.Module):
    """Looks rows up in a table, by whole numbers that it clamps as a rectifier would."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(9, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        row = F.relu6((torch.arange(6) - 3).clamp(min=0)) + F.relu(torch.arange(6) - 4)
        return self.last(torch.relu(x + self.table(row)[:, 0]))


@pytest.mark.parametrize("method", METHODS)
def test_whole_numbers_are_no_rectifiers(method: str, tmp_path: Path) -> None:
    artifact = exporter.export(Looking(), (6,), tmp_path / "a", method=method)
    assert artifact.manifest["method"]["rectifiers"] == {"relu": 1}


class Forgets(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, *grads: Tensor) -> None:
        return None


def test_a_norm_to_which_nothing_flows_back() -> None:
    def model(x: Tensor) -> Tensor:
        return (Forgets.apply(F.instance_norm(x)) + x).sum((1, 2))[:, None]

    _, (found,), _ = live(model, torch.randn(2, 3, 4), torch.zeros(2, dtype=torch.int64), "guided")
    assert torch.equal(found, torch.ones(2, 3, 4))


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "batch_norm": lambda x: F.batch_norm(x, torch.zeros(2).to(x), torch.tensor([0.5, 2.0]).to(x)),
    "torch.batch_norm": lambda x: torch.batch_norm(
        x, None, None, torch.zeros(2).to(x), torch.tensor([0.5, 2.0]).to(x), False, 0.1, 1e-5, False
    ),
    "instance_norm": lambda x: F.instance_norm(x),
    "torch.instance_norm": lambda x: torch.instance_norm(x, None, None, None, None, True, 0.1, 1e-5, False),
}
JOINED: dict[str, Callable[[Tensor], Tensor]] = {
    "einsum": lambda x: torch.einsum("nchw,nchv->nhwv", x, x.relu()),
    "permute": lambda x: x.permute(0, 2, 3, 1).reshape(len(x), -1) ** 2,
}


@pytest.mark.parametrize("join", JOINED)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_of_norms_are_finite_differences(norm: str, join: str, batch: int) -> None:
    def model(x: Tensor) -> Tensor:
        y = JOINED[join](NORMS[norm](x)).flatten(1)
        return y @ torch.linspace(-1, 1, y.shape[1], dtype=x.dtype)[:, None]

    images = torch.randn(batch, 2, 2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, (found,), _ = live(model, images, torch.zeros(batch, dtype=torch.int64), "gradient")
    steps = 1e-6 * torch.eye(images[0].numel(), dtype=torch.float64).reshape(-1, 1, *images.shape[1:])
    expected = torch.cat([(model(images + step) - model(images - step)) / 2e-6 for step in steps], 1)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-6, atol=1e-6)


def test_constants_that_are_cast_have_the_digits_of_float32(tmp_path: Path) -> None:
    """In a capture of float32 the cast is none, so that what is computed of it alone is in float32."""
    artifact = exporter.export(Coordinates().eval(), (3, 6, 6), tmp_path / "a", dynamic=("batch", "height"))
    exact = [one for one in artifact.manifest["parity"]["runtimes"] if one["dtype"] == "float64"]
    assert len(exact) == 2
    assert all(one["relative_l2"]["worst"] < 1e-13 for one in exact)


def test_a_product_takes_no_two_dtypes() -> None:
    """Then constants are cast as the network says, with the digits of float32."""

    def model(x: Tensor) -> Tensor:
        weights = torch.arange(6).float().type_as(x) / 7
        return torch.outer(x @ weights, F.linear(weights, weights[None]))

    x = torch.randn(2, 6, dtype=torch.float64)
    logits, (attribution,), _ = live(model, x, torch.tensor([0, 0]), "guided", twin=True)
    weights = torch.arange(6).double() / 7
    torch.testing.assert_close(attribution, (weights * weights.square().sum()).expand(2, 6), rtol=1e-12, atol=0)
    torch.testing.assert_close(logits, (x @ weights)[:, None] * weights.square().sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("settings", [(0.5, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_another_threshold_is_no_rectifier(settings: tuple[float, float]) -> None:
    def model(x: Tensor) -> Tensor:
        return (F.threshold(x, *settings) * torch.tensor([1.0, -1, 1, -1])).sum(1, keepdim=True)

    image = torch.tensor([[-2.0, 0.25, 0.75, 2.0]])
    logits, (found,), _ = live(model, image, torch.tensor([0]), "guided")
    assert torch.equal(logits, model(image))
    assert torch.equal(found, torch.autograd.functional.jacobian(lambda x: model(x).sum(), image))


class Scattered(nn.Module):
    """Adds to a constant by index, which takes no two dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(4).expand(x.shape[0], 4)
        return self.head(torch.zeros(x.shape[0], 8).type_as(x).scatter_add_(1, places, x).relu())


def test_what_takes_no_two_dtypes_is_proven_in_float32(tmp_path: Path) -> None:
    parity = exporter.export(Scattered().eval(), (4,), tmp_path / "a").manifest["parity"]
    assert "Expected self.dtype to be equal to src.dtype" in parity["skipped"]
    assert {one["dtype"] for one in parity["runtimes"]} == {"float32"}
