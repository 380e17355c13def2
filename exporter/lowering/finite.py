"""Rectifiers' masks in onnxruntime's blocked layout, for networks whose activations are finite.

A comparison leaves that layout, and takes the rectifier's output with it; arithmetic stays. But arithmetic turns NaN
into NaN, where a mask stops it: with these passes, where an activation is NaN the map of its image may be NaN too. A
value that a comparison tells from zero may be too small for arithmetic, see :func:`below_zero_or_at_ceiling`. They are
for the guided rule, which sends on what is positive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from exporter.lowering.blocked import (
    added_mask,
    dropped,
    each_channel,
    fills_blocks,
    is_blocked,
    is_blocked_gradient,
)
from exporter.lowering.pointwise import masked, positive_where
from exporter.lowering.pointwise_phases import (
    add_pointwise_phases,
    find_bottleneck,
    pointwise_phases,
    read_by_one,
    read_by_sum,
)
from exporter.lowering.rewrite import Match, Pass, arguments, aten, producer, used_once
from exporter.program import same_shape, scope_of
from exporter.rectifiers import rectifier_ceiling

CEILINGS = 2.0**-16, 2.0**16
"""The least and the greatest of a rectifier: with others, which nobody has, too much would count as zero."""


def arithmetic(match: Match, mask: fx.Node) -> Tensor:
    """Return what is positive where a mask is false and 0 where it is true: by arithmetic, if that stays in blocks."""
    kept = _kept(mask)
    return dropped(match, mask) if kept is None else below_zero_or_at_ceiling(match.value(kept[0]), kept[1])


def below_zero_or_at_ceiling(y: Tensor, ceiling: float = math.inf) -> Tensor:
    """Return what is positive where a rectifier's output lets nothing pass, and 0 elsewhere.

    Without a ceiling it is ``relu(1 - 2^127 y)``, a Conv of one tap per channel: 1 where ``y`` is 0, and 0 from 2^-127
    on, which is less than the smallest normal number of float32; what is between counts as zero.

    With a ceiling ``c``, let ``e`` be its distance to the number before it. ``z = relu(A (y - c + e))`` is ``A e``
    where ``y`` is ``c``, and else 0; so ``relu(1 - S y + z)`` is what is asked for. ``A c`` must not overflow, and ``S
    c`` must be less than ``A e``: so what is less than ``1 / S`` counts as zero. For a ReLU6 that is 4e-31 in float32,
    and 2e-22 in float64, in which proofs compute; it grows with the ceiling. ``e`` is computed in the graph's dtype.

    Args:
        y: ``[N, C, H, W]``, not negative and not above the ceiling.
        ceiling: Infinity, or one within :data:`CEILINGS` that float32 has.

    Returns:
        ``[N, C, H, W]``, finite.
    """
    channels = y.shape[1]
    kernel, ones = (channels, 1, 1, 1), y.new_ones((channels,))
    if ceiling == math.inf:
        return torch.relu(torch.conv2d(y, y.new_full(kernel, -(2.0**127)), ones, groups=channels))
    _, exponent = math.frexp(ceiling)  # ceiling < 2^exponent
    steep = 2.0 ** min(127, 128 - exponent)
    third = y.new_full((channels,), 4 / 3)
    epsilon = ((third - 1) * 3 - 1).abs()  # what 4/3 is off by when it is rounded, times 3: the machine's epsilon
    step = epsilon * 2.0 ** (exponent - (2 if ceiling == 2.0 ** (exponent - 1) else 1))
    above = torch.relu(torch.conv2d(y, y.new_full(kernel, steep), (step - ceiling) * steep, groups=channels))
    slope = step.reshape(kernel) * (-steep * 2.0 ** -max(0, exponent))
    return torch.relu(torch.conv2d(y, slope, ones, groups=channels) + above)


def _kept(mask: fx.Node) -> tuple[fx.Node, float] | None:
    """Recognise ``y > 0`` and ``0 < y < c`` of an output in blocks that is clipped there; return ``y`` and ``c``."""
    both = producer(mask, aten.__and__.Tensor)
    above = producer(both.args[1], aten.lt.Scalar) if both else None
    y = positive_where(mask if both is None else both.args[0])
    if not isinstance(y, fx.Node) or y.kwargs or (both and (above is None or above.args[0] is not y)):
        return None
    clips = isinstance(y.target, torch._ops.OpOverload) and rectifier_ceiling(y.target, *arguments(y)[1:])
    ceiling = math.inf if above is None else arguments(above)[1]
    least, greatest = CEILINGS
    fits = ceiling == math.inf or (least <= ceiling <= greatest and float(np.float32(ceiling)) == ceiling)
    return (y, ceiling) if clips == ceiling and fits and is_blocked(y) else None


@dataclass(frozen=True)
class _Masked:
    """A cotangent under a mask, whose sum with what masks it can be a part of a Conv.

    Attributes:
        conv: The term of it that a Conv computes, or None.
        other: Its other term, or None.
        y: The rectifier's output, which the mask compares.
        ceiling: Where that is clipped.
    """

    conv: fx.Node | None
    other: fx.Node | None
    y: fx.Node
    ceiling: float


def _find(node: fx.Node) -> _Masked | None:
    found = masked(node) if scope_of(node).endswith(".vjp") else None
    if found is None or not found.positive:
        return None
    kept, terms = _kept(found.mask), _terms(found.g)
    return _Masked(*terms, *kept) if kept and terms else None


def _terms(g: fx.Node) -> tuple[fx.Node | None, fx.Node | None] | None:
    """Return the term of a cotangent that a Conv computes, and the other; None if more than the mask reads it."""
    value = g.meta["val"]
    if len(g.users) != 2 or not fills_blocks(value) or value.dtype != torch.float32:  # the product, and the comparison
        return None
    if _is_one_conv(g):
        return g, None
    if g.target == aten.add.Tensor and len(g.args) == 2 and not g.kwargs:
        for one, other in (g.args, g.args[::-1]):
            if isinstance(one, fx.Node) and isinstance(other, fx.Node) and _is_one_conv(one) and used_once(one):
                return (one, other) if same_shape(value, other.meta["val"]) else None
    return None, g


def _is_one_conv(node: fx.Node) -> bool:
    return is_blocked_gradient(node) and find_bottleneck(node) is None


def _blocked_mask(match: Match) -> Any:
    """``relu(g) * m -> relu(g - M d)`` as the pass "added mask", with ``d`` of :func:`below_zero_or_at_ceiling`.

    Where ``g`` is a sum, of which a Conv computes one term, the other is added to ``-M d``, which is as exact and a
    part of the Conv that scales ``d``. What is in the ordinary layout passes through a Conv of one tap per channel
    first, or onnxruntime would add it there.

    With the passes on phases below a file takes 0.81 of the time of one that compares, for a mobilenet_v2, and 0.90 for
    a resnet50 or densenet121, 0.98 for a vgg16, 1.00 for a resnet18; for 8 images 0.73 for a mobilenet_v2, 0.91 for a
    resnet50, 0.94 for a resnet18: medians of interleaved runs, in docs/benchmark/xeon.
    """
    found = _find(match.node)
    if found is None:
        return NotImplemented
    off = below_zero_or_at_ceiling(match.value(found.y), found.ceiling)
    if found.other is None:
        return added_mask(match.value(found.conv), off)
    other = match.value(found.other)
    if _find(found.other) is None:
        other = each_channel(other, [1, 1])
    return added_mask(other, off) if found.conv is None else added_mask(match.value(found.conv), off, other=other)


def _reads(node: fx.Node) -> list[fx.Node] | None:
    """Return what the above starts from, or None where it does not apply."""
    found = _find(node)
    return None if found is None else [one for one in (found.conv, found.other, found.y) if one is not None]


def _blocked_pointwise_phases(match: Match) -> Any:
    """The pass "pointwise phases" with such masks."""
    return pointwise_phases(match, arithmetic)


def _add_blocked_pointwise_phases(match: Match) -> Any:
    """The pass "add pointwise phases" with such masks."""
    return add_pointwise_phases(match, arithmetic)


BLOCKED_MASK = Pass("blocked mask", (aten.mul.Tensor,), _blocked_mask, _reads)
BLOCKED_POINTWISE_PHASES = Pass(
    "blocked pointwise phases", (aten.conv_transpose2d.input,), _blocked_pointwise_phases, read_by_one
)
ADD_BLOCKED_POINTWISE_PHASES = Pass(
    "add blocked pointwise phases", (aten.add.Tensor,), _add_blocked_pointwise_phases, read_by_sum
)
