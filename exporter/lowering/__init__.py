"""Lowering: how each runtime likes the same mathematics spelled."""

from __future__ import annotations

from exporter.lowering.convolution import ADD_PHASES, FLIP_KERNEL, FOLD_SCALE, STRIDE_PHASES
from exporter.lowering.pointwise import BROADCAST, POSITIVE_PART, ROW_OF_WEIGHT
from exporter.lowering.pooling import COMPARE_TAPS, POOLED_MASK
from exporter.lowering.rewrite import Pass, apply
from exporter.program import Program

PASSES: dict[str, tuple[Pass, ...]] = {
    "none": (),
    "torchscript": (ROW_OF_WEIGHT, POSITIVE_PART, BROADCAST),
    "onnxruntime": (
        ROW_OF_WEIGHT,
        POOLED_MASK,
        POSITIVE_PART,
        BROADCAST,
        COMPARE_TAPS,
        FLIP_KERNEL,
        STRIDE_PHASES,
        FOLD_SCALE,
        ADD_PHASES,
    ),
}
"""Target -> its passes; at each operator the first that applies wins."""


def lower(program: Program, target: str) -> Program:
    """Return the same function in the formulation that a runtime computes best."""
    return apply(program, PASSES[target]) if PASSES[target] else program
