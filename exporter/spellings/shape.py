"""Spellings of operators that move values."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from exporter.errors import UnsupportedOp
from exporter.sizes import known
from exporter.spellings.table import aten, spelling


@spelling(aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.flatten.using_ints)
def _view(x: Tensor, *args: Any) -> Tensor:
    """One spelling for every change of shape; a view of what ``contiguous`` once copied is not always a view."""
    return x.reshape(*args) if args and isinstance(args[0], (list, tuple)) else x.flatten(*args)


@spelling(aten.reshape_as.default, aten.view_as.default)
def _view_as(x: Tensor, other: Tensor) -> Tensor:
    return x.reshape(other.shape)


@spelling(aten.expand_as.default)
def _expand_as(x: Tensor, other: Tensor) -> Tensor:
    return x.expand(other.shape)


@spelling(aten.unflatten.int)
def _unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    dim %= x.ndim
    return x.reshape([*x.shape[:dim], *sizes, *x.shape[dim + 1 :]])


@spelling(aten.narrow.default)
def _narrow(x: Tensor, dim: int, start: int, length: int) -> Tensor:
    start = start if known(start) is None or start >= 0 else start + x.shape[dim]
    return aten.slice(x, dim, start, start + length)


@spelling(aten.movedim.int, aten.movedim.intlist)
def _movedim(x: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """The axes that are named go where they should, the others keep their order."""
    moved = [axis % x.ndim for axis in ([source] if isinstance(source, int) else source)]
    places = [axis % x.ndim for axis in ([destination] if isinstance(destination, int) else destination)]
    rest = iter(axis for axis in range(x.ndim) if axis not in moved)
    return x.permute([moved[places.index(place)] if place in places else next(rest) for place in range(x.ndim)])


@spelling(aten.swapaxes.default, aten.swapdims.default)
def _swapaxes(x: Tensor, a: int, b: int) -> Tensor:
    return x.transpose(a, b)


@spelling(aten.mT.default)
def _transposed(x: Tensor) -> Tensor:
    return x.transpose(-2, -1)


@spelling(aten.pad.default)
def _pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """A constant has an operator of its own, a circular border is a concatenation; the others stay as they are."""
    if mode == "constant":
        return torch.constant_pad_nd(x, pad, 0.0 if value is None else value)
    if any(width < 0 for width in pad):  # one that varies must be at no size
        raise UnsupportedOp(f"pad with mode {mode!r} crops: {list(pad)}")
    if mode != "circular":
        return aten.pad(x, pad, mode, value)
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = x.ndim - 1 - axis
        length = x.shape[dim]
        parts = [aten.slice(x, dim, length - before, length)] if known(before) != 0 else []
        parts += [x, aten.slice(x, dim, 0, after)] if known(after) != 0 else [x]
        x = torch.cat(parts, dim) if len(parts) > 1 else x
    return x


@spelling(aten.cat.default)
def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Without those of shape ``[0]``, which PyTorch puts beside any other, and which have a dtype nevertheless."""
    joined = torch.cat([x for x in tensors if not (x.ndim == 1 and known(x.shape[0]) == 0)] or list(tensors), dim)
    dtype = reduce(torch.promote_types, (x.dtype for x in tensors))
    return joined if joined.dtype == dtype else joined.to(dtype)


@spelling(aten.split.Tensor, aten.unsafe_split.Tensor)
def _split(x: Tensor, size: int, dim: int = 0) -> Sequence[Tensor]:
    """By sizes; the last part is what is left. How many there are must not vary."""
    length = x.shape[dim]
    whole = int(-(-length // size)) - 1
    return torch.split_with_sizes(x, [size] * whole + [length - whole * size], dim)


@spelling(aten.chunk.default)
def _chunk(x: Tensor, chunks: int, dim: int = 0) -> Sequence[Tensor]:
    return _split(x, -(-x.shape[dim] // chunks), dim)


@spelling(aten.tensor_split.sections)
def _tensor_split(x: Tensor, sections: int, dim: int = 0) -> Sequence[Tensor]:
    """The first parts are one longer, where the length does not divide."""
    size, longer = x.shape[dim] // sections, x.shape[dim] % sections
    starts = [part * size + torch.sym_min(part, longer) for part in range(sections + 1)]
    return torch.split_with_sizes(x, [end - start for start, end in itertools.pairwise(starts)], dim)


@spelling(aten.roll.default)
def _roll(x: Tensor, shifts: list[int], dims: list[int] | tuple[()] = ()) -> Tensor:
    """Without axes, of the values in row-major order."""
    return x.roll(shifts, dims) if dims else x.flatten().roll(shifts, [0]).reshape(x.shape)


@spelling(aten.rot90.default)
def _rot90(x: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Quarter turns: a transposition and a flip; two are two flips."""
    if k % 4 == 2:
        return x.flip(list(dims))
    if k % 4 == 0:
        return x
    return x.transpose(dims[0], dims[1]).flip([dims[0] if k % 4 == 1 else dims[1]])


@spelling(aten.repeat.default, aten.tile.default)
def _repeat(x: Tensor, repeats: Sequence[int]) -> Tensor:
    return x.repeat([1] * (x.ndim - len(repeats)) + list(repeats))


@spelling(aten.repeat_interleave.self_int)
def _repeat_interleave(x: Tensor, repeats: int, dim: int | None = None, *, output_size: int | None = None) -> Tensor:
    """Copies along a new axis, which is then joined with the old one."""
    if dim is None:
        x, dim = x.flatten(), 0
    dim %= x.ndim
    shape = [-1] * (x.ndim + 1)
    shape[dim + 1] = repeats
    return x.unsqueeze(dim + 1).expand(shape).flatten(dim, dim + 1)


@spelling(aten.pixel_shuffle.default)
def _pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """``[N, C r^2, H, W] -> [N, C, H r, W r]``."""
    batch, channels, height, width = x.shape
    apart = x.reshape([batch, channels // factor**2, factor, factor, height, width]).permute([0, 1, 4, 2, 5, 3])
    return apart.reshape([batch, channels // factor**2, height * factor, width * factor])


@spelling(aten.pixel_unshuffle.default)
def _pixel_unshuffle(x: Tensor, factor: int) -> Tensor:
    """``[N, C, H r, W r] -> [N, C r^2, H, W]``."""
    batch, channels, height, width = x.shape[0], x.shape[1], x.shape[2] // factor, x.shape[3] // factor
    apart = x.reshape([batch, channels, height, factor, width, factor]).permute([0, 1, 3, 5, 2, 4])
    return apart.reshape([batch, channels * factor**2, height, width])


@spelling(aten.channel_shuffle.default)
def _channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel ``j`` of group ``i`` becomes channel ``i`` of group ``j``."""
    apart = x.reshape([x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]])
    return apart.transpose(1, 2).reshape(x.shape)


@spelling(aten.meshgrid.default, aten.meshgrid.indexing)
def _meshgrid(axes: list[Tensor], indexing: str = "ij") -> list[Tensor]:
    """Each axis, expanded over the others; ``xy`` exchanges the first two."""
    order = list(range(len(axes)))
    if indexing == "xy" and len(axes) > 1:
        order[:2] = [1, 0]
    size = [axes[place].numel() for place in order]
    return [
        axis.reshape([-1 if other == place else 1 for other in order]).expand(size) for place, axis in enumerate(axes)
    ]
