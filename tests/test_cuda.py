"""The written files on an NVIDIA GPU: both runtimes return there what live autograd returns on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import exporter
from exporter import cuda
from exporter.canonicalize import canonicalize
from exporter.capture import capture
from exporter.differentiate import differentiate
from exporter.methods import METHODS
from exporter.parity import relative_l2
from exporter.pipeline import write
from exporter.runtime import RUNTIMES, open_session
from tests.emit.networks import BODIES, IMAGE, explicit, inputs, live
from tests.emit.networks import network as body
from tests.networks import Unet
from tests.oracle import attribute, decided_images
from tests.test_parity import CLASSES, network

REFUSED = {"inverse hyperbolic functions", "angles", "a size as a tensor"}
"""Networks with operators that onnxruntime does not run on a GPU."""

UNORDERED = {"written twice by index"}
"""Networks whose result PyTorch itself leaves open on a GPU."""

if unknown := (REFUSED | UNORDERED) - BODIES.keys():  # found where there is no GPU too
    raise ValueError(f"no such networks: {unknown}")

if not torch.cuda.is_available():
    pytest.skip("needs an NVIDIA GPU and a build of torch for it", allow_module_level=True)


class Way(NamedTuple):
    """A runtime, and what an ONNX file for it is optimized for."""

    runtime: str
    optimize_for: str

    @property
    def format(self) -> str:
        return RUNTIMES[self.runtime]


WAYS = (Way("torchscript", "none"), *(Way("onnxruntime", target) for target in cuda.OPTIMIZED_FOR))


@pytest.fixture(params=WAYS, ids=["torchscript", *(f"onnxruntime, {target}" for target in cuda.OPTIMIZED_FOR)])
def way(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    if way.runtime == "onnxruntime" and cuda.PROVIDER not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu in the place of onnxruntime")
    return way


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "alexnet", "cifar_resnet20", "digits_cnn", "mlp"]
)
def test_written_files_equal_live_autograd(name: str, way: Way, tmp_path: Path) -> None:
    model, shape = network(name)
    images = decided_images(model, 9, shape)
    program = canonicalize(capture(model, images))
    for method, rule in METHODS.items():
        path = tmp_path / method
        write(differentiate(program, rule), way.format, path, optimize_for=way.optimize_for)
        session = open_session(path, way.runtime, device="cuda")
        for image, target in ((images[:1], [-1]), (images[1:], [4, -1, CLASSES - 1, 0, 1, 2, 3, -1])):
            logits, attribution = attribute(model, image, torch.tensor(target), method)
            result = session(image.numpy(), target)
            where = f"{method}, target {target}"
            assert max(relative_l2(result.logits, logits.numpy())) < 1e-5, where
            assert max(relative_l2(result.attribution, attribution.numpy())) < 1e-5, where


@pytest.mark.usefixtures("any_network")
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", [name for name in BODIES if name not in UNORDERED])
def test_every_operator_equals_live_autograd(name: str, way: Way, tmp_path: Path) -> None:
    program = explicit(name)
    write(program, way.format, tmp_path / "model", optimize_for=way.optimize_for)
    if way.runtime == "onnxruntime" and name in REFUSED:
        with pytest.raises(exporter.UsageError, match="on the CPU"):
            open_session(tmp_path / "model", way.runtime, device="cuda")
        return
    session = open_session(tmp_path / "model", way.runtime, device="cuda")
    image, target = inputs(3, IMAGE, program.outputs[0].meta["val"].shape[1])
    expected = live(body(name), image, target)
    for ours, theirs in zip(session(image.numpy(), target.numpy()), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dynamic", [("batch",), ("batch", "height", "width")])
def test_an_artifact_is_loaded_and_refuses_a_target(
    dynamic: tuple[str, ...], dtype: str, way: Way, tmp_path: Path
) -> None:
    if (way.runtime, dtype) == ("onnxruntime", "float64"):
        pytest.skip("onnxruntime has no Conv in float64 on a CPU, where the artifact is proven")
    torch.manual_seed(0)
    model: nn.Module = Unet().to(getattr(torch, dtype)).eval()
    settings = {"formats": [way.format], "optimize_for": way.optimize_for, "dynamic": dynamic, "dtype": dtype}
    artifact = exporter.export(model, (3, 8, 8), tmp_path / "artifact", **settings)
    on_cpu = exporter.load(artifact.folder, way.runtime)
    session = exporter.load(artifact.folder, way.runtime, device="cuda")
    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(dtype)
    for ours, theirs in zip(session(image, [-1, 2]), on_cpu(image, [-1, 2]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    with pytest.raises(exporter.UsageError, match="a target is outside"):
        session(image, [0, 3])


class Pair(nn.Module):
    """Compare two images of different sizes, one of them under a mask of booleans."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(1, 4, 3, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        left = torch.relu(self.left(left)).mean((2, 3)) * mask
        return self.head(torch.cat([left, torch.relu(self.right(right)).amax((2, 3))], 1))


def test_an_artifact_of_several_inputs_is_loaded(way: Way, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = [
        exporter.Input("left", (3, 8, 8)),
        exporter.Input("right", (1, 9, 7)),
        exporter.Input("mask", (4,), "bool"),
    ]
    settings = {"formats": [way.format], "optimize_for": way.optimize_for}
    artifact = exporter.export(Pair().eval(), inputs, tmp_path / "artifact", **settings)
    generator = np.random.default_rng(0)
    given = {
        "left": generator.standard_normal((2, 3, 8, 8), np.float32),
        "right": generator.standard_normal((2, 1, 9, 7), np.float32),
        "mask": generator.integers(0, 2, (2, 4)).astype(bool),
    }
    logits, maps = exporter.load(artifact.folder, way.runtime)(given, [-1, 2])
    found, on_gpu = exporter.load(artifact.folder, way.runtime, device="cuda")(given, [-1, 2])
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)
    assert isinstance(maps, dict)
    assert isinstance(on_gpu, dict)
    assert list(on_gpu) == ["left", "right"]
    for name, expected in maps.items():
        assert expected.any()
        np.testing.assert_allclose(on_gpu[name], expected, rtol=1e-4, atol=1e-5)
