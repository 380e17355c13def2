"""Translations of pools."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from exporter.emit.onnx.emitter import Emitter, Translation, Value, translates
from exporter.errors import UnsupportedOp
from exporter.sizes import per_axis

aten = torch.ops.aten


def _end_padding(
    ceil_mode: bool,
    size: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Return what ceil mode adds after the image: ONNX's own ceil mode rounds edge windows differently."""
    if not ceil_mode:
        return [0] * len(size)
    if not all(isinstance(length, int) for length in (*size, *out)):
        raise UnsupportedOp("a pool in ceil mode needs a fixed image size in ONNX")
    return [
        max(0, (n - 1) * s + d * (k - 1) + 1 - (length + 2 * p))
        for length, n, k, s, p, d in zip(size, out, kernel, stride, padding, dilation, strict=True)
    ]


def _max_pool(axes: int) -> Translation:
    def translation(
        e: Emitter,
        x: Value,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        dilation: Sequence[int] = (1,),
        ceil_mode: bool = False,
    ) -> list[str]:
        kernel, padding, dilation = (per_axis(v, axes) for v in (kernel, padding, dilation))
        stride = per_axis(stride, axes) if len(stride) else kernel
        fake, size = e.node.meta["val"][0], x.shape[-axes:]
        extra = _end_padding(ceil_mode, size, fake.shape[-axes:], kernel, stride, padding, dilation)
        wants_indices = any(user.args[1] == 1 for user in e.node.users)
        found = e.op(
            "MaxPool",
            x,
            outputs=2 if wants_indices else 1,
            kernel_shape=kernel,
            strides=stride,
            pads=[*padding, *(p + more for p, more in zip(padding, extra, strict=True))],
            dilations=dilation,
        )
        if not wants_indices:
            return [found]
        # ONNX counts from the start of the tensor, PyTorch from the start of the channel.
        return [found[0], e.op("Mod", found[1], e.as_value(math.prod(size), torch.int64))]

    return translation


translates(aten.max_pool2d_with_indices.default)(_max_pool(2))
translates(aten.max_pool3d_with_indices.default)(_max_pool(3))


def _avg_pool(axes: int) -> Translation:
    def translation(
        e: Emitter,
        x: Value,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor: int | None = None,
    ) -> str:
        kernel, padding = per_axis(kernel, axes), per_axis(padding, axes)
        stride = per_axis(stride, axes) if len(stride) else kernel
        extra = _end_padding(ceil_mode, x.shape[-axes:], e.fake.shape[-axes:], kernel, stride, padding, [1] * axes)
        source: Value | str = x
        if any(padding) and (count_include_pad or divisor is not None):
            # Padding counts, what ceil mode adds does not.
            source = e.op("Pad", x, e.constant([0, 0, *padding, 0, 0, *padding]))
            padding = [0] * axes
        pooled: str = e.op(
            "AveragePool",
            source,
            kernel_shape=kernel,
            strides=stride,
            pads=[*padding, *(p + more for p, more in zip(padding, extra, strict=True))],
            count_include_pad=int(divisor is not None),
        )
        if divisor is None:
            return pooled
        return e.op("Mul", pooled, e.constant(math.prod(kernel) / divisor, x.dtype))

    return translation


translates(aten.avg_pool2d.default)(_avg_pool(2))
translates(aten.avg_pool3d.default)(_avg_pool(3))
