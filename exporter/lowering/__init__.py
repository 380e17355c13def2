"""Lowering: how each runtime likes the same mathematics spelled."""

from __future__ import annotations

from exporter.lowering.convolution import ADD_PHASES, FLIP_KERNEL, FOLD_SCALE, STRIDE_PHASES
from exporter.lowering.pointwise import BROADCAST, POSITIVE_PART, ROW_OF_WEIGHT
from exporter.lowering.pooling import COMPARE_TAPS, POOLED_MASK
from exporter.lowering.rewrite import Pass, apply
from exporter.program import Program

_EVERYWHERE = (ROW_OF_WEIGHT, POOLED_MASK, POSITIVE_PART, BROADCAST, COMPARE_TAPS)

PASSES: dict[str, tuple[Pass, ...]] = {
    "none": (),
    "torchscript": (ROW_OF_WEIGHT, POSITIVE_PART, BROADCAST),
    "onnxruntime": (
        *_EVERYWHERE,
        FLIP_KERNEL,
        STRIDE_PHASES,
        FOLD_SCALE,
        ADD_PHASES,
    ),
    "openvino": (*_EVERYWHERE, FLIP_KERNEL, STRIDE_PHASES, FOLD_SCALE, ADD_PHASES),
    "portable": (*_EVERYWHERE, FLIP_KERNEL, FOLD_SCALE),
}
"""Target -> its passes; at each operator the first that applies wins."""

TARGETS = tuple(target for target in PASSES if target != "torchscript")
"""What an ONNX file can be optimized for; each computes the same, and every runtime runs each."""

DEFAULT_TARGET = "onnxruntime"


def lower(program: Program, target: str) -> Program:
    """Return the same function in the formulation that a runtime computes best."""
    return apply(program, PASSES[target]) if PASSES[target] else program
