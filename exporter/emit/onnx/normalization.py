"""Translations of normalisations, with the statistics that their rules use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from exporter.emit.onnx.emitter import Emitter, Value, translates

aten = torch.ops.aten


@translates(aten.batch_norm.default)
def _batch_norm(
    e: Emitter,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    var: Value,
    training: bool,
    momentum: float,
    eps: float,
    cudnn: bool,
) -> str:
    channels = mean.shape[0]
    scale = weight or e.constant([1.0] * channels, x.dtype)
    shift = bias or e.constant([0.0] * channels, x.dtype)
    return e.op("BatchNormalization", x, scale, shift, mean, var, epsilon=eps)


@translates(aten.native_layer_norm.default)
def _layer_norm(
    e: Emitter, x: Value, shape: Sequence[int], weight: Value | None, bias: Value | None, eps: float
) -> list[str]:
    """ONNX's operator, whose statistics are float32; in float64 spelled out, for they would round.

    It must have a scale. One for sizes that vary is spread out.
    """
    if x.dtype == torch.float64:
        z, *statistics = _normalized(e, x, list(range(x.ndim - len(shape), x.ndim)), eps)
        return [_affine(e, z, weight, bias), *statistics]
    scale = weight or e.constant(np.ones([size if isinstance(size, int) else 1 for size in shape]), x.dtype)
    y, *statistics = e.op("LayerNormalization", x, scale, bias, outputs=3, axis=-len(shape), epsilon=eps)
    return [y, *statistics] if x.dtype == torch.float32 else [y, *(e.cast(one, x.dtype) for one in statistics)]


@translates(aten.native_group_norm.default)
def _group_norm(
    e: Emitter,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    batch: int,
    channels: int,
    positions: int,
    groups: int,
    eps: float,
) -> list[str]:
    # Spelled out: ONNX's own operators keep no statistics.
    fake, mean_fake, _ = e.node.meta["val"]
    grouped = e.reshape(x, [x.shape[0], groups, channels // groups * positions])
    z, *statistics = _normalized(e, Value(grouped, x.fake), [2], eps)
    per_channel = [channels, *[1] * (x.ndim - 2)]
    scale, shift = (None if one is None else e.reshape(one, per_channel) for one in (weight, bias))
    y = _affine(e, e.reshape(z, fake.shape), scale, shift)
    return [y, *(e.reshape(statistic, mean_fake.shape) for statistic in statistics)]


def _normalized(e: Emitter, x: Value, axes: list[int], eps: float) -> tuple[str, str, str]:
    """Return ``(x - mean) rstd``, and the two, with the axes of size 1."""
    mean = e.reduce("ReduceMean", x, axes, keepdim=True)
    centred = e.op("Sub", x, mean)
    var = e.reduce("ReduceMean", e.op("Mul", centred, centred), axes, keepdim=True)
    rstd = e.op("Reciprocal", e.op("Sqrt", e.op("Add", var, e.constant(eps, x.dtype))))
    return e.op("Mul", centred, rstd), mean, rstd


def _affine(e: Emitter, z: str, scale: Value | str | None, shift: Value | str | None) -> str:
    y = z if scale is None else e.op("Mul", z, scale)
    return y if shift is None else e.op("Add", y, shift)
