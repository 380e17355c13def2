"""Spellings of resampling: nearest neighbours are gathered, the rest are matrix products along an axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from exporter.sizes import known
from exporter.spellings.pooling import along
from exporter.spellings.table import aten, spelling


def _nearest(exact: bool) -> Callable[..., Tensor]:
    def resample(x: Tensor, size: Sequence[int] | None, scales: Sequence[float] | None) -> Tensor:
        """Copies, where each value has equally many; else a matrix of zeros and ones for each axis."""
        offset = 0.5 if exact else 0.0
        for axis, length, count, scale in _axes(x, size, scales, scaled=exact or x.ndim != 4):
            if x.ndim == 4 and not exact and known(count - 2 * length) == 0:
                scale = 0.5  # whatever it is, as PyTorch's kernel for images does
            copies = _copies(length, count, scale, offset)
            if copies:
                x = x.unsqueeze(axis)
                shape = [-1] * x.ndim
                shape[axis] = copies
                x = x.expand(shape).flatten(axis - 1, axis)
            else:  # in float32, as PyTorch does for float32 images: at a boundary between samples the rounding decides
                position = (torch.arange(count, device=x.device, dtype=torch.float32) + offset) * scale
                nearest = torch.floor(position).clamp(max=length - 1)[:, None]
                matrix = (nearest == torch.arange(length, device=x.device)) * x.new_ones(())
                x = along(x, axis, matrix)
        return x

    return resample


def _copies(length: int, count: int, scale: float, offset: float) -> int | None:
    """Return how many copies of each value a resampling makes, or None where it is not the same for each."""
    if not isinstance(length, int):
        copies = 0 if isinstance(scale, torch.SymFloat) else round(1 / scale)
        return copies if copies and copies * scale == 1 and known(count - copies * length) == 0 else None
    taken = np.floor((np.arange(count, dtype=np.float32) + np.float32(offset)) * np.float32(scale))
    copies = count // length
    even = copies * length == count and np.array_equal(taken, np.arange(count) // copies)
    return copies if even else None


spelling(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec)(_nearest(False))
spelling(aten._upsample_nearest_exact1d.vec, aten._upsample_nearest_exact2d.vec, aten._upsample_nearest_exact3d.vec)(
    _nearest(True)
)


@spelling(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_trilinear3d.vec)
def _linear(
    x: Tensor, size: Sequence[int] | None, align_corners: bool, scales: Sequence[float] | None = None
) -> Tensor:
    """One matrix for each axis: a value at distance ``d < 1`` from a sample's position weighs ``1 - d``."""
    for axis, length, count, scale in _axes(x, size, scales):
        position = _positions(x, length, count, scale, align_corners).clamp(0, length - 1)
        distance = torch.abs(position - torch.arange(length, device=x.device))
        x = along(x, axis, (1 - distance).clamp(min=0))
    return x


@spelling(aten.upsample_bicubic2d.vec)
def _bicubic(
    x: Tensor, size: Sequence[int] | None, align_corners: bool, scales: Sequence[float] | None = None
) -> Tensor:
    """One matrix for each axis: four taps around a position, those outside the image at its edge.

    Keys (1981), equation 4 with a = -3/4: a tap at distance ``d <= 1`` weighs ``(a + 2) d^3 - (a + 3) d^2 + 1``, one
    further away ``a d^3 - 5 a d^2 + 8 a d - 4 a``.
    """
    for axis, length, count, scale in _axes(x, size, scales, scaled=True):
        position = _positions(x, length, count, scale, align_corners)
        first, column = torch.floor(position), torch.arange(length, device=x.device)
        matrix = None
        for tap in (-1, 0, 1, 2):
            d = torch.abs(position - first - tap)
            weight = near(d, -0.75) if tap in (0, 1) else far(d, -0.75)
            part = weight * ((first + tap).clamp(0, length - 1) == column)
            matrix = part if matrix is None else matrix + part
        assert matrix is not None
        x = along(x, axis, matrix)
    return x


def near(d: Tensor, a: float) -> Tensor:
    """Weigh a tap of a bicubic resampling at a distance ``d <= 1``."""
    return ((a + 2) * d - (a + 3)) * d * d + 1


def far(d: Tensor, a: float) -> Tensor:
    """Weigh a tap at a distance ``1 < d <= 2``."""
    return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a


def _antialiased(kernel: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def resample(
        x: Tensor, size: Sequence[int] | None, align_corners: bool, scales: Sequence[float] | None = None
    ) -> Tensor:
        """One matrix for each axis: the kernel around a position, as wide as a step where that is larger than 1.

        Sample ``j`` is at ``j + 1/2``; what a kernel has outside the image goes to the samples inside.
        """
        for axis, length, count, scale in _axes(x, size, scales):
            step = ((length - 1) / (count - 1) if count > 1 else 0.0) if align_corners else scale
            centre = (torch.arange(count, device=x.device)[:, None] * x.new_ones(()) + 0.5) * step
            distance = torch.abs(torch.arange(length, device=x.device) + 0.5 - centre) / max(step, 1.0)
            weight = kernel(distance)
            x = along(x, axis, weight / weight.sum(1, keepdim=True))
        return x

    return resample


def _cubic(d: Tensor) -> Tensor:
    return near(d, -0.5) * (d < 1) + far(d, -0.5) * ((d >= 1) & (d < 2))


spelling(aten._upsample_bilinear2d_aa.vec)(_antialiased(lambda d: (1 - d).clamp(min=0)))
spelling(aten._upsample_bicubic2d_aa.vec)(_antialiased(_cubic))


def _axes(
    x: Tensor, size: Sequence[int] | None, scales: Sequence[float] | None, scaled: bool = False
) -> list[tuple[int, int, int, float]]:
    """Return, for every axis to resample, the axis, its length, the new one, and input steps per output step.

    An axis that keeps its length, as one of 5 does at a scale of 1.1, PyTorch leaves alone. But where it is ``scaled``,
    samples are taken by the scale there too, as PyTorch's kernels for plain bicubic, exact nearest, and nearest
    neighbours of anything but images do.
    """
    axes = x.ndim - 2
    lengths = x.shape[2:]
    counts = [_scaled(n, s) for n, s in zip(lengths, scales or (), strict=True)] if size is None else list(size)
    steps = [1 / s for s in scales] if scales else [n / m for n, m in zip(lengths, counts, strict=True)]
    if scales and not scaled:
        steps = [_unless_kept(*axis) for axis in zip(lengths, counts, steps, strict=True)]
    every = zip(range(-axes, 0), lengths, counts, steps, strict=True)
    return [axis for axis in every if known(axis[1] - axis[2]) != 0 or (scaled and axis[3] != 1)]


def _unless_kept(length: int, count: int, step: float) -> float:
    """Return a step of an axis that varies: 1 at the lengths that it keeps."""
    if isinstance(length, int) or known(count - length) is not None or step == 1:
        return step
    return 1 + (step - 1) * torch.sym_min(count - length if step < 1 else length - count, 1)


def _scaled(length: int, scale: float) -> int:
    """Return ``floor(length * scale)``, in float64 as PyTorch does."""
    return length * int(scale) if scale == int(scale) else torch.sym_int(length * scale)


def _positions(x: Tensor, length: int, count: int, scale: float, align_corners: bool) -> Tensor:
    """Return ``[count, 1]``: where each output sample lies among the input's, in x's dtype when the program runs."""
    index = (torch.arange(count, device=x.device) * x.new_ones(()))[:, None]
    if align_corners:
        return index * ((length - 1) / (count - 1) if count > 1 else 0.0)
    return (index + 0.5) * scale - 0.5
