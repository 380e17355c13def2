"""Passes on a strided convolution behind a pointwise one and a rectifier, as bottlenecks have them.

Backward, the pointwise convolution's gradient comes last, and it treats every pixel by itself: so it may as well be
computed from the stride phases, before they are laid side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from exporter.lowering.blocked import added_mask, dropped, fills_blocks
from exporter.lowering.convolution import (
    Phases,
    Transposed,
    add_phases,
    interleave,
    phases,
    read,
    scaled,
    settings,
    splits,
    swap,
    unscaled,
)
from exporter.lowering.pointwise import masked
from exporter.lowering.rewrite import Match, Pass, aten, producer, used_once
from exporter.program import scope_of
from exporter.sizes import per_axis

MOST = 2
"""How many times as many channels the pointwise gradient may have, which are interleaved then; a resnet50 has twice."""


Without = Callable[[Match, fx.Node], Tensor]
"""Computes what is positive where a mask is false, and else 0."""


@dataclass(frozen=True)
class Bottleneck:
    """The input gradient of a pointwise convolution, from the masked one of a strided convolution.

    Attributes:
        node: The pointwise one.
        strided: The strided one.
        mask: The rectifier's between the two.
        weights: The pointwise one's weight, and the scale of a batch norm behind it or None.
    """

    node: fx.Node
    strided: fx.Node
    mask: fx.Node
    weights: tuple[fx.Node, fx.Node | None]


def find_bottleneck(node: Any) -> Bottleneck | None:
    """Recognise the input gradient of a pointwise convolution that is computed from stride phases here."""
    if producer(node, aten.conv_transpose2d.input) is None or not _is_pointwise(node):
        return None
    ct, weight, *_ = settings(node)
    product, scale = unscaled(ct)
    found = masked(product) if producer(product, aten.mul.Tensor) and scope_of(product).endswith(".vjp") else None
    if found is None or not found.positive or not used_once(product) or len(found.g.users) != 2:
        return None
    strided = producer(found.g, aten.conv_transpose2d.input)
    if strided is None or not splits(strided) or settings(strided)[6] not in (1, strided.meta["val"].shape[1]):
        return None
    value = strided.meta["val"]
    few = node.meta["val"].shape[1] <= MOST * value.shape[1]
    blocked = fills_blocks(value) and value.dtype == torch.float32
    return Bottleneck(node, strided, found.mask, (weight, scale)) if few and blocked else None


def _is_pointwise(node: fx.Node) -> bool:
    _, weight, bias, stride, padding, extra, groups, _ = settings(node)
    ones = set(weight.meta["val"].shape[2:]) == {1} and set(stride) == {1}
    return ones and bias is None and groups == 1 and not any(padding) and not any(extra)


def _starts(found: Bottleneck) -> list[fx.Node]:
    return [*found.strided.all_input_nodes, found.mask, *filter(None, found.weights)]


def _phases(match: Match, found: Bottleneck, without: Without) -> tuple[Phases, Transposed]:
    """Compute the phases of the pointwise gradient, and read the strided convolution."""
    op = read(match, found.strided)
    assert op is not None
    kernel = swap(scaled(match, *found.weights), 1)
    off = without(match, found.mask)
    parts: Phases = [
        [
            None if part is None else torch.conv2d(added_mask(part, off, op.stride, (row, column)), kernel)
            for column, part in enumerate(columns)
        ]
        for row, columns in enumerate(phases(op))
    ]
    return parts, op


def pointwise_phases(match: Match, without: Without = dropped) -> Any:
    """``conv1x1(relu(interleave(P)) * m) -> interleave(conv1x1(relu(P_p - M (1 - m_p))))``.

    Then phases stay in onnxruntime's blocked layout through the mask, which is applied as the pass "added mask" does,
    and a mobilenet's have a sixth of the channels when they leave it: 5 % less time of a mobilenet_v2, 12 % for 8
    images, and 1 % of a resnet50, medians of interleaved runs.
    """
    found = find_bottleneck(match.node)
    if found is None:
        return NotImplemented
    parts, op = _phases(match, found, without)
    return interleave(parts, op.size)


def add_pointwise_phases(match: Match, without: Without = dropped) -> Any:
    """``interleave(a) + interleave(b) -> interleave(a + b)``, where ``a`` is of the above, ``b`` of a shortcut."""
    both = _both(match.node)
    if both is None:
        return NotImplemented
    found, shortcut = both
    parts, op = _phases(match, found, without)
    other = read(match, shortcut)
    assert other is not None
    return interleave(add_phases(parts, phases(other)), op.size)


def _both(node: fx.Node) -> tuple[Bottleneck, fx.Node] | None:
    if len(node.args) != 2 or node.kwargs:
        return None
    for one, two in (node.args, node.args[::-1]):
        found, shortcut = find_bottleneck(one), producer(two, aten.conv_transpose2d.input)
        if found is None or shortcut is None or not splits(shortcut):
            continue
        alone = used_once(found.node) and used_once(shortcut)
        same = per_axis(settings(found.strided)[3], 2) == per_axis(settings(shortcut)[3], 2)
        if alone and same and found.node.meta["val"].shape[2:] == shortcut.meta["val"].shape[2:]:
            return found, shortcut
    return None


def read_by_one(node: fx.Node) -> list[fx.Node] | None:
    """Return what the first starts from, or None where it does not apply."""
    found = find_bottleneck(node)
    return None if found is None else _starts(found)


def read_by_sum(node: fx.Node) -> list[fx.Node] | None:
    """Return what the second starts from, or None where it does not apply."""
    both = _both(node)
    return None if both is None else [*_starts(both[0]), *both[1].all_input_nodes]


POINTWISE_PHASES = Pass("pointwise phases", (aten.conv_transpose2d.input,), pointwise_phases, read_by_one)
ADD_POINTWISE_PHASES = Pass("add pointwise phases", (aten.add.Tensor,), add_pointwise_phases, read_by_sum)
