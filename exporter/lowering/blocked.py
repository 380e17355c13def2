"""What onnxruntime computes in its blocked layout, ``[N, C / 16, H, W, 16]``: convolutions and pools of many channels.

Any other operator makes it bring a value into the ordinary layout first, so a strided slice there costs a copy of the
whole and a slow walk over it. A Conv of one tap per channel reads the same elements in blocks, and exactly: a product
with 1, and no sum.

A comparison is not among them. ``clip(2^127 y, 0, 1)`` is ``y > 0`` for numbers and stays in blocks, but it turns NaN
into NaN, where a rectifier passes nothing: so masks are compared in the ordinary layout, and only applied in blocks;
but see :mod:`exporter.lowering.finite`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from exporter.lowering.pointwise import masked
from exporter.lowering.rewrite import Match, Pass, arguments, aten, producer
from exporter.program import scope_of

BLOCK = 16
"""Channels of a block on a processor with AVX-512; 8 with AVX2 or NEON."""

_KEEPING = (
    aten.relu.default,
    aten.relu6.default,
    aten.hardtanh.default,
    aten.add.Tensor,
    aten.batch_norm.default,
    aten.avg_pool2d.default,
    aten.cat.default,
)
"""Operators that onnxruntime applies to blocks as they are, or merges into the Conv before them."""


def is_blocked(node: Any) -> bool:
    """Tell whether onnxruntime computes a value in blocks: where the channels fill them, and Convs are at its start."""
    seen: set[Any] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            sources = _sources(one)
            if sources is None:
                return False
            waiting += sources
    return True


def _sources(node: Any) -> list[fx.Node] | None:
    """Return the images that a value is in blocks with, none for a Conv; None if it never is."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, Tensor) or not fills_blocks(value):
        return None
    if node.target == aten.conv2d.default:
        groups = arguments(node)[6] if len(node.args) > 6 else 1
        return [] if groups in (1, value.shape[1]) else None
    if node.target is operator.getitem:
        pool, output = arguments(node)
        return pool.all_input_nodes if (pool.target, output) == (aten.max_pool2d_with_indices.default, 0) else None
    if node.target not in _KEEPING or (node.target == aten.cat.default and arguments(node)[1:] != [1]):
        return None
    return [source for source in node.all_input_nodes if getattr(source.meta.get("val"), "ndim", 4) == 4]


def fills_blocks(value: Tensor) -> bool:
    """Tell whether an image's channels, which do not vary, fill the blocks."""
    return value.ndim == 4 and isinstance(value.shape[1], int) and value.shape[1] % BLOCK == 0


def each_channel(x: Tensor, stride: list[int]) -> Tensor:
    """``x[:, :, ::s, ::t]`` by a Conv of one tap per channel, which pads where its input was padded with zeros."""
    channels = x.shape[1]
    return torch.conv2d(x, x.new_ones((channels, 1, 1, 1)), None, stride, [0, 0], [1, 1], channels)


def _added_mask(match: Match) -> Any:
    """``relu(g) * m -> relu(g - M (1 - m))`` with the largest float ``M``, where a Conv of stride 1 computes ``g``.

    The sum and the ReLU are then part of that Conv, and ``g`` is never brought into the ordinary layout; what ``1 - m``
    is scaled by is a Conv of one tap per channel, which writes blocks. 1 % less time of a mobilenet_v2, 0.5 % of a
    resnet50 or vgg16, medians of interleaved runs.
    """
    found = masked(match.node) if scope_of(match.node).endswith(".vjp") else None
    if found is None or not found.positive or not _becomes_blocked(found.g):
        return NotImplemented
    return added_mask(match.value(found.g), dropped(match, found.mask))


def dropped(match: Match, mask: fx.Node) -> Tensor:
    """Return ``1 - m`` of a mask, in float32."""
    return torch.logical_not(match.value(mask)).to(torch.float32)


def added_mask(
    g: Tensor,
    dropped: Tensor,
    stride: Sequence[int] = (1, 1),
    phase: Sequence[int] = (0, 0),
    other: Tensor | None = None,
) -> Tensor:
    """Return ``relu(g - M (1 - m))``; with a stride, of the mask's elements ``m[:, :, r::s, c::t]``.

    With another term it is ``relu(g + other - M (1 - m))``, exact while ``|other|`` is less than 2^103.

    Exact for finite ``g``, whichever Conv a runtime makes the sum a part of: nothing but zero is added where ``m`` is
    one, and ``g - M`` is not positive. (``M m - M`` is not: a bias may come after the sum.)

    g: [N, C, H, W]; dropped: ``1 - m``, [N, C, H, W] or, with a stride, the whole image's.
    """
    channels = dropped.shape[1]
    scale = dropped.new_full((channels, 1, 1, 1), -torch.finfo(torch.float32).max)
    for axis, skipped in zip((2, 3), phase, strict=True):
        if skipped:  # a Conv cannot skip: it has more taps, and the last one counts
            sizes = [skipped if axis == one else size for one, size in enumerate(scale.shape)]
            scale = torch.cat([scale.new_zeros(sizes), scale], axis)  # onnxruntime 1.32 takes a Pad for the image's
    below = torch.conv2d(dropped, scale, None, stride, groups=channels)
    return torch.relu(g + (below if other is None else below + other))


def _becomes_blocked(node: fx.Node) -> bool:
    """Tell whether a cotangent is an input gradient that onnxruntime computes in blocks, and only the mask reads it.

    Not where a shortcut's gradient is computed from the same: then onnxruntime makes ``M (1 - m)`` long before it is
    used, and keeps it.
    """
    if len(node.users) != 2 or not is_blocked_gradient(node):  # the product, and the comparison
        return False
    ct = arguments(node)[0]
    scaled = producer(ct, aten.mul.Tensor)
    return len(_gradients_of(ct if scaled is None else scaled.args[0])) <= 1


def is_blocked_gradient(node: fx.Node) -> bool:
    """Tell whether a value is an input gradient at stride 1 that onnxruntime computes in blocks."""
    if node.target != aten.conv_transpose2d.input:
        return False
    value, given = node.meta["val"], arguments(node)
    if not fills_blocks(value) or value.dtype != torch.float32:
        return False
    stride, groups = given[3] if len(given) > 3 else [1], given[6] if len(given) > 6 else 1
    return set(stride) == {1} and groups in (1, value.shape[1])


def _gradients_of(ct: Any) -> list[fx.Node]:
    """Return the input gradients that are computed from a cotangent, or from its product with a batch norm's scale."""
    users = [user for one in ct.users for user in (one.users if one.target == aten.mul.Tensor else [one])]
    return [user for user in users if user.target == aten.conv_transpose2d.input]


ADDED_MASK = Pass("added mask", (aten.mul.Tensor,), _added_mask)
