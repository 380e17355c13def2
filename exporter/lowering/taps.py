"""Reads the taps of all of a pool's windows from an image: each is one stride phase of it, shifted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from exporter.lowering.blocked import each_channel
from exporter.lowering.rewrite import aten

Read = tuple[int, tuple[int, int]]
"""A phase along an axis, and the widths to pad it with so that windows line up."""

WHOLE: Read = (0, (0, 0))
"""The only phase of an axis with a stride of one, as it is."""


def reads(kernel: int, padding: int, stride: int, size: int, windows: int) -> list[Read]:
    """Return what the taps of a kernel read along one axis, in order.

    Those are left out that every window has outside of the image, as with a kernel larger than the image.
    """
    found = []
    for tap in range(kernel):
        shift, phase = divmod(tap - padding, stride)
        length = len(range(phase, size, stride))
        if -windows < shift < length:
            found.append((phase, (-shift, shift + windows - length)))
    return found


class SlicedTaps:
    """Taps by strided slices, with minus infinity around the image; each phase is made once."""

    def __init__(self, x: Tensor, stride: list[int]) -> None:
        """Read from ``x [N, C, H, W]``."""
        self._x = x
        self._stride = stride
        self._made: dict[tuple[int, int], Tensor] = {}

    def __call__(self, rows: list[Read], columns: list[Read], windows: torch.Size) -> Iterator[Tensor]:
        """Yield each tap of all windows, row by row: ``[N, C, *windows]``."""
        for (row, above), (column, before) in itertools.product(rows, columns):
            if (row, column) not in self._made:
                rowed = _every(self._x, 2, row, self._stride[0])
                self._made[row, column] = _every(rowed, 3, column, self._stride[1])
            yield pad(self._made[row, column], [*before, *above], -math.inf)


class BlockedTaps:
    """Taps in onnxruntime's blocked layout, with zero around the image; a phase is made once for the same shifts.

    A phase is a strided Conv of one tap a channel, its shifts are crops. The Conv of phase ``r`` starts at
    ``x[s first + r]``, which is before the image if ``r`` is not zero: a Conv can pad, but not skip.
    """

    def __init__(self, x: Tensor, stride: list[int]) -> None:
        """Read from ``x [N, C, H, W]``."""
        self._x = x
        self._stride = stride
        self._made: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, rows: list[Read], columns: list[Read], windows: torch.Size) -> Iterator[Tensor]:
        """Yield each tap of all windows, row by row: ``[N, C, *windows]``."""
        spans = [_spans(rows), _spans(columns)]
        whole = {phases: self._whole(phases, spans, windows) for phases in itertools.product(*spans)}
        for (row, (above, _)), (column, (before, _)) in itertools.product(rows, columns):
            tap = whole[row, column]
            begins = -above - spans[0][row][0], -before - spans[1][column][0]
            cut = [
                (start, have - start - count) for start, have, count in zip(begins, tap.shape[2:], windows, strict=True)
            ]
            yield pad(tap, [-width for axis in reversed(cut) for width in axis], 0.0)

    def _whole(self, phases: tuple[int, ...], spans: list[dict[int, tuple[int, int]]], windows: torch.Size) -> Tensor:
        """Return a phase with all that its shifts need."""
        widths = []
        for step, count, size, span, phase in zip(self._stride, windows, self._x.shape[2:], spans, phases, strict=True):
            first, last = span[phase]
            start = step * first + phase
            widths.append((-start, max(0, start + step * (count + last - first - 1) + 1 - size)))
        around = (*widths[1], *widths[0])
        if around not in self._made:
            self._made[around] = each_channel(pad(self._x, list(around), 0.0), self._stride)
        return self._made[around]


def _spans(reads: list[Read]) -> dict[int, tuple[int, int]]:
    """Return the first and the last shift of each phase along an axis; the first one lets its Conv pad."""
    shifts: dict[int, list[int]] = {}
    for phase, (before, _) in reads:
        shifts.setdefault(phase, [-1 if phase else 0]).append(-before)
    return {phase: (min(found), max(found)) for phase, found in shifts.items()}


def pad(x: Tensor, widths: list[int], value: float) -> Tensor:
    """Pad or crop, the last axis first, where there is something to do."""
    return torch.constant_pad_nd(x, widths, value) if any(widths) else x


def _every(x: Tensor, axis: int, start: int, step: int) -> Tensor:
    return x if step == 1 else aten.slice(x, axis, start, None, step)
