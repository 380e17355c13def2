"""Emit ONNX: one translation per ATen operator of the explicit graph, weights stored once.

Translations stand in the files here, by family as the rules do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from exporter.emit.onnx import activation, linear, normalization, pointwise, pooling, reduction, shape
from exporter.emit.onnx.emitter import TRANSLATIONS, Emitter
from exporter.emit.onnx.order import masks_first
from exporter.errors import UnsupportedModel
from exporter.program import Program
from exporter.signature import TARGET

__all__ = [
    "MAX_OPSET",
    "MIN_OPSET",
    "TRANSLATIONS",
    "activation",
    "emit",
    "linear",
    "normalization",
    "pointwise",
    "pooling",
    "reduction",
    "shape",
    "translate",
]

MIN_OPSET, MAX_OPSET = 17, 23

LARGEST = onnx.checker.MAXIMUM_PROTOBUF
"""Bytes that protobuf, which ONNX files are written with, serialises: 2 GB."""


def emit(
    program: Program,
    path: Path,
    outputs: Sequence[str],
    opset: int,
    *,
    early_masks: bool = False,
    symmetric_pads: bool = False,
) -> None:
    """Write a program as an ONNX file.

    Args:
        program: What to write. Every operator needs a translation.
        path: The file.
        outputs: Names of the program's outputs.
        opset: Version of the default operator set, 17 to 23.
        early_masks: Whether onnxruntime shall compute the masks of the backward pass during the forward pass; see
            :mod:`exporter.emit.onnx.order`.
        symmetric_pads: Whether each ConvTranspose shall cut as much at the end of an axis as at its begin, and a Slice
            the rest: cuDNN, and so onnxruntime on a GPU, has no other.

    Raises:
        UnsupportedOp: An operator has no translation.
        UnsupportedModel: The weights do not fit into one file.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.tensors.values())
    if size > LARGEST:
        raise UnsupportedModel(
            f"an ONNX file holds up to {LARGEST / 1e9:.0f} GB, and these weights are {size / 1e9:.1f} GB; "
            "export with --format torchscript"
        )
    model = translate(program, outputs, opset, early_masks=early_masks, symmetric_pads=symmetric_pads)
    onnx.save_model(model, str(path))


def translate(
    program: Program, outputs: Sequence[str], opset: int, *, early_masks: bool = False, symmetric_pads: bool = False
) -> onnx.ModelProto:
    """Return a program as an ONNX model; see :func:`emit`."""
    emitter = Emitter(program, opset, symmetric_pads)
    for node in program.graph.nodes:
        if node.op == "call_function":
            emitter.translate(node)
    model = emitter.model(outputs)
    if early_masks:
        masks_first(model.graph, TARGET, outputs[0])
    return model
