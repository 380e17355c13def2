"""Spellings of sampling at given positions: what lies around a position is gathered and weighed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from exporter.errors import UnsupportedOp
from exporter.spellings.resampling import far, near
from exporter.spellings.table import aten, spelling

_BILINEAR, _NEAREST, _BICUBIC = range(3)
_ZEROS, _BORDER, _REFLECTION = range(3)


@spelling(aten.grid_sampler.default, aten.grid_sampler_2d.default, aten.grid_sampler_3d.default)
def _grid_sample(x: Tensor, grid: Tensor, mode: int, padding: int, align_corners: bool) -> Tensor:
    """``y[n, :, i] = x[n, :, grid[n, i]]``, between samples; -1 and 1 are the image's ends.

    x: [N, C, *L]; grid: [N, *L', axes], the last axis first; returns [N, C, *L']. With ``align_corners`` the ends are
    the middles of the outermost samples, otherwise their outer borders (Jaderberg et al. 2015, arXiv:1506.02025).
    """
    sizes = list(x.shape[2:])
    positions = [
        _unnormalized(position, size, align_corners)
        for position, size in zip(reversed(grid.unbind(-1)), sizes, strict=True)
    ]
    if mode == _BICUBIC:
        return _bicubic(x, positions, padding, align_corners)
    positions = [
        _inside(position, size, padding, align_corners) for position, size in zip(positions, sizes, strict=True)
    ]
    if mode == _NEAREST:
        return _read(x, [torch.round(position.detach()) for position in positions])
    first = [torch.floor(position.detach()) for position in positions]
    beyond = [position - start for position, start in zip(positions, first, strict=True)]
    whole = None
    for corner in itertools.product((0, 1), repeat=len(sizes)):
        weight = math.prod(part if step else 1 - part for step, part in zip(corner, beyond, strict=True))
        assert isinstance(weight, Tensor)
        part = _read(x, [start + step for start, step in zip(first, corner, strict=True)]) * weight.unsqueeze(1)
        whole = part if whole is None else whole + part
    assert whole is not None
    return whole


@spelling(aten.affine_grid_generator.default)
def affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Positions of an image ``[N, C, *L]`` mapped by a matrix. theta: [N, axes, axes + 1]; returns [N, *L, axes]."""
    lengths = list(size[2:])
    axes = len(lengths)
    columns: list[Tensor] = []
    for axis, length in enumerate(lengths):
        place = torch.arange(length, device=theta.device) * theta.new_ones(())
        ends = torch.sym_max(length - 1, 1) if align_corners else length  # one sample is in the middle
        place = (2 * place - (length - 1)) / ends
        columns.insert(0, place.reshape([-1 if other == axis else 1 for other in range(axes)]).expand(lengths))
    base = torch.stack([*columns, torch.ones_like(columns[0])], -1).reshape([-1, axes + 1])
    return torch.matmul(base, theta.transpose(1, 2)).reshape([-1, *lengths, axes])


def _bicubic(x: Tensor, positions: Sequence[Tensor], padding: int, align_corners: bool) -> Tensor:
    """Sixteen taps; one outside the image is read where the padding says."""
    if len(positions) != 2:
        raise UnsupportedOp("grid_sampler_3d has no bicubic mode")
    first = [torch.floor(position.detach()) for position in positions]
    beyond = [position - start for position, start in zip(positions, first, strict=True)]
    taps = []
    for start, part, size in zip(first, beyond, x.shape[2:], strict=True):
        distances = (part + 1, part, 1 - part, 2 - part)
        weights = [far(d, -0.75) if abs(2 * tap - 3) > 1 else near(d, -0.75) for tap, d in enumerate(distances)]
        places = [_inside(start + tap, size, padding, align_corners) for tap in (-1, 0, 1, 2)]
        taps.append(list(zip(places, weights, strict=True)))
    whole = None
    for (row, over), (column, along) in itertools.product(*taps):
        part = _read(x, [row, column]) * (over * along).unsqueeze(1)
        whole = part if whole is None else whole + part
    assert whole is not None
    return whole


def _unnormalized(position: Tensor, size: int, align_corners: bool) -> Tensor:
    """Return a position in samples: 0 is the middle of the first one."""
    return (position + 1) * ((size - 1) / 2) if align_corners else (position + 1) * (size / 2) - 0.5


def _inside(position: Tensor, size: int, padding: int, align_corners: bool) -> Tensor:
    """Return where a position outside the image is read; the derivative of what is moved to an end is 0."""
    if padding == _ZEROS:
        return position
    if padding == _REFLECTION:
        position = _reflected(position, size, align_corners)
    last = position.new_full((), size - 1)
    position = torch.where(position > 0, position, torch.zeros_like(last))
    return torch.where(position < last, position, last)


def _reflected(position: Tensor, size: int, align_corners: bool) -> Tensor:
    """Return a position mirrored at the image's ends, as often as it takes."""
    low, span = (0.0, size - 1) if align_corners else (-0.5, size)
    if align_corners and isinstance(size, int) and size == 1:
        return torch.zeros_like(position)
    away = position - low
    away = torch.where(away < 0, -away, away)
    turns = torch.floor(away.detach() / span)
    rest = away - turns * span
    return torch.where(aten.remainder(turns, 2) == 0, rest, span - rest) + low


def _read(x: Tensor, places: Sequence[Tensor]) -> Tensor:
    """Return what stands at whole-numbered places, 0 outside. x: [N, C, *L]; places: [N, *L']; returns [N, C, *L']."""
    inside, flat = None, None
    for place, size in zip(places, x.shape[2:], strict=True):
        within = (place >= 0) & (place <= size - 1)
        inside = within if inside is None else inside & within
        index = place.to(torch.int64)
        flat = index if flat is None else flat * size + index
    assert inside is not None
    assert flat is not None
    flat = torch.where(inside, flat, torch.zeros_like(flat))
    spread = flat.flatten(1).unsqueeze(1).expand([-1, x.shape[1], -1])
    taken = x.flatten(2).gather(2, spread).reshape([*x.shape[:2], *flat.shape[1:]])
    return taken.masked_fill(inside.logical_not().unsqueeze(1), 0.0)
