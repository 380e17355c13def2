"""Linear operators: convolutions and matrix products. Each rule applies the transposed map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from exporter.rules.table import unbroadcast, vjp
from exporter.sizes import known, per_axis

aten = torch.ops.aten

TRANSPOSED = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}
"""Number of spatial axes -> the transposed convolution."""

_FORWARD = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}


@vjp(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
def conv(
    ct: Tensor,
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor:
    """Transposed convolution with the same kernel.

    What no window reached comes as an output padding, which must be a number: where the size varies, the whole extent
    of the windows is computed, and cut and padded to x.

    ct, y: [N, C', *L']; x: [N, C, *L]; weight: [C', C / groups, *k]; returns [N, C, *L].
    """
    axes = x.ndim - 2
    stride, padding, dilation = (per_axis(value, axes) for value in (stride, padding, dilation))
    size, out, kernel = x.shape[2:], y.shape[2:], weight.shape[2:]
    rest = [known(length) for length in uncovered(size, out, kernel, stride, padding, dilation)]
    extra = [length for length in rest if length is not None]
    if len(extra) == axes:
        return TRANSPOSED[axes](ct, weight, None, stride, padding, extra, groups, dilation)
    whole = TRANSPOSED[axes](ct, weight, None, stride, [0] * axes, [0] * axes, groups, dilation)
    return fit(whole, size, padding)


def fit(whole: Tensor, size: Sequence[int], padding: Sequence[int]) -> Tensor:
    """Cut ``padding`` off the start of every spatial axis, and cut or pad its end with zeros to the size."""
    widths: list[int] = []
    for length, have, p in reversed(list(zip(size, whole.shape[-len(size) :], padding, strict=True))):
        widths += [-p, length + p - have]
    return torch.constant_pad_nd(whole, widths)


def uncovered(
    size: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """Return, per axis, how many trailing positions of the padded input no window of a convolution reached."""
    return [
        length - ((n - 1) * s - 2 * p + d * (k - 1) + 1)
        for length, n, k, s, p, d in zip(size, out, kernel, stride, padding, dilation, strict=True)
    ]


@vjp(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def conv_transpose(
    ct: Tensor,
    y: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Tensor:
    """Convolution with the same kernel. ct, y: [N, C', *L']; weight: [C, C' / groups, *k]; returns [N, C, *L].

    An output padding as large as the stride, which a dilation allows, makes room for windows that x does not have.
    """
    found = _FORWARD[x.ndim - 2](ct, weight, None, stride, padding, dilation, groups)
    for axis in range(2, x.ndim):
        if found.shape[axis] != x.shape[axis]:
            found = aten.slice(found, axis, 0, x.shape[axis])
    return found


@vjp(aten.linear.default)
def linear(ct: Tensor, y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``ct @ weight``. ct: [..., K]; weight: [K, C]; returns [..., C]."""
    return torch.matmul(ct, weight)


@vjp(aten.addmm.default)
def addmm_bias(ct: Tensor, y: Tensor, bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``y = bias + x @ weight``. ct: [N, K]; returns bias's shape."""
    return unbroadcast(ct, bias)


@vjp(aten.addmm.default, wrt=1)
def addmm(ct: Tensor, y: Tensor, bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``y = bias + x @ weight``. ct: [N, K]; weight: [C, K]; returns [N, C]."""
    return torch.matmul(ct, weight.transpose(0, 1))


@vjp(aten.addmm.default, wrt=2)
def addmm_weight(ct: Tensor, y: Tensor, bias: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """``y = bias + x @ weight``. ct: [N, K]; x: [N, C]; returns [C, K]."""
    return torch.matmul(x.transpose(0, 1), ct)


@vjp(aten.matmul.default, aten.mm.default, aten.bmm.default)
def matmul_left(ct: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``ct @ b^T`` for ``y = a @ b``. a: [..., I, J], b: [..., J, K]; returns a's shape."""
    return unbroadcast(torch.matmul(ct, b.transpose(-2, -1)), a)


@vjp(aten.matmul.default, aten.mm.default, aten.bmm.default, wrt=1)
def matmul_right(ct: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a^T @ ct`` for ``y = a @ b``. a: [..., I, J], b: [..., J, K]; returns b's shape."""
    return unbroadcast(torch.matmul(a.transpose(-2, -1), ct), b)
