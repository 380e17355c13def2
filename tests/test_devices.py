"""Where models and sessions may be, as far as a machine without a GPU can tell: ``test_cuda.py`` is for the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
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
    folder = tmp_path_factory.mktemp("devices") / "artifact"
    return exporter.export(SOURCE.model, SOURCE.sample_shape, folder, optimize_for="cuda")


def test_a_device_that_is_not_there_is_named(artifact: exporter.Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(exporter.UsageError, match="unknown device 'tpu'; there are cpu, cuda"):
        exporter.load(artifact.folder, device="tpu")
    with pytest.raises(exporter.UsageError, match="finds no CUDA device here"):
        exporter.load(artifact.folder, "torchscript", device="cuda")
    with pytest.raises(exporter.UsageError, match=r"has no CUDAExecutionProvider; .*onnxruntime-gpu\[cuda,cudnn\]"):
        exporter.load(artifact.folder, device="cuda")


Pretend = Callable[[Callable[[Any], bool] | None], None]
"""Takes what tells which nodes have no GPU kernel; None: there is no GPU."""


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Let onnxruntime seem to have a GPU; its sessions run on the CPU and say what a function makes of their nodes."""
    opened = onnxruntime.InferenceSession

    def start(without_kernel: Callable[[Any], bool] | None) -> None:
        def open_session(path: Path, options: Any, providers: Any, enable_fallback: bool) -> Any:
            assert providers == [("CUDAExecutionProvider", {"use_tf32": "0"})]
            assert not enable_fallback
            session = opened(path, options, providers=["CPUExecutionProvider"])
            if without_kernel is not None:
                nodes = [node for part in session.get_provider_graph_assignment_info() for node in part.get_nodes()]
                parts = [
                    SimpleNamespace(
                        ep_name="CPUExecutionProvider" if without_kernel(node) else "CUDAExecutionProvider",
                        get_nodes=lambda node=node: [node],
                    )
                    for node in nodes
                ]
                session.get_provider_graph_assignment_info = lambda: parts
                session.get_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
            return session

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
        monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)

    return start


def test_onnxruntime_may_not_take_the_cpu_for_a_session(artifact: exporter.Artifact, pretend: Pretend) -> None:
    """As it does where it finds no GPU."""
    pretend(None)
    with pytest.raises(exporter.UsageError, match="cannot start its CUDAExecutionProvider"):
        exporter.load(artifact.folder, device="cuda")


def test_onnxruntime_may_not_take_the_cpu_for_an_operator(artifact: exporter.Artifact, pretend: Pretend) -> None:
    pretend(lambda node: node.op_type in ("Gemm", "MatMul"))
    with pytest.raises(
        exporter.UsageError, match=r"would run Gemm.* of model\.onnx on the CPU, at \w+.*; load torchscript instead"
    ):
        exporter.load(artifact.folder, device="cuda")
    pretend(lambda node: False)
    assert exporter.load(artifact.folder, device="cuda").classes == 10


@pytest.mark.parametrize("dynamic", [("batch",), ("batch", "height", "width")])
def test_onnxruntime_takes_the_cpu_for_sizes(dynamic: tuple[str, ...], tmp_path: Path, pretend: Pretend) -> None:
    """It does so on purpose, and needs no copies for it; what depends on images is another matter."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    settings = {"formats": ["onnx"], "optimize_for": "portable", "dynamic": dynamic}
    artifact = exporter.export(net.eval(), (3, 8, 8), tmp_path / "artifact", **settings)
    of_sizes = _of_sizes(artifact)
    assert {"Shape", "Concat"} <= set(of_sizes.values())
    assert ("Mod" in of_sizes.values()) == (len(dynamic) > 1)  # sizes of feature maps, computed from the image's
    seen = set()

    def without_kernel(node: Any) -> bool:
        seen.update({of_sizes.get(node.name)})
        return node.name in of_sizes

    pretend(without_kernel)
    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)
    found = exporter.load(artifact.folder, device="cuda")(image, [-1, 1])
    assert found.attribution.any()
    assert {"Shape", "Concat"} <= seen  # by their names in the session, which optimizes the file first
    pretend(lambda node: node.op_type == "ScatterElements")  # it makes the cotangent of the logits, by the target
    with pytest.raises(exporter.UsageError, match="would run ScatterElements of"):
        exporter.load(artifact.folder, device="cuda")


def _of_sizes(artifact: exporter.Artifact) -> dict[str, str]:
    """Return the nodes that compute vectors of whole numbers, but for those by which the target is found."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(artifact.folder / "model.onnx")).graph
    types = {value.name: value.type.tensor_type for value in graph.value_info}
    return {
        node.name: node.op_type
        for node in graph.node
        if node.output[0] in types
        and types[node.output[0]].elem_type == onnx.TensorProto.INT64
        and len(types[node.output[0]].shape.dim) < 2
        and node.op_type not in ("ArgMax", "Cast", "ReduceMax", "Where")
    }


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "none"])
def test_only_a_file_for_a_gpu_is_taken(target: str, tmp_path: Path, pretend: Pretend) -> None:
    artifact = exporter.export(
        SOURCE.model, SOURCE.sample_shape, tmp_path / "artifact", formats=["onnx"], optimize_for=target
    )
    pretend(lambda node: False)
    with pytest.raises(exporter.UsageError, match=f"optimized for '{target}', .*--optimize-for cuda,"):
        exporter.load(artifact.folder, device="cuda")


@pytest.mark.parametrize(
    ("conv", "wrong"),
    [
        (nn.Conv2d(4, 4, 1, stride=2, groups=4), True),
        (nn.Conv2d(4, 4, 1, stride=(1, 2), groups=2), True),
        (nn.Conv2d(4, 4, 3, stride=2, groups=4), False),
        (nn.Conv2d(4, 4, 1, stride=2), False),
        (nn.Conv2d(4, 4, 1, groups=4), False),
    ],
)
def test_what_a_gpu_computes_wrongly_is_refused(
    conv: nn.Module, wrong: bool, tmp_path: Path, pretend: Pretend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it takes the GPU's memory."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    settings = {"formats": ["onnx"], "optimize_for": "cuda"}
    artifact = exporter.export(net.eval(), (3, 8, 8), tmp_path / "artifact", **settings)
    pretend(lambda node: False)
    if wrong:
        monkeypatch.setattr(onnxruntime, "InferenceSession", None)
        with pytest.raises(exporter.UsageError, match=r"may compute 2 of model\.onnx wrongly on a GPU.*; load torch"):
            exporter.load(artifact.folder, device="cuda")
    else:
        assert exporter.load(artifact.folder, device="cuda").classes == 4


def test_an_old_onnxruntime_is_refused(
    artifact: exporter.Artifact, monkeypatch: pytest.MonkeyPatch, pretend: Pretend
) -> None:
    pretend(lambda node: False)
    monkeypatch.setattr(onnxruntime, "__version__", "1.30.2")
    with pytest.raises(exporter.UsageError, match=r"1\.30\.2 is too old for a GPU; .*onnxruntime-gpu 1\.31 or later"):
        exporter.load(artifact.folder, device="cuda")


def test_other_errors_of_onnxruntime_are_passed_on(
    artifact: exporter.Artifact, monkeypatch: pytest.MonkeyPatch, pretend: Pretend
) -> None:
    def fails(*args: Any, **settings: Any) -> Any:
        raise RuntimeError("CUDA failure 2: out of memory")

    pretend(lambda node: False)
    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    with pytest.raises(exporter.ArtifactError, match=r"does not load model\.onnx on a GPU: CUDA failure 2"):
        exporter.load(artifact.folder, device="cuda")


def test_a_file_that_is_no_onnx_file(tmp_path: Path, pretend: Pretend) -> None:
    pretend(lambda node: False)
    (tmp_path / "model.onnx").write_bytes(b"no such thing")
    with pytest.raises(exporter.ArtifactError, match=r"onnx .* does not load model\.onnx"):
        runtime.open_session(tmp_path / "model.onnx", "onnxruntime", device="cuda")


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
