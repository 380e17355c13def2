"""Where models and sessions may be, as far as a machine without a GPU can tell: ``test_cuda.py`` is for the rest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import exporter
from exporter import cuda, runtime
from exporter.sources import resolve

SOURCE = resolve("mlp")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> exporter.Artifact:
    return exporter.export(SOURCE.model, SOURCE.sample_shape, tmp_path_factory.mktemp("devices") / "artifact")


def test_a_device_that_is_not_there_is_named(artifact: exporter.Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(exporter.UsageError, match="unknown device 'tpu'; there are cpu, cuda"):
        exporter.load(artifact.folder, device="tpu")
    with pytest.raises(exporter.UsageError, match="finds no CUDA device here"):
        exporter.load(artifact.folder, "torchscript", device="cuda")
    with pytest.raises(exporter.UsageError, match=r"has no CUDAExecutionProvider; .*onnxruntime-gpu\[cuda,cudnn\]"):
        exporter.load(artifact.folder, device="cuda")


@pytest.mark.parametrize(
    ("provider", "message"),
    [
        ("CUDAExecutionProvider", "cannot start its CUDAExecutionProvider"),
        ("CPUExecutionProvider", "on the CPU, for which it has no GPU kernel"),
    ],
)
def test_onnxruntime_may_not_take_the_cpu(
    provider: str, message: str, artifact: exporter.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for a session, as it does where it finds no GPU, nor for an operator without a GPU kernel.

    onnxruntime itself refuses the CPU here, in the words by which both are recognised. It is given none to start with,
    so what stands for the GPU is a provider that never starts, or one that does.
    """
    opened = onnxruntime.InferenceSession

    def without_a_gpu(path: Path, options: Any, providers: Any, **settings: Any) -> Any:
        assert providers == [(provider, {"use_tf32": "0"})]
        return opened(path, options, providers=[], **settings)

    assert cuda.PROVIDER == "CUDAExecutionProvider"
    monkeypatch.setattr(cuda, "PROVIDER", provider)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", without_a_gpu)
    with pytest.raises(exporter.UsageError, match=message):
        exporter.load(artifact.folder, device="cuda")


def test_other_errors_of_onnxruntime_are_passed_on(
    artifact: exporter.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **settings: Any) -> Any:
        raise RuntimeError("CUDA failure 2: out of memory")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    with pytest.raises(exporter.ArtifactError, match=r"does not load model\.onnx on a GPU: CUDA failure 2"):
        exporter.load(artifact.folder, device="cuda")


def test_on_a_gpu_the_session_refuses_a_target_itself(
    artifact: exporter.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu = runtime._torchscript
    monkeypatch.setattr(
        runtime, "_torchscript", lambda path, inputs, double, device: on_cpu(path, inputs, double, "cpu")
    )
    session = exporter.load(artifact.folder, "torchscript", device="cuda")
    image = np.zeros((2, *SOURCE.sample_shape), np.float32)
    classes = session(image, [-1, 0]).logits.shape[1]
    assert session(image, [classes - 1, -1]).logits.shape == (2, classes)
    for wrong in ([0, classes], [-2, 0]):
        with pytest.raises(exporter.UsageError, match=rf"a target is outside \[-1, {classes}\)"):
            session(image, wrong)


def test_tf32_is_off_for_a_call_alone() -> None:
    before = torch.backends.cudnn.allow_tf32
    with cuda.without_tf32():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
    with pytest.raises(ZeroDivisionError), cuda.without_tf32():
        raise ZeroDivisionError
    assert torch.backends.cudnn.allow_tf32 == before


class OnGpu(nn.Module):
    """Says that its weight is on a GPU."""

    def named_parameters(self, *args: Any, **settings: Any) -> Any:
        return iter([("fc.weight", SimpleNamespace(is_meta=False, device=torch.device("cuda:0")))])


def test_a_model_elsewhere_is_refused(artifact: exporter.Artifact, tmp_path: Path) -> None:
    for model, message in (
        (OnGpu(), r"OnGpu has fc\.weight on cuda:0; call model\.cpu\(\) first"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(784, 3)).to("meta"),
            r"has no values in 1\.weight, 1\.bias: on the meta device",
        ),
    ):
        with pytest.raises(exporter.UsageError, match=message):
            exporter.export(model, SOURCE.sample_shape, tmp_path / "artifact")
        with pytest.raises(exporter.UsageError, match=message):
            exporter.build(model, torch.zeros(1, *SOURCE.sample_shape))
        with pytest.raises(exporter.UsageError, match=message):
            exporter.verify(artifact.folder, model)
    assert not (tmp_path / "artifact").exists()
