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
    scale = weight or e.constant(np.ones(list(shape)), x.dtype)
    names: list[str] = e.op("LayerNormalization", x, scale, bias, outputs=3, axis=-len(shape), epsilon=eps)
    return names


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
    mean = e.reduce("ReduceMean", grouped, [2], keepdim=True)
    centred = e.op("Sub", grouped, mean)
    var = e.reduce("ReduceMean", e.op("Mul", centred, centred), [2], keepdim=True)
    rstd = e.op("Reciprocal", e.op("Sqrt", e.op("Add", var, e.constant(eps, x.dtype))))
    y = e.reshape(e.op("Mul", centred, rstd), fake.shape)
    per_channel = [channels, *[1] * (x.ndim - 2)]
    if weight is not None:
        y = e.op("Mul", y, e.reshape(weight, per_channel))
    if bias is not None:
        y = e.op("Add", y, e.reshape(bias, per_channel))
    return [y, *(e.reshape(statistic, mean_fake.shape) for statistic in (mean, rstd))]
