"""Translations of what moves values: by shape, by index, and into new tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import numpy_helper
from torch import fx

from exporter.emit.onnx.emitter import INT64_MAX, INT64_MIN, Emitter, Translation, Value, numpy_dtype, translates
from exporter.emit.onnx.linear import TRANSPOSED, conv_transpose

aten = torch.ops.aten


@translates(
    aten.flatten.using_ints,
    aten.reshape.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.view.default,
)
def _reshape(e: Emitter, x: Value, *args: object) -> str:
    return e.reshape(x, e.fake.shape)


@translates(aten.contiguous.default)
def _contiguous(e: Emitter, x: Value) -> str:
    """ONNX does not say where values lie."""
    return x.name


@translates(aten.permute.default)
def _permute(e: Emitter, x: Value, dims: Sequence[int]) -> str:
    return e.op("Transpose", x, perm=[d % x.ndim for d in dims])


@translates(aten.transpose.int)
def _transpose(e: Emitter, x: Value, a: int, b: int) -> str:
    order = list(range(x.ndim))
    order[a], order[b] = order[b], order[a]
    return e.op("Transpose", x, perm=order)


@translates(aten.t.default)
def _t(e: Emitter, x: Value) -> str:
    return e.op("Transpose", x, perm=[1, 0])


@translates(aten.expand.default)
def _expand(e: Emitter, x: Value, size: Sequence[Any], **kwargs: Any) -> str:
    # Expand broadcasts both ways, so an axis that the input has already may be given as 1.
    have = [1] * (e.fake.ndim - x.ndim) + list(x.shape)
    sizes = [1 if str(old) == str(new) else new for old, new in zip(have, e.fake.shape, strict=True)]
    return e.op("Expand", x, e.shape(sizes))


@translates(aten.cat.default)
def _cat(e: Emitter, tensors: Sequence[Value], dim: int = 0) -> str:
    return e.op("Concat", *tensors, axis=dim)


@translates(aten.stack.default)
def _stack(e: Emitter, tensors: Sequence[Value], dim: int = 0) -> str:
    axis = e.constant([dim % e.fake.ndim])
    return e.op("Concat", *(e.op("Unsqueeze", tensor, axis) for tensor in tensors), axis=dim % e.fake.ndim)


@translates(aten.slice.Tensor)
def _slice(e: Emitter, x: Value, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> str:
    bounds = [0 if start is None else start, INT64_MAX if end is None else end, dim, step]
    return e.op("Slice", x, *(e.shape([bound]) for bound in bounds))


@translates(aten.select.int)
def _select(e: Emitter, x: Value, dim: int, index: int) -> str:
    return e.op("Gather", x, e.as_value(index, torch.int64), axis=dim)


@translates(aten.flip.default)
def _flip(e: Emitter, x: Value, dims: Sequence[int]) -> str:
    count = len(dims)
    return e.op(
        "Slice",
        x,
        e.constant([-1] * count),
        e.constant([INT64_MIN] * count),
        e.constant(list(dims)),
        e.constant([-1] * count),
    )


def _triangle(upper: bool) -> Translation:
    return lambda e, x, diagonal=0: e.op("Trilu", x, e.as_value(diagonal, torch.int64), upper=int(upper))


translates(aten.tril.default)(_triangle(False))
translates(aten.triu.default)(_triangle(True))


@translates(aten.roll.default)
def _roll(e: Emitter, x: Value, shifts: Sequence[int], dims: Sequence[int]) -> str:
    rolled: Value | str = x
    for shift, dim in zip(shifts, dims, strict=True):
        start, axis = e.shape([-shift % x.shape[dim]]), e.constant([dim])  # a Slice does not wrap, it stops at the end
        parts = (start, e.constant([INT64_MAX])), (e.constant([0]), start)
        rolled = e.op("Concat", *(e.op("Slice", rolled, *bounds, axis) for bounds in parts), axis=dim)
    assert isinstance(rolled, str)
    return rolled


@translates(aten.repeat.default)
def _repeat(e: Emitter, x: Value, repeats: Sequence[Any]) -> str:
    missing = len(repeats) - x.ndim
    source = e.reshape(x, [1] * missing + list(x.shape)) if missing else x
    return e.op("Tile", source, e.shape(repeats))


@translates(aten.split_with_sizes.default)
def _split_with_sizes(e: Emitter, x: Value, sizes: Sequence[int], dim: int = 0) -> list[str]:
    found = e.op("Split", x, e.shape(list(sizes)), outputs=len(sizes), axis=dim)
    return [found] if len(sizes) == 1 else found


@translates(aten.unbind.int)
def _unbind(e: Emitter, x: Value, dim: int = 0) -> list[str]:
    return [e.op("Gather", x, e.constant(index), axis=dim) for index in range(x.shape[dim])]


@translates(aten.pad.default)
def _pad_copies(e: Emitter, x: Value, pad: Sequence[int], mode: str, value: float | None = None) -> str:
    missing = [0] * (x.ndim - len(pad) // 2)
    widths = e.shape([*missing, *pad[::2][::-1], *missing, *pad[1::2][::-1]])
    return e.op("Pad", x, widths, mode={"reflect": "reflect", "replicate": "edge"}[mode])


@translates(aten.constant_pad_nd.default)
def _pad(e: Emitter, x: Value, pad: Sequence[int], value: float = 0) -> str:
    axes = len(pad) // 2
    before = [0] * (x.ndim - axes) + list(pad[::2])[::-1]
    after = [0] * (x.ndim - axes) + list(pad[1::2])[::-1]
    if not all(isinstance(width, int) for width in (*before, *after)):
        return e.op("Pad", x, e.shape([*before, *after]), None if value == 0 else e.constant(value, x.dtype))
    source: Value | str = x
    transposed = e.node.args[0]
    cuts = min(after[2:], default=0) < 0 and not e.symmetric_pads
    if cuts and isinstance(transposed, fx.Node) and transposed.target in TRANSPOSED:
        # It can cut more at its end than PyTorch's; the one that does not is dropped, if nothing else reads it.
        args, kwargs = e.arguments(transposed)
        source = conv_transpose(e, *args, **kwargs, cut=[max(0, -width) for width in after[2:]])
        after[2:] = [max(0, width) for width in after[2:]]
    cropped = [axis for axis in range(x.ndim) if before[axis] < 0 or after[axis] < 0]
    if max(*before, *after) > 0:  # in one operator, which takes half of the time of two
        source = e.op("Pad", source, e.constant([*before, *after]), None if value == 0 else e.constant(value, x.dtype))
    elif cropped:
        starts = [max(0, -before[axis]) for axis in cropped]
        ends = [min(0, after[axis]) or INT64_MAX for axis in cropped]
        source = e.op("Slice", source, e.constant(starts), e.constant(ends), e.constant(cropped))
    return source if isinstance(source, str) else e.op("Identity", source)


# -- gather, scatter and fill ---------------------------------------------------------------------------------


@translates(aten.index_select.default)
def _index_select(e: Emitter, x: Value, dim: int, index: Value) -> str:
    return e.op("Gather", x, index, axis=dim)


@translates(aten.scatter.value)
def _scatter(e: Emitter, x: Value, dim: int, index: Value, value: float) -> str:
    updates = e.op("Expand", e.constant(value, x.dtype), e.op("Shape", index))
    return e.op("ScatterElements", x, index, updates, axis=dim)


@translates(aten.scatter_add.default)
def _scatter_add(e: Emitter, x: Value, dim: int, index: Value, updates: Value) -> str:
    """In float16 by way of float32: onnxruntime's kernel does not add halves."""
    half = x.dtype == torch.float16
    given = (e.cast(x, torch.float32), index, e.cast(updates, torch.float32)) if half else (x, index, updates)
    added: str = e.op("ScatterElements", *given, axis=dim, reduction="add")
    return e.cast(added, x.dtype) if half else added


@translates(aten.gather.default)
def _gather(e: Emitter, x: Value, dim: int, index: Value, sparse_grad: bool = False) -> str:
    return e.op("GatherElements", x, index, axis=dim)


@translates(aten.scatter.src)
def _scatter_source(e: Emitter, x: Value, dim: int, index: Value, source: Value) -> str:
    return e.op("ScatterElements", x, index, source, axis=dim)


@translates(aten.pixel_shuffle.default)
def _pixel_shuffle(e: Emitter, x: Value, factor: int) -> str:
    shuffled: Any = e.node.args[0]
    if shuffled.target is aten.channel_shuffle.default and shuffled.args[1] == factor**2:
        return e.op("DepthToSpace", e.value_of(shuffled.args[0]), blocksize=factor, mode="DCR")
    return e.op("DepthToSpace", x, blocksize=factor, mode="CRD")


@translates(aten.channel_shuffle.default)
def _channel_shuffle(e: Emitter, x: Value, groups: int) -> str:
    batch, channels, *size = x.fake.shape
    split = e.reshape(x, [batch, groups, channels // groups, *size])
    axes = [0, 2, 1, *range(3, 3 + len(size))]
    return e.reshape(e.op("Transpose", split, perm=axes), [batch, channels, *size])


def _filled(e: Emitter, value: float) -> str:
    filler = numpy_helper.from_array(np.asarray([value], dtype=numpy_dtype(e.fake.dtype)))
    name: str = e.op("ConstantOfShape", e.shape(e.fake.shape), value=filler)
    return name


translates(aten.zeros_like.default, aten.new_zeros.default, aten.zeros.default)(lambda e, *a, **k: _filled(e, 0))
translates(aten.ones_like.default, aten.new_ones.default, aten.ones.default)(lambda e, *a, **k: _filled(e, 1))
translates(aten.new_full.default)(lambda e, x, size, value, **k: _filled(e, value))
translates(aten.full.default)(lambda e, size, value, **k: _filled(e, value))


@translates(aten.scalar_tensor.default)
def _scalar_tensor(e: Emitter, value: Any, **kwargs: Any) -> Value | str:
    return e.as_value(value, e.fake.dtype)


@translates(aten.arange.default, aten.arange.start, aten.arange.start_step)
def _arange(e: Emitter, *bounds: Any, **kwargs: Any) -> str:
    if any(isinstance(bound, torch.SymInt) for bound in bounds):
        start, end, step = (*bounds, 1) if len(bounds) == 2 else bounds if len(bounds) == 3 else (0, *bounds, 1)
        return e.op("Range", *(e.as_value(bound, e.fake.dtype) for bound in (start, end, step)))
    return e.constant(torch.arange(*bounds, dtype=e.fake.dtype).numpy(), e.fake.dtype)


@translates(aten.eye.default, aten.eye.m)
def _eye(e: Emitter, *sizes: int, **kwargs: Any) -> str:
    if all(isinstance(size, int) for size in sizes):
        return e.constant(torch.eye(*sizes, dtype=e.fake.dtype).numpy(), e.fake.dtype)
    zero, one = (e.constant(bound) for bound in (0, 1))
    rows, columns = (e.op("Range", zero, e.as_value(size, torch.int64), one) for size in (sizes[0], sizes[-1]))
    return e.cast(e.op("Equal", e.reshape(rows, [-1, 1]), columns), e.fake.dtype)


@translates(aten.linspace.default)
def _linspace(e: Emitter, start: float, end: float, steps: int, **kwargs: Any) -> str:
    return e.constant(torch.linspace(start, end, steps, dtype=e.fake.dtype).numpy(), e.fake.dtype)
