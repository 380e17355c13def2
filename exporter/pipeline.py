"""The whole way: from a network to a module, and from there to proven files in a folder."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exporter import artifact
from exporter.artifact import FILES, SCHEMA, Artifact
from exporter.canonicalize import canonicalize
from exporter.capture import BATCH, IMAGE, capture
from exporter.differentiate import TARGET, differentiate
from exporter.emit import onnx as emit_onnx
from exporter.emit import torchscript as emit_torchscript
from exporter.errors import UsageError
from exporter.lowering import lower
from exporter.methods import METHODS, Method
from exporter.parity import Certificate, prove
from exporter.program import Program, to_module
from exporter.runtime import PREDICTED
from exporter.sources import weights_sha256

FORMATS = tuple(FILES)
OUTPUTS = ("logits", "attribution")
DEFAULT_OPSET = 18


@dataclass(frozen=True)
class Stage:
    """What one stage of an export cost.

    Attributes:
        name: ``capture``, ``differentiate``, ``emit torchscript``, ``emit onnx``, ``verify`` or ``write``.
        seconds: Wall time.
        peak_mib: The process's largest resident memory so far, in MiB.
    """

    name: str
    seconds: float
    peak_mib: float


@dataclass
class Stages:
    """Times the stages of an export, and tells a listener when each begins.

    Attributes:
        listener: Called with a stage's name as it begins.
        done: The stages so far.
    """

    listener: Callable[[str], None] = lambda name: None
    done: list[Stage] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block."""
        self.listener(name)
        start = time.perf_counter()
        yield
        self.done.append(Stage(name, time.perf_counter() - start, _peak_mib()))


def _peak_mib() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def build(model: nn.Module, example_input: Tensor, method: str = "guided") -> nn.Module:
    """Rewrite a network as one explicit module: forward pass, backward pass, no autograd.

    Args:
        model: A network that maps a tensor ``[N, ...]`` to logits ``[N, K]``; captured in eval mode.
        example_input: A batch of any size; only shape and dtype matter.
        method: ``guided``, ``gradient`` or ``deconvnet``; see :mod:`exporter.methods`.

    Returns:
        A module whose ``forward(image, target)`` returns ``(logits, attribution)``, for any batch size. It shares the
        network's tensors, under the network's names, and runs eagerly, under ``torch.jit.script`` and under
        ``torch.export``.

    Raises:
        UsageError: The method is unknown.
        UnsupportedModel: The network cannot be captured or does not return logits ``[N, K]``.
        UnsupportedOp: One of its operators has no rule.
    """
    program = canonicalize(capture(model, example_input))
    return to_module(lower(differentiate(program, method_named(method)), "torchscript"))


def method_named(name: str) -> Method:
    """Look up an attribution method.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in METHODS:
        raise UsageError(f"unknown method {name!r}; there are {', '.join(METHODS)}")
    return METHODS[name]


def export(
    model: nn.Module,
    sample_shape: Sequence[int],
    folder: str | Path,
    *,
    method: str = "guided",
    formats: Sequence[str] = FORMATS,
    opset: int = DEFAULT_OPSET,
    seed: int = 0,
    description: Mapping[str, Any] | None = None,
    stages: Stages | None = None,
) -> Artifact:
    """Build, write, prove and put in place an artifact.

    Args:
        model: A float32 network that maps ``[N, *sample_shape]`` to logits ``[N, K]``.
        sample_shape: One input's shape, without the batch.
        folder: Exactly this folder; an earlier artifact in it is replaced whole.
        method: See :func:`build`.
        formats: ``torchscript``, ``onnx`` or both.
        opset: Of the ONNX file, 17 to 23.
        seed: Of the inputs that the proof tries.
        description: Further entries for the manifest's ``model`` section, for example ``spec``.
        stages: Collects what each stage cost.

    Returns:
        The artifact; its manifest holds the parity certificate.

    Raises:
        UsageError: An argument is out of range, or the folder must not or cannot be written.
        UnsupportedModel: See :func:`build`.
        VerificationFailed: A written file disagrees with live autograd; nothing is left behind.
    """
    stages = stages or Stages()
    rule = method_named(method)
    _check(model, formats, opset)
    artifact.check_output(Path(folder))

    with stages.stage("capture"):
        example = torch.zeros(2, *sample_shape)
        program = canonicalize(capture(model, example))
    with stages.stage("differentiate"):
        explicit = differentiate(program, rule)
    with artifact.replacing(Path(folder)) as aside:
        files = {format: aside / FILES[format] for format in FORMATS if format in formats}
        lowered = {}
        for format, path in files.items():
            with stages.stage(f"emit {format}"):
                lowered[format] = write(explicit, format, path, opset)
        with stages.stage("verify"):
            graph = to_module(lowered["onnx"]) if "onnx" in files else None
            certificate = prove(files, model, sample_shape, method, lowered=graph, seed=seed)
        with stages.stage("write"):
            manifest = _manifest(model, explicit, rule, files, opset, certificate, description or {})
            artifact.write_manifest(aside, manifest)
    return Artifact(Path(folder), manifest)


def _check(model: nn.Module, formats: Sequence[str], opset: int) -> None:
    unknown = [format for format in formats if format not in FORMATS]
    if unknown or not formats:
        raise UsageError(f"unknown format {', '.join(map(repr, unknown)) or '(none)'}; there are {', '.join(FORMATS)}")
    if not emit_onnx.MIN_OPSET <= opset <= emit_onnx.MAX_OPSET:
        raise UsageError(f"opset {opset} is not supported: {emit_onnx.MIN_OPSET} to {emit_onnx.MAX_OPSET} are")
    odd = {
        str(tensor.dtype): name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and tensor.dtype != torch.float32
    }
    if odd:
        dtype, name = next(iter(odd.items()))
        raise UsageError(f"the network's {name} is {dtype}; artifacts are float32, convert it with model.float()")


def write(explicit: Program, format: str, path: Path, opset: int = DEFAULT_OPSET) -> Program:
    """Lower an explicit program for a format's runtime, and write one file.

    Args:
        explicit: What :func:`exporter.differentiate.differentiate` returned.
        format: ``torchscript`` or ``onnx``.
        path: The file.
        opset: Of an ONNX file.

    Returns:
        The lowered program, which the file holds.
    """
    if format == "torchscript":
        lowered = lower(explicit, "torchscript")
        emit_torchscript.emit(lowered, path)
    else:
        lowered = lower(explicit, "onnxruntime")
        emit_onnx.emit(lowered, path, OUTPUTS, opset, BATCH)
    return lowered


def _manifest(
    model: nn.Module,
    explicit: Program,
    method: Method,
    files: Mapping[str, Path],
    opset: int,
    certificate: Certificate,
    description: Mapping[str, Any],
) -> dict[str, Any]:
    image, *_ = explicit.placeholders
    logits, _ = explicit.outputs
    sample = [int(size) for size in image.meta["val"].shape[1:]]
    classes = int(logits.meta["val"].shape[1])
    return {
        "schema": SCHEMA,
        "producer": f"saliport {version('saliport')}",
        "model": {
            "class": type(model).__name__,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "weights_sha256": weights_sha256(model),
            **description,
        },
        "method": {key: value for key, value in asdict(method).items() if key != "rule"},
        "inputs": [
            {"name": IMAGE, "dtype": "float32", "shape": [BATCH, *sample]},
            {"name": TARGET, "dtype": "int64", "shape": [BATCH], "range": [PREDICTED, classes - 1]},
        ],
        "outputs": [
            {"name": OUTPUTS[0], "dtype": "float32", "shape": [BATCH, classes]},
            {"name": OUTPUTS[1], "dtype": "float32", "shape": [BATCH, *sample]},
        ],
        "dynamic": [BATCH],
        "seed": certificate.seed,
        "opset": opset if "onnx" in files else None,
        "files": {format: artifact.describe(path) for format, path in files.items()},
        "parity": certificate.to_json(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "onnx", "onnxruntime", "torch")},
        },
    }
