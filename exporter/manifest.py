"""The manifest: what an artifact is, takes and returns, and how it was proven. The schema lies beside this file."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from exporter import __version__, artifact
from exporter.artifact import SCHEMA
from exporter.methods import Method
from exporter.network import Network
from exporter.program import Program
from exporter.proof import Certificate
from exporter.runtime import PREDICTED
from exporter.signature import BATCH, LOGITS, TARGET, Input, Signature
from exporter.sources import weights_sha256
from exporter.together import together


def describe(
    network: Network,
    explicit: Program,
    method: Method,
    activations: Mapping[str, Mapping[str, int]],
    files: Mapping[str, Path],
    opset: int,
    optimize_for: str,
    certificate: Certificate,
    description: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the manifest of a proven artifact, without its seal.

    Args:
        network: What was compiled.
        explicit: The program behind the files.
        method: What happens at rectifiers.
        activations: What :func:`exporter.rectifiers.activations` found.
        files: Format -> written file.
        opset: Of the ONNX file.
        optimize_for: Whose formulations the ONNX file has.
        certificate: The proof.
        description: Further entries of the ``model`` section.
    """
    signature, model = network.signature, network.model
    logits = explicit.outputs[0].meta["val"]
    classes = int(logits.shape[1])
    attributed = [given for given in signature.inputs if given.attributed]
    hashed = [partial(artifact.describe, path) for path in files.values()]
    weights, reduction, *described = together([partial(weights_sha256, model), network.reduction, *hashed])
    output = {"output_key": signature.output_key, "reduction": reduction}
    return {
        "schema": SCHEMA,
        "producer": f"saliport {__version__}",
        "model": {
            "class": type(model).__name__,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "weights_sha256": weights,
            **{key: value for key, value in output.items() if value is not None},
            **description,
        },
        "method": {
            **{key: value for key, value in asdict(method).items() if key != "rule"},
            **activations,
        },
        "inputs": [
            *(_tensor(given.name, given, signature) for given in signature.inputs),
            {"name": TARGET, "dtype": "int64", "shape": [BATCH], "range": [PREDICTED, classes - 1]},
        ],
        "outputs": [
            {"name": LOGITS, "dtype": str(logits.dtype).removeprefix("torch."), "shape": [BATCH, classes]},
            *(_tensor(name, given, signature) for name, given in zip(signature.attributions, attributed, strict=True)),
        ],
        "dynamic": [dimension.to_json() for dimension in explicit.dimensions],
        "seed": certificate.seed,
        "opset": opset if "onnx" in files else None,
        "optimize_for": optimize_for if "onnx" in files else None,
        "files": dict(zip(files, described, strict=True)),
        "parity": certificate.to_json(),
        "versions": {
            "python": platform.python_version(),
            # As the modules say: onnxruntime comes from packages of several names.
            **{name: import_module(name).__version__ for name in ("numpy", "onnx", "onnxruntime", "torch")},
        },
    }


def _tensor(name: str, given: Input, signature: Signature) -> dict[str, Any]:
    """Return an input's entry, or that of its attribution: sizes that may vary by name, and the sample's own."""
    axes = signature.dynamic_axes(given)
    shape = [axes.get(axis, size) for axis, size in enumerate((0, *given.shape))]
    return {"name": name, "dtype": given.dtype, "shape": shape, "sample_shape": list(given.shape)}
