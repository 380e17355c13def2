"""Networks as users write them, each with one habit that a compiler may stumble over: proven, and held to an oracle."""

from __future__ import annotations

import itertools
import operator
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


def attended(net: Any, x: Tensor) -> Tensor:
    scores = net.first(x)
    return net.second(F.softmax(scores.float(), -1).type_as(scores).relu())


def quantized(dtype: torch.dtype) -> nn.Module:
    net = Written(lambda net, x: F.relu(F.linear(x, net.table.float() * 0.01)))
    net.register_buffer("table", torch.randint(-127, 127, (3, 8), dtype=dtype))
    return net


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
    return factory().eval(), shape


@pytest.mark.parametrize("method", ["guided", "gradient"])
@pytest.mark.parametrize("name", NETWORKS)
def test_user_networks(name: str, method: str, tmp_path: Path) -> None:
    model, shape = made(name)
    image, target = torch.randn(3, *shape), torch.tensor([-1, 2, 0])
    logits, attribution = attribute(model, image, target, method)
    assert attribution.isfinite().all()
    exporter.export(model, shape, tmp_path / "a", method=method)
    for runtime in RUNTIMES:
        found = exporter.load(tmp_path / "a", runtime)(image.numpy(), target.numpy())
        assert (found.logits.dtype, found.attribution.dtype) == (np.float32, np.float32)
        np.testing.assert_allclose(found.logits, logits.detach(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.attribution, attribution, rtol=1e-5, atol=1e-6)
    built = exporter.build(model, image, method)
    for ours, theirs in zip(built(image, target), (logits, attribution), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("opset", [17, 18, 23])
def test_pools_in_float16(opset: int, target: str, tmp_path: Path) -> None:
    """Maxima that a runtime has not rounded yet equal no tap that it has."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
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


def test_keep_selects_or_multiplies() -> None:
    """Both are the rule; they differ where nothing passes and the cotangent is infinite."""
    from exporter.methods import METHODS, selected

    g, active = torch.tensor([2.0, -2.0, 2.0, torch.inf, -torch.inf]), torch.tensor([True, True, False, False, True])
    for method in METHODS.values():
        chosen, product = method.rule(g, active, selected), method.rule(g, active, operator.mul)
        assert torch.equal(chosen[:3], product[:3])
        assert not chosen.isnan().any()
