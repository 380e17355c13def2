"""The written files on an NVIDIA GPU: both runtimes return there what live autograd returns on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import exporter
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

if not torch.cuda.is_available():
    pytest.skip("needs an NVIDIA GPU and a build of torch for it", allow_module_level=True)


@pytest.fixture(params=list(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "onnxruntime" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu in the place of onnxruntime")
    return name


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "vgg11_bn", "mobilenet_v2", "alexnet", "cifar_resnet20", "digits_cnn", "mlp"]
)
def test_written_files_equal_live_autograd(name: str, runtime: str, tmp_path: Path) -> None:
    model, shape = network(name)
    images = decided_images(model, 9, shape)
    program = canonicalize(capture(model, images))
    for method, rule in METHODS.items():
        path = tmp_path / method
        write(differentiate(program, rule), RUNTIMES[runtime], path, optimize_for="portable")
        session = open_session(path, runtime, device="cuda")
        for image, target in ((images[:1], [-1]), (images[1:], [4, -1, CLASSES - 1, 0, 1, 2, 3, -1])):
            logits, attribution = attribute(model, image, torch.tensor(target), method)
            result = session(image.numpy(), target)
            where = f"{method}, target {target}"
            assert max(relative_l2(result.logits, logits.numpy())) < 1e-5, where
            assert max(relative_l2(result.attribution, attribution.numpy())) < 1e-5, where


@pytest.mark.usefixtures("any_network")
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", BODIES)
def test_every_operator_equals_live_autograd(name: str, runtime: str, tmp_path: Path) -> None:
    program = explicit(name)
    write(program, RUNTIMES[runtime], tmp_path / "model", optimize_for="portable")
    session = open_session(tmp_path / "model", runtime, device="cuda")
    image, target = inputs(3, IMAGE, program.outputs[0].meta["val"].shape[1])
    expected = live(body(name), image, target)
    for ours, theirs in zip(session(image.numpy(), target.numpy()), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dynamic", [("batch",), ("batch", "height", "width")])
def test_an_artifact_is_loaded_and_refuses_a_target(
    dynamic: tuple[str, ...], dtype: str, runtime: str, tmp_path: Path
) -> None:
    if (runtime, dtype) == ("onnxruntime", "float64"):
        pytest.skip("onnxruntime has no Conv in float64 on a CPU, where the artifact is proven")
    torch.manual_seed(0)
    model: nn.Module = Unet().to(getattr(torch, dtype)).eval()
    settings = {"formats": [RUNTIMES[runtime]], "optimize_for": "portable", "dynamic": dynamic, "dtype": dtype}
    artifact = exporter.export(model, (3, 8, 8), tmp_path / "artifact", **settings)
    on_cpu = exporter.load(artifact.folder, runtime)
    session = exporter.load(artifact.folder, runtime, device="cuda")
    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(dtype)
    for ours, theirs in zip(session(image, [-1, 2]), on_cpu(image, [-1, 2]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    with pytest.raises(exporter.UsageError, match="a target is outside"):
        session(image, [0, 3])
