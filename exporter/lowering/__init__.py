"""Lowering: how each runtime likes the same mathematics spelled."""

from __future__ import annotations

from exporter.lowering.blocked import ADDED_MASK
from exporter.lowering.convolution import (
    ADD_PHASES,
    ADD_SHUFFLED_PHASES,
    FLIP_KERNEL,
    FOLD_SCALE,
    JOINT_PHASES,
    SHUFFLED_PHASES,
    STRIDE_PHASES,
)
from exporter.lowering.finite import ADD_BLOCKED_POINTWISE_PHASES, BLOCKED_MASK, BLOCKED_POINTWISE_PHASES
from exporter.lowering.normalization import FOLD_BATCH_NORM
from exporter.lowering.pointwise import BROADCAST, POSITIVE_PART, ROW_OF_WEIGHT, SELECTED_MASK
from exporter.lowering.pointwise_phases import ADD_POINTWISE_PHASES, POINTWISE_PHASES
from exporter.lowering.pooling import BLOCKED_POOL, COMPARE_TAPS, POOLED_MASK, SELECTED_POOLED_MASK, SELECTED_TAPS
from exporter.lowering.rewrite import Pass, apply
from exporter.lowering.scattering import MASKED_SCATTER
from exporter.lowering.stem import PHASED_STEM
from exporter.lowering.torchscript import MASKED_POOL_GRADIENT, ONE_PASS_MASK, POOL_GRADIENT
from exporter.program import Program

_EVERYWHERE = (ROW_OF_WEIGHT, POSITIVE_PART, BROADCAST)
_POOLS = (POOLED_MASK, COMPARE_TAPS)
_ONNXRUNTIME = (
    BLOCKED_POOL,
    *_POOLS,
    ADDED_MASK,
    *_EVERYWHERE,
    FOLD_BATCH_NORM,
    PHASED_STEM,
    POINTWISE_PHASES,
    FLIP_KERNEL,
    STRIDE_PHASES,
    FOLD_SCALE,
    ADD_POINTWISE_PHASES,
    ADD_PHASES,
)
_FINITE = {
    ADDED_MASK: (BLOCKED_MASK, ADDED_MASK),
    POINTWISE_PHASES: (BLOCKED_POINTWISE_PHASES,),
    ADD_POINTWISE_PHASES: (ADD_BLOCKED_POINTWISE_PHASES,),
}

PASSES: dict[str, tuple[Pass, ...]] = {
    "none": (),
    "torchscript": (MASKED_POOL_GRADIENT, ONE_PASS_MASK, POOL_GRADIENT, *_EVERYWHERE),
    "onnxruntime": _ONNXRUNTIME,
    "onnxruntime-finite": tuple(other for one in _ONNXRUNTIME for other in _FINITE.get(one, (one,))),
    "openvino": (
        SELECTED_POOLED_MASK,
        SELECTED_MASK,
        SELECTED_TAPS,
        *_EVERYWHERE,
        FLIP_KERNEL,
        JOINT_PHASES,
        SHUFFLED_PHASES,
        FOLD_SCALE,
        ADD_SHUFFLED_PHASES,
    ),
    "cuda": (MASKED_SCATTER, SELECTED_MASK, *_EVERYWHERE, FOLD_SCALE),
    "portable": (*_POOLS, *_EVERYWHERE, FLIP_KERNEL, FOLD_SCALE),
}
"""Target -> its passes; at each operator the first that applies wins."""

TARGETS = tuple(target for target in PASSES if target != "torchscript")
"""What an ONNX file can be optimized for; each computes the same, and every runtime runs each on a CPU.

But for NaN, which :mod:`exporter.lowering.finite` does not stop.
"""

DEFAULT_TARGET = "onnxruntime"


def lower(program: Program, target: str) -> Program:
    """Return the same function in the formulation that a runtime computes best."""
    return apply(program, PASSES[target]) if PASSES[target] else program
