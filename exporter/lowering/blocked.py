"""What onnxruntime computes in its blocked layout, ``[N, C / 16, H, W, 16]``: convolutions and pools of many channels.

Any other operator makes it bring a value into the ordinary layout first, so a strided slice there costs a copy of the
whole and a slow walk over it. A Conv of one tap per channel reads the same elements in blocks, and exactly: a product
with 1, and no sum.

Masks are not spelled so, though ``clip(2^127 y, 0, 1)`` is ``y > 0`` for numbers and keeps them in blocks too (1 % of a
resnet18): it turns NaN into NaN, where a rectifier passes nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from exporter.lowering.rewrite import arguments, aten

BLOCK = 16
"""Channels of a block on a processor with AVX-512; 8 with AVX2 or NEON."""

_KEEPING = (aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.add.Tensor, aten.batch_norm.default)
"""Operators that onnxruntime applies to blocks as they are, or merges into the Conv before them."""


def is_blocked(node: Any) -> bool:
    """Tell whether onnxruntime computes a value in blocks: where the channels fill them, and Convs are at its start."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[1] % BLOCK:
        return False
    if node.target == aten.conv2d.default:
        groups = arguments(node)[6] if len(node.args) > 6 else 1
        return groups in (1, value.shape[1])
    images = [source for source in node.all_input_nodes if getattr(source.meta.get("val"), "ndim", 4) == 4]
    return node.target in _KEEPING and all(map(is_blocked, images))


def each_channel(x: Tensor, stride: list[int]) -> Tensor:
    """``x[:, :, ::s, ::t]`` by a Conv of one tap per channel, which pads where its input was padded with zeros."""
    channels = x.shape[1]
    return torch.conv2d(x, x.new_ones((channels, 1, 1, 1)), None, stride, [0, 0], [1, 1], channels)
