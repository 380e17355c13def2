"""Translations of convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from exporter.emit.onnx.emitter import INT64_MAX, Emitter, Value, translates
from exporter.program import of_weights
from exporter.sizes import per_axis

aten = torch.ops.aten


@translates(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
def _conv(
    e: Emitter,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> str:
    axes = x.ndim - 2
    source, pads = e.before_padding(x, axes)
    return e.op(
        "Conv",
        source,
        weight,
        bias,
        kernel_shape=list(weight.shape[2:]),
        strides=per_axis(stride, axes),
        pads=[own + more for own, more in zip(per_axis(padding, axes) * 2, pads, strict=True)],
        dilations=per_axis(dilation, axes),
        group=groups,
    )


TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)


@translates(*TRANSPOSED)
def conv_transpose(
    e: Emitter,
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
    cut: Sequence[int] = (),
) -> str:
    """With ``cut``, so much more is cut at the end of each axis.

    Where pads must be symmetric, a Slice cuts the rest.
    """
    axes = x.ndim - 2
    stride, padding, extra = (per_axis(setting, axes) for setting in (stride, padding, output_padding))
    after = [p + more for p, more in zip(padding, cut or [0] * axes, strict=True)]
    zeros = [0] * axes
    for axis, (s, p, more) in enumerate(zip(stride, padding, extra, strict=True)):
        if more >= s:
            # PyTorch allows it up to a larger dilation, ONNX does not: cut less, of an image that ends in zeros.
            zeros[axis] = max(0, -(-(more - p) // s))
            after[axis], extra[axis] = after[axis] - more + s * zeros[axis], 0
    least = [min(both) for both in zip(padding, after, strict=True)]
    pads = [*least, *least] if e.symmetric_pads else [*padding, *after]
    kernel = _apart(e, weight) if groups == 1 else weight
    longer = e.op("Pad", x, e.constant([0] * (axes + 4) + zeros)) if any(zeros) else x
    whole: str = e.op(
        "ConvTranspose",
        longer,
        kernel,
        bias,
        kernel_shape=list(weight.shape[2:]),
        strides=stride,
        pads=pads,
        output_padding=extra,
        dilations=per_axis(dilation, axes),
        group=groups,
    )
    if pads == [*padding, *after]:
        return whole
    starts = [p - already for p, already in zip(padding, least, strict=True)]
    ends = [already - p or INT64_MAX for p, already in zip(after, least, strict=True)]
    sliced: str = e.op("Slice", whole, e.constant(starts), e.constant(ends), e.constant([*range(2, x.ndim)]))
    return sliced


@translates(aten.linear.default)
def _linear(e: Emitter, x: Value, weight: Value, bias: Value | None = None) -> str:
    if x.ndim == 2:
        return e.op("Gemm", x, weight, bias, transB=1)
    product = e.op("MatMul", x, e.op("Transpose", weight, perm=[1, 0]))
    return product if bias is None else e.op("Add", product, bias)


@translates(aten.addmm.default)
def _addmm(e: Emitter, bias: Value, x: Value, weight: Value) -> str:
    return e.op("Gemm", x, weight, bias)


@translates(aten.matmul.default, aten.mm.default, aten.bmm.default)
def _matmul(e: Emitter, a: Value, b: Value) -> str:
    return e.op("MatMul", a, _apart(e, b))


def _apart(e: Emitter, weight: Value) -> Value | str:
    """Give a square weight that two layers may share to one of them as a value of its own; the file keeps one copy.

    It is stored, or computed from what is, as a kernel that a batch norm was folded into.

    OpenVINO 2026.4 takes a layer's weight and its transpose for the same thing if they have one shape and come from one
    initializer, and then computes one of them wrongly. It sees through Identity, but not through two Negs.
    """
    # Sizes are compared of weights alone: comparing one that varies would fix it at the sample's.
    node = e.node.args[1]
    shared = isinstance(node, fx.Node) and len(node.users) > 1 and of_weights(node)
    if not (e.is_stored(weight) or shared) or weight.ndim < 2 or weight.shape[0] != weight.shape[1]:
        return weight
    name: str = e.op("Neg", e.op("Neg", weight))
    return name
