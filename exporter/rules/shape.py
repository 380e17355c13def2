"""Operators that move values: the cotangent moves back, zeros where nothing was read."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from exporter.errors import UnsupportedOp
from exporter.rules.table import unbroadcast, vjp
from exporter.sizes import from_start, known

aten = torch.ops.aten


@vjp(
    aten.reshape.default,
    aten.view.default,
    aten.flatten.using_ints,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
def view(ct: Tensor, y: Tensor, x: Tensor, *args: object) -> Tensor:
    """Same values in x's shape."""
    return ct.reshape(x.shape)


@vjp(aten.permute.default)
def permute(ct: Tensor, y: Tensor, x: Tensor, dims: Sequence[int]) -> Tensor:
    """The inverse permutation."""
    inverse = sorted(range(len(dims)), key=lambda axis: dims[axis] % x.ndim)
    return ct.permute(inverse)


@vjp(aten.transpose.int)
def transpose(ct: Tensor, y: Tensor, x: Tensor, a: int, b: int) -> Tensor:
    """The same two axes swapped back."""
    return ct.transpose(a, b)


@vjp(aten.t.default)
def t(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The two axes swapped back."""
    return ct.t()


@vjp(aten.expand.default)
def expand(ct: Tensor, y: Tensor, x: Tensor, size: Sequence[int]) -> Tensor:
    """The sum over the copies."""
    return unbroadcast(ct, x)


@vjp(aten.cat.default)
def cat(ct: Tensor, y: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> list[Tensor]:
    """Each part's own slice."""
    ends = list(itertools.accumulate(x.shape[dim] for x in tensors))
    return [aten.slice(ct, dim, start, end) for start, end in itertools.pairwise([0, *ends])]


@vjp(aten.stack.default)
def stack(ct: Tensor, y: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> Sequence[Tensor]:
    """Each part's own layer."""
    return ct.unbind(dim)


@vjp(aten.split_with_sizes.default)
def split_with_sizes(
    ct: Sequence[Tensor], y: Sequence[Tensor], x: Tensor, sizes: Sequence[int], dim: int = 0
) -> Tensor:
    """The parts' cotangents side by side."""
    return torch.cat(list(ct), dim)


@vjp(aten.unbind.int)
def unbind(ct: Sequence[Tensor], y: Sequence[Tensor], x: Tensor, dim: int = 0) -> Tensor:
    """The layers' cotangents stacked."""
    return torch.stack(list(ct), dim)


@vjp(aten.contiguous.default)
def contiguous(ct: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """As it is: a copy, so that values lie side by side in memory."""
    return ct


@vjp(aten.flip.default)
def flip(ct: Tensor, y: Tensor, x: Tensor, dims: list[int]) -> Tensor:
    """Turned back."""
    return ct.flip(dims)


@vjp(aten.tril.default)
def tril(ct: Tensor, y: Tensor, x: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of the cotangent."""
    return ct.tril(diagonal)


@vjp(aten.triu.default)
def triu(ct: Tensor, y: Tensor, x: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of the cotangent."""
    return ct.triu(diagonal)


@vjp(aten.roll.default)
def roll(ct: Tensor, y: Tensor, x: Tensor, shifts: list[int], dims: list[int]) -> Tensor:
    """Rolled back."""
    return ct.roll([-shift for shift in shifts], dims)


@vjp(aten.repeat.default)
def repeat(ct: Tensor, y: Tensor, x: Tensor, repeats: Sequence[int]) -> Tensor:
    """The sum over the copies; returns x's shape."""
    sizes = [1] * (len(repeats) - x.ndim) + list(x.shape)
    apart = ct.reshape([size for pair in zip(repeats, sizes, strict=True) for size in pair])
    return apart.sum(list(range(0, 2 * len(repeats), 2))).reshape(x.shape)


@vjp(aten.constant_pad_nd.default)
def constant_pad_nd(ct: Tensor, y: Tensor, x: Tensor, pad: Sequence[int], value: float = 0) -> Tensor:
    """The part that was not padding."""
    return torch.constant_pad_nd(ct, [-width for width in pad])


@vjp(aten.slice.Tensor)
def slice_(
    ct: Tensor,
    y: Tensor,
    x: Tensor,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Tensor:
    """Zeros around the slice and, with a step, between its elements."""
    length, taken = x.shape[dim], y.shape[dim]
    if isinstance(length, int):
        first, _, _ = slice(start, end, step).indices(length)
    elif (start is None or known(start) == 0) and step == 1 and known(taken - length) == 0:
        return ct
    elif dim % x.ndim == 0:
        raise UnsupportedOp("a slice of the batch has no vjp rule: every image needs its own logits")
    else:
        first = from_start(0 if start is None else start, length)
    if step > 1:
        ct = _pad(ct.unsqueeze(dim % x.ndim + 1), dim % x.ndim + 1, 0, step - 1).flatten(dim % x.ndim, dim % x.ndim + 1)
    return _pad(ct, dim % x.ndim, first, length - first - taken * step)


def _pad(ct: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Pad one axis with zeros; a negative width crops."""
    return torch.constant_pad_nd(ct, [0, 0] * (ct.ndim - 1 - dim) + [before, after])


@vjp(aten.select.int)
def select(ct: Tensor, y: Tensor, x: Tensor, dim: int, index: int) -> Tensor:
    """Zeros but for the selected position."""
    length = x.shape[dim]
    before = index if index >= 0 else length + index
    return _pad(ct.unsqueeze(dim), dim % x.ndim, before, length - 1 - before)


@vjp(aten.pad.default)
def pad(ct: Tensor, y: Tensor, x: Tensor, pad: Sequence[int], mode: str, value: float | None = None) -> Tensor:
    """The border's cotangents go to what it copied: the mirrored inside (``reflect``) or the edge (``replicate``).

    Axis by axis: a corner is a border's border. ct, y: [..., L + before + after]; returns [..., L].
    """
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = x.ndim - 1 - axis
        if known(before) != 0 or known(after) != 0:
            ct = _fold(ct, dim, x.shape[dim], before, after, mode == "reflect")
    return ct


def _fold(ct: Tensor, dim: int, length: int, before: int, after: int, mirrored: bool) -> Tensor:
    """Add the borders of one axis onto its inner part; a border whose width varies may be empty."""
    inner = aten.slice(ct, dim, before, before + length)
    for width, start, first in ((before, 0, True), (after, before + length, False)):
        if known(width) != 0:
            border = aten.slice(ct, dim, start, start + width)
            border, width = (border.flip(dim), width) if mirrored else (border.sum(dim, keepdim=True), 1)
            offset = int(mirrored) if first else length - int(mirrored) - width
            inner = inner + _pad(border, dim, offset, length - offset - width)
    return inner


# -- by index -------------------------------------------------------------------------------------------------


@vjp(aten.index_select.default)
def index_select(ct: Tensor, y: Tensor, x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Added up at the indices. index: [n]; ct: [..., n, ...]; returns [..., L, ...]."""
    spread = index.view([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)]).expand(ct.shape)
    return x.new_zeros(x.shape).scatter_add(dim, spread, ct)


@vjp(aten.gather.default)
def gather(ct: Tensor, y: Tensor, x: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """Added up at the indices; returns x's shape."""
    return x.new_zeros(x.shape).scatter_add(dim, index, ct)


@vjp(aten.scatter.src, aten.scatter.value)
def scatter(ct: Tensor, y: Tensor, x: Tensor, dim: int, index: Tensor, src: Tensor | float) -> Tensor:
    """Zero where something was written."""
    return ct.scatter(dim, index, 0)


@vjp(aten.scatter.src, wrt=3)
def scatter_source(ct: Tensor, y: Tensor, x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """What was written, read back; index and src of one shape, without repetitions."""
    return ct.gather(dim, index)


@vjp(aten.scatter_add.default)
def scatter_add(ct: Tensor, y: Tensor, x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """What was there before counts once."""
    return ct


@vjp(aten.scatter_add.default, wrt=3)
def scatter_add_source(ct: Tensor, y: Tensor, x: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """What each value was added to; index and src of one shape."""
    return ct.gather(dim, index)
