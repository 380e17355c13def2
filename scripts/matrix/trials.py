"""The trials: an artifact, a forward-only one of the same network, inputs, and what live autograd says of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

METHODS = ("guided", "gradient", "deconvnet")


MODELS = (
    ("cifar_resnet20", 32, METHODS),
    ("resnet18", 64, METHODS),
    ("mobilenet_v2", 64, METHODS),
    ("resnet18", 224, METHODS[:1]),
    ("mobilenet_v2", 224, METHODS[:1]),
)
"""Network, height and width of its images, and the methods whose parity is looked at; latency is guided's."""

QUICK = 2
"""How many of them ``--quick`` takes."""

BATCHES = (1, 5)
TOLERANCE = 1e-5
"""Relative L2 error above which a runtime disagrees, in the median or in a sample that no rounding can excuse."""


PLAIN = "forward.onnx"
"""What torch exports, for a benchmark that opens no artifact of it."""


class NotRun(Exception):
    """Why a runtime has no results, in a few words."""


@dataclass(frozen=True)
class Row:
    """One runtime's results for one artifact.

    Attributes:
        runtime: Its name, with the language that it was called from.
        version: Its version.
        model: The network.
        image: Height and width of its images.
        method: Of attribution.
        median: Relative L2 error of the samples' attributions, median.
        worst: The largest.
        decided: The largest of the samples in which no comparison hangs on rounding; None where there is none.
        explained: Milliseconds of a call that predicts and explains one image, median; None where it was not measured.
        forward: The same of the forward-only model.
        mib: Size of the runtime, installed.
        reason: Why there are no results; empty where there are.
    """

    runtime: str
    version: str
    model: str
    image: int
    method: str
    median: float | None = None
    worst: float | None = None
    decided: float | None = None
    explained: float | None = None
    forward: float | None = None
    mib: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Trial:
    """An artifact, a forward-only one of the same network, and what live autograd says.

    Attributes:
        model: The network.
        image: Height and width.
        method: Of attribution.
        artifact: Folder.
        tuned: Folder of the same, made with ``--optimize-for openvino``; its ONNX file alone.
        forward: Folder of the forward-only artifact; None where latency is not measured.
        inputs: The batches, as the worker reads them.
        expected: Live autograd's attributions of all samples.
        undecided: In how many comparisons of each sample rounding can flip what live autograd does.
    """

    model: str
    image: int
    method: str
    artifact: Path
    tuned: Path
    forward: Path | None
    inputs: Path
    expected: Any
    undecided: Any


def batches(trial: Trial) -> Iterator[tuple[Any, Any]]:
    """Return a trial's batches: images and targets."""
    with np.load(trial.inputs) as found:
        for index in range(len(BATCHES)):
            yield found[f"image_{index}"], found[f"target_{index}"]


def prepare(name: str, image: int, method: str, folder: Path) -> Trial:
    """Export an artifact, a forward-only one beside it, and ask live autograd."""
    import torch

    import exporter
    from exporter.reference import live
    from exporter.sources import resolve

    torch.set_num_threads(1)
    source = resolve(name, sample_shape=(3, image, image))
    artifact = exporter.export(source.model, source.sample_shape, folder / "artifact", method=method)
    tuned = folder / "tuned"
    exporter.export(source.model, source.sample_shape, tuned, method=method, formats=["onnx"], optimize_for="openvino")
    generator = torch.Generator().manual_seed(1)
    arrays, expected, undecided = {}, [], []
    for index, size in enumerate(BATCHES):
        images = torch.randn(size, *source.sample_shape, generator=generator)
        target = torch.tensor([-1 if place % 2 == 0 else place for place in range(size)])
        arrays[f"image_{index}"], arrays[f"target_{index}"] = images.numpy(), target.numpy()
        _, (attribution,), counts = live(source.model, images, target, method)
        expected += list(attribution.numpy())
        undecided += counts.tolist()
    np.savez(folder / "inputs.npz", **arrays)
    forward = None
    if method == METHODS[0]:
        forward = folder / "forward"
        write_forward(source.model, images[:2], artifact.manifest, forward)
    return Trial(name, image, method, artifact.folder, tuned, forward, folder / "inputs.npz", expected, undecided)


def write_forward(model: Any, images: Any, manifest: Mapping[str, Any], folder: Path) -> None:
    """Write an artifact that only predicts: what torch itself exports, with the image handed back as the attribution.

    So every program measures it through its own door, and what is compared is the work of explaining.
    """
    import onnx
    import torch

    from exporter.artifact import SEAL, describe, write_manifest

    class Forward(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, image: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.model(image), image

    folder.mkdir()
    sizes = ({0: torch.export.Dim("batch")},)
    names = {"input_names": ["image"], "output_names": ["logits"]}
    program = torch.onnx.export(
        model, (images,), dynamo=True, dynamic_shapes=sizes, opset_version=18, verbose=False, **names
    )
    proto = program.model_proto
    onnx.save(proto, folder.parent / PLAIN)
    proto.ir_version = 8  # as old as its opset, so that the oldest runtime loads it
    proto.graph.input.append(onnx.helper.make_tensor_value_info("target", onnx.TensorProto.INT64, ["batch"]))
    proto.graph.node.append(onnx.helper.make_node("Identity", ["image"], ["attribution"]))
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info("attribution", onnx.TensorProto.FLOAT, ["batch", *images.shape[1:]])
    )
    onnx.save(proto, folder / "model.onnx")
    traced = torch.jit.trace(Forward().eval(), (images, torch.zeros(len(images), dtype=torch.int64)))
    torch.jit.freeze(traced).save(folder / "model.pt")
    files = {"torchscript": describe(folder / "model.pt"), "onnx": describe(folder / "model.onnx")}
    write_manifest(folder, {**{key: value for key, value in manifest.items() if key != SEAL}, "files": files})


def judge(runtime: str, released: str, trial: Trial, found: Sequence[Any]) -> Row:
    """Hold what a runtime returned against live autograd."""
    errors = relative_l2([sample for batch in found for sample in batch], trial.expected)
    decided = [error for error, count in zip(errors, trial.undecided, strict=True) if count == 0]
    row = Row(runtime, released, trial.model, trial.image, trial.method, float(np.median(errors)), max(errors))
    return dataclasses.replace(row, decided=max(decided, default=None))


def relative_l2(found: Sequence[Any], expected: Sequence[Any]) -> list[float]:
    """Return ``|found - expected| / |expected|`` of each sample."""
    return [
        float(np.linalg.norm(np.ravel(one - other)) / np.linalg.norm(other))
        for one, other in zip(found, expected, strict=True)
    ]
