"""Canonicalise: spell every operator in the one way that the rules and the emitters know.

Each entry is a function of plain torch operators with the signature of the operator that it replaces
and the same value; nothing here changes what the network computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from exporter.errors import UnsupportedOp
from exporter.program import Program, interpret, place_of, retrace

aten = torch.ops.aten
Number = int | float

SPELLINGS: dict[torch._ops.OpOverload, Callable[..., Any]] = {}
"""Operator -> its canonical spelling."""


def canonicalize(program: Program) -> Program:
    """Return the same function in canonical operators."""

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        env = interpret(program, values, _respell)
        return tuple(env[node] for node in program.outputs)

    return retrace(program, function)


def _respell(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    op: Any = node.target
    try:
        return SPELLINGS.get(op, op)(*args, **kwargs)
    except UnsupportedOp as error:
        raise UnsupportedOp(f"{error} ({place_of(node)})") from error


def _spelling(*ops: torch._ops.OpOverload) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        SPELLINGS.update(dict.fromkeys(ops, function))
        return function

    return register


# -- what does nothing ----------------------------------------------------------------------------------------


@_spelling(
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.alpha_dropout.default,
    aten.dropout.default,
    aten.feature_alpha_dropout.default,
    aten.feature_dropout.default,
    aten.lift_fresh_copy.default,
)
def _identity(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """In eval mode these return their input."""
    return x


@_spelling(aten._to_copy.default)
def _to_copy(x: Tensor, *, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
    """A conversion to the dtype that it has already is none, in whatever dtype the program runs."""
    return x if dtype in (None, x.dtype) else aten._to_copy(x, dtype=dtype)


@_spelling(aten.type_as.default)
def _type_as(x: Tensor, other: Tensor) -> Tensor:
    return x if x.dtype == other.dtype else aten.type_as(x, other.detach())


# -- convolutions and products --------------------------------------------------------------------------------


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: str = "valid",
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor:
    """Padding in numbers: ``same`` puts ``d (k - 1)`` around each axis, the odd one at the end."""
    axes = x.ndim - 2
    spread = list(dilation) * axes if len(dilation) == 1 else list(dilation)
    total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(spread, weight.shape[2:], strict=True)]
    if any(width % 2 for width in total):
        x = torch.constant_pad_nd(x, [width for n in reversed(total) for width in (0, n % 2)])
    function = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[axes]
    return function(x, weight, bias, stride, [n // 2 for n in total], dilation, groups)


_spelling(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding)(_convolution)


@_spelling(aten.matmul.default)
def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """A vector is a matrix of one row on the left, of one column on the right."""
    product = torch.matmul(a.unsqueeze(0) if a.ndim == 1 else a, b.unsqueeze(1) if b.ndim == 1 else b)
    product = product.squeeze(-1) if b.ndim == 1 else product
    return product.squeeze(-1 if b.ndim == 1 else -2) if a.ndim == 1 else product


@_spelling(aten.addmm.default, aten.baddbmm.default)
def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """A product and a sum, but for the one form that runtimes know."""
    if a.ndim == 2 and beta == alpha == 1:
        return torch.addmm(bias, a, b)
    product = torch.matmul(a, b)
    return (bias if beta == 1 else bias * beta) + (product if alpha == 1 else product * alpha)


@_spelling(aten.einsum.default)
def _einsum(equation: str, operands: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """Products of two operands at a time, from the left."""
    terms, output = _terms(equation, operands)
    result, letters = operands[0], terms[0]
    for index, (operand, term) in enumerate(zip(operands[1:], terms[1:], strict=True)):
        later = set(output).union(*terms[index + 2 :])
        result, letters = _pair(result, letters, operand, term, later)
    result, letters = _sum_out(result, letters, set(output))
    return result if letters == output else result.permute([letters.index(letter) for letter in output])


def _terms(equation: str, operands: Sequence[Tensor]) -> tuple[list[str], str]:
    """Return a letter for every axis of each operand, and of the output; ``...`` stands for upper-case ones."""
    left, _, output = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    dots = "".join(letter for letter in "ZYXWVUTS" if letter not in equation)
    given = (x.ndim - len(term.replace("...", "")) for x, term in zip(operands, terms, strict=True) if "..." in term)
    if "->" not in equation:
        letters = left.replace(",", "").replace(".", "")
        output = "..." * ("..." in left) + "".join(sorted(a for a in set(letters) if letters.count(a) == 1))
    output = output.replace("...", dots[len(dots) - max(given, default=0) :])
    for index, (x, term) in enumerate(zip(operands, terms, strict=True)):
        count = x.ndim - len(term.replace("...", ""))
        terms[index] = term.replace("...", dots[len(dots) - count :])
        if len(set(terms[index])) < x.ndim:
            raise UnsupportedOp(f"einsum {equation!r} takes a diagonal")
    return terms, output


def _pair(a: Tensor, left: str, b: Tensor, right: str, kept: set[str]) -> tuple[Tensor, str]:
    """Contract two operands over the letters that nobody needs later; as one batched product of matrices."""
    a, left = _sum_out(a, left, kept | set(right))
    b, right = _sum_out(b, right, kept | set(left))
    batch = [letter for letter in left if letter in right and letter in kept]
    inner = [letter for letter in left if letter in right and letter not in kept]
    rows, columns = ([letter for letter in term if letter not in batch + inner] for term in (left, right))
    size = dict(zip(left + right, [*a.shape, *b.shape], strict=True))
    shapes = [[size[letter] for letter in letters] for letters in (batch, rows, inner, columns)]
    a = a.permute([left.index(letter) for letter in batch + rows + inner])
    b = b.permute([right.index(letter) for letter in batch + inner + columns])
    a = a.reshape([*shapes[0], math.prod(shapes[1]), math.prod(shapes[2])])
    b = b.reshape([*shapes[0], math.prod(shapes[2]), math.prod(shapes[3])])
    return torch.matmul(a, b).reshape([*shapes[0], *shapes[1], *shapes[3]]), "".join(batch + rows + columns)


def _sum_out(x: Tensor, letters: str, kept: set[str]) -> tuple[Tensor, str]:
    axes = [axis for axis, letter in enumerate(letters) if letter not in kept]
    return (x.sum(axes) if axes else x), "".join(letter for letter in letters if letter in kept)


@_spelling(aten.scaled_dot_product_attention.default)
def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(scale q k^T + mask) v``. q: [..., L, E]; k: [..., S, E]; v: [..., S, V]."""
    if dropout or enable_gqa:
        raise UnsupportedOp("scaled_dot_product_attention with dropout or grouped queries has no spelling")
    score = torch.matmul(query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale), key.transpose(-2, -1))
    if is_causal:
        rows = torch.arange(query.shape[-2], device=query.device)[:, None]
        mask = torch.arange(key.shape[-2], device=query.device) <= rows
    if mask is not None and mask.dtype == torch.bool:
        score = score.masked_fill(mask.logical_not(), -math.inf)
    elif mask is not None:
        score = score + mask
    return torch.matmul(score.softmax(-1), value)


# -- normalisation --------------------------------------------------------------------------------------------


@_spelling(aten._native_batch_norm_legit_no_training.default)
def _batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float
) -> tuple[Tensor, None, None]:
    """The normalisation alone; the saved statistics serve a training step only."""
    return torch.batch_norm(x, weight, bias, mean, var, False, momentum, eps, False), None, None


@_spelling(aten._native_batch_norm_legit.no_stats)
def _batch_norm_of_one(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float
) -> tuple[Tensor, None, None]:
    """Of a batch of one, as weight standardisation has it: each channel by its own statistics."""
    if not isinstance(x.shape[0], int) or x.shape[0] != 1:
        raise UnsupportedOp("batch norm without running statistics mixes the images of a batch")
    return _group_norm(x, x.shape[1], weight, bias, eps), None, None


@_spelling(aten.group_norm.default)
def _group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = False,
) -> Tensor:
    """With the statistics, which the vjp needs."""
    positions = math.prod(x.shape[2:])
    return torch.native_group_norm(x, weight, bias, x.shape[0], x.shape[1], positions, groups, eps)[0]


@_spelling(aten.instance_norm.default)
def _instance_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """One channel a group; with running statistics, a batch norm."""
    if use_input_stats:
        return _group_norm(x, x.shape[1], weight, bias, eps)
    return torch.batch_norm(x, weight, bias, mean, var, False, momentum, eps, False)


@_spelling(aten.layer_norm.default)
def _layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = False,
) -> Tensor:
    """With the statistics, which the vjp needs."""
    return torch.native_layer_norm(x, shape, weight, bias, eps)[0]


@_spelling(aten.rms_norm.default)
def _rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """``x / sqrt(mean(x^2) + eps)``."""
    square = torch.pow(x, 2).mean(list(range(-len(shape), 0)), keepdim=True)
    normal = x * torch.rsqrt(square + (torch.finfo(x.dtype).eps if eps is None else eps))
    return normal if weight is None else normal * weight


# -- pooling --------------------------------------------------------------------------------------------------


@_spelling(aten.max_pool2d.default)
def _max_pool2d(x: Tensor, *args: Any) -> Tensor:
    """With the argmax, which the vjp needs."""
    return aten.max_pool2d_with_indices(x, *args)[0]


@_spelling(aten.max_pool3d.default)
def _max_pool3d(x: Tensor, *args: Any) -> Tensor:
    """With the argmax, which the vjp needs."""
    return aten.max_pool3d_with_indices(x, *args)[0]


@_spelling(aten.max_pool1d.default)
def _max_pool1d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor:
    """In two dimensions, one high."""
    settings = [1, *kernel], [1, *(stride or kernel)], [0, *padding], [1, *dilation], ceil_mode
    return aten.max_pool2d_with_indices(x.unsqueeze(-2), *settings)[0].squeeze(-2)


@_spelling(aten.avg_pool1d.default)
def _avg_pool1d(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """In two dimensions, one high."""
    settings = [1, *kernel], [1, *(stride or kernel)], [0, *padding], ceil_mode, count_include_pad
    return aten.avg_pool2d(x.unsqueeze(-2), *settings).squeeze(-2)


@_spelling(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default)
def _adaptive_avg_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    """A mean, a pool with a fixed kernel, or, where windows differ in size, averaging matrices.

    Window ``i`` of ``n`` covers ``[floor(i * L / n), ceil((i + 1) * L / n))`` of an axis of length ``L``.
    """
    axes = len(size)
    lengths = list(x.shape[-axes:])
    if all(count == 1 for count in size):
        return x.mean(list(range(-axes, 0)), keepdim=True)
    if lengths == list(size):
        return x
    if all(length % count == 0 for length, count in zip(lengths, size, strict=True)):
        window = [length // count for length, count in zip(lengths, size, strict=True)]
        if axes == 1:
            return _avg_pool1d(x, window, window)
        return (aten.avg_pool2d if axes == 2 else aten.avg_pool3d)(x, window, window)
    for axis, length, count in zip(range(-axes, 0), lengths, size, strict=True):
        if length != count:
            x = _along(x, axis, _averaging_matrix(x, length, count))
    return x


def _along(x: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Multiply a matrix ``[M, L]`` with one of the last three axes of ``x``: ``L`` becomes ``M``."""
    if axis == -1:
        return x @ matrix.transpose(0, 1)
    if axis == -2:
        return matrix @ x
    return (matrix @ x.flatten(-2)).reshape([*x.shape[:-3], matrix.shape[0], *x.shape[-2:]])


def _averaging_matrix(x: Tensor, length: int, count: int) -> Tensor:
    """Return ``[count, length]``: row ``i`` holds the weights of window ``i`` of an adaptive average pool."""
    if not (isinstance(length, int) and isinstance(count, int)):
        raise UnsupportedOp("adaptive_avg_pool2d to a size that does not divide the image's needs a fixed image size")
    position = torch.arange(length, device=x.device)[None, :]
    window = torch.arange(count, device=x.device)[:, None]
    inside = (position * count < (window + 1) * length) & ((position + 1) * count > window * length)
    members = inside * x.new_ones(())  # of x's dtype, whatever it is when the program runs
    return members / members.sum(1, keepdim=True)


@_spelling(aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
def _adaptive_max_pool(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A pool with a fixed kernel; where windows differ in size, of the windows laid side by side.

    Too short a window is filled up with its last element once more, which changes neither the maximum nor the first
    place that has it. Of the indices, those of uneven windows count in what is pooled.
    """
    axes = len(size)
    kernel = []
    for axis, length, count in zip(range(-axes, 0), x.shape[-axes:], size, strict=True):
        if length % count:
            index = _windows(x, length, count)
            x = torch.index_select(x, axis, index.flatten())
            kernel.append(index.shape[1])
        else:
            kernel.append(length // count)
    if axes == 1:
        values, indices = aten.max_pool2d_with_indices(x.unsqueeze(-2), [1, *kernel], [1, *kernel])
        return values.squeeze(-2), indices.squeeze(-2)
    return (aten.max_pool2d_with_indices if axes == 2 else aten.max_pool3d_with_indices)(x, kernel, kernel)


def _windows(x: Tensor, length: int, count: int) -> Tensor:
    """Return ``[count, longest window]``: the positions in each window of an adaptive pool."""
    bounds = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
    window = torch.arange(count, device=x.device)[:, None]
    start, last = window * length // count, ((window + 1) * length - 1) // count
    tap = torch.arange(max(end - start for start, end in bounds), device=x.device)
    return torch.minimum(start + tap, last)


# -- resampling -----------------------------------------------------------------------------------------------


def _nearest(exact: bool) -> Callable[..., Tensor]:
    def resample(x: Tensor, size: Sequence[int] | None, scales: Sequence[float] | None) -> Tensor:
        """Copies, where each value has equally many; else a matrix of zeros and ones for each axis."""
        offset = 0.5 if exact else 0.0
        for axis, length, count, scale in _axes(x, size, scales):
            taken = np.floor((np.arange(count, dtype=np.float32) + np.float32(offset)) * np.float32(scale))
            copies = count // length
            if copies * length == count and np.array_equal(taken, np.arange(count) // copies):
                x = x.unsqueeze(axis)
                shape = [-1] * x.ndim
                shape[axis] = copies
                x = x.expand(shape).flatten(axis - 1, axis)
            else:  # in float32, as PyTorch does for float32 images: at a boundary between samples the rounding decides
                position = (torch.arange(count, device=x.device, dtype=torch.float32) + offset) * scale
                nearest = torch.floor(position).clamp(max=length - 1)[:, None]
                matrix = (nearest == torch.arange(length, device=x.device)) * x.new_ones(())
                x = _along(x, axis, matrix)
        return x

    return resample


_spelling(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec)(_nearest(False))
_spelling(aten._upsample_nearest_exact1d.vec, aten._upsample_nearest_exact2d.vec, aten._upsample_nearest_exact3d.vec)(
    _nearest(True)
)


@_spelling(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, aten.upsample_trilinear3d.vec)
def _linear(
    x: Tensor, size: Sequence[int] | None, align_corners: bool, scales: Sequence[float] | None = None
) -> Tensor:
    """One matrix for each axis: a value at distance ``d < 1`` from a sample's position weighs ``1 - d``."""
    for axis, length, count, scale in _axes(x, size, scales):
        position = _positions(x, length, count, scale, align_corners).clamp(0, length - 1)
        distance = torch.abs(position - torch.arange(length, device=x.device))
        x = _along(x, axis, (1 - distance).clamp(min=0))
    return x


@_spelling(aten.upsample_bicubic2d.vec)
def _bicubic(
    x: Tensor, size: Sequence[int] | None, align_corners: bool, scales: Sequence[float] | None = None
) -> Tensor:
    """One matrix for each axis: four taps around a position, those outside the image at its edge.

    Keys (1981), equation 4 with a = -3/4: a tap at distance ``d <= 1`` weighs ``(a + 2) d^3 - (a + 3) d^2 + 1``, one
    further away ``a d^3 - 5 a d^2 + 8 a d - 4 a``.
    """
    a = -0.75
    for axis, length, count, scale in _axes(x, size, scales):
        position = _positions(x, length, count, scale, align_corners)
        first, column = torch.floor(position), torch.arange(length, device=x.device)
        matrix = None
        for tap in (-1, 0, 1, 2):
            d = torch.abs(position - first - tap)
            near = ((a + 2) * d - (a + 3)) * d * d + 1
            weight = near if tap in (0, 1) else ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
            part = weight * ((first + tap).clamp(0, length - 1) == column)
            matrix = part if matrix is None else matrix + part
        assert matrix is not None
        x = _along(x, axis, matrix)
    return x


def _axes(x: Tensor, size: Sequence[int] | None, scales: Sequence[float] | None) -> list[tuple[int, int, int, float]]:
    """Return, for every axis to resample, the axis, its length, the new one, and input steps per output step."""
    axes = x.ndim - 2
    lengths = x.shape[2:]
    if not all(isinstance(length, int) for length in (*lengths, *(size or ()))):
        raise UnsupportedOp("resampling needs a fixed image size")
    counts = [int(n * s) for n, s in zip(lengths, scales or (), strict=True)] if size is None else list(size)
    steps = [1 / s for s in scales] if scales else [n / m for n, m in zip(lengths, counts, strict=True)]
    every = zip(range(-axes, 0), lengths, counts, steps, strict=True)
    return [axis for axis in every if axis[1] != axis[2] or axis[3] != 1]


def _positions(x: Tensor, length: int, count: int, scale: float, align_corners: bool) -> Tensor:
    """Return ``[count, 1]``: where each output sample lies among the input's, in x's dtype when the program runs."""
    index = (torch.arange(count, device=x.device) * x.new_ones(()))[:, None]
    if align_corners:
        return index * ((length - 1) / (count - 1) if count > 1 else 0.0)
    return (index + 0.5) * scale - 0.5


# -- pointwise ------------------------------------------------------------------------------------------------


@_spelling(aten.clip.default)
def _clip(x: Tensor, min: Number | None = None, max: Number | None = None) -> Tensor:
    """The same operator under another name."""
    return torch.clamp(x, min, max)


@_spelling(aten.selu.default)
def _selu(x: Tensor) -> Tensor:
    """An ELU with the constants of Klambauer et al. (2017), arXiv:1706.02515, equation 14."""
    return aten.elu(x, 1.6732632423543772, 1.0507009873554805)


@_spelling(aten.celu.default)
def _celu(x: Tensor, alpha: Number = 1.0) -> Tensor:
    """``max(x, 0) + min(alpha (e^(x / alpha) - 1), 0)``."""
    return aten.elu(x, alpha, 1.0, 1.0 / alpha)


@_spelling(aten.glu.default)
def _glu(x: Tensor, dim: int = -1) -> Tensor:
    """``a sigmoid(b)`` of the two halves."""
    half = x.shape[dim] // 2
    a, b = torch.split_with_sizes(x, [half, half], dim)
    return a * torch.sigmoid(b)


@_spelling(aten.rrelu.default)
def _rrelu(
    x: Tensor, lower: Number = 1 / 8, upper: Number = 1 / 3, training: bool = False, generator: Any = None
) -> Tensor:
    """In eval mode a leaky ReLU with the mean slope."""
    return torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


@_spelling(aten.square.default)
def _square(x: Tensor) -> Tensor:
    return torch.pow(x, 2)


@_spelling(aten.max.other, aten.maximum.default)
def _maximum(a: Tensor, b: Tensor) -> Tensor:
    return torch.maximum(a, b)


@_spelling(aten.min.other, aten.minimum.default)
def _minimum(a: Tensor, b: Tensor) -> Tensor:
    return torch.minimum(a, b)


@_spelling(aten.addcmul.default)
def _addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: Number = 1) -> Tensor:
    return torch.add(x, a * b, alpha=value)


@_spelling(aten.addcdiv.default)
def _addcdiv(x: Tensor, a: Tensor, b: Tensor, *, value: Number = 1) -> Tensor:
    return torch.add(x, a / b, alpha=value)


@_spelling(aten.lerp.Scalar, aten.lerp.Tensor)
def _lerp(a: Tensor, b: Tensor, weight: Tensor | Number) -> Tensor:
    """``a + weight (b - a)``."""
    return a + (b - a) * weight


@_spelling(aten.where.ScalarSelf)
def _where_number_or(condition: Tensor, a: Number, b: Tensor) -> Tensor:
    return torch.where(condition, _filler(b, a), b)


@_spelling(aten.where.ScalarOther)
def _where_or_number(condition: Tensor, a: Tensor, b: Number) -> Tensor:
    return torch.where(condition, a, _filler(a, b))


@_spelling(aten.where.Scalar)
def _where_numbers(condition: Tensor, a: Number, b: Number) -> Tensor:
    dtype = torch.result_type(a, b)
    left, right = (condition.new_full((), value, dtype=dtype) for value in (a, b))
    return torch.where(condition, left, right)


def _filler(x: Tensor, value: Number) -> Tensor:
    """Return a number as a tensor, of x's dtype unless that cannot hold it."""
    dtype = torch.result_type(x, value)
    return x.new_full((), value) if dtype == x.dtype else x.new_full((), value, dtype=dtype)


@_spelling(aten.masked_fill.Tensor)
def _masked_fill(x: Tensor, mask: Tensor, value: Tensor) -> Tensor:
    return torch.where(mask, value.type_as(x) if value.dtype != x.dtype else value, x)


# -- reductions -----------------------------------------------------------------------------------------------


@_spelling(aten.sum.default)
def _sum(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    return torch.sum(x, list(range(x.ndim)), dtype=dtype)


@_spelling(aten.mean.default)
def _mean(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    return torch.mean(x, list(range(x.ndim)), dtype=dtype)


@_spelling(aten.var.default, aten.var.dim, aten.var.correction)
def _var(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    dim, settings = _spread_settings(x, *args, **kwargs)
    return aten.var.correction(x, dim, **settings)


@_spelling(aten.std.default, aten.std.dim, aten.std.correction)
def _std(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    dim, settings = _spread_settings(x, *args, **kwargs)
    return aten.std.correction(x, dim, **settings)


@_spelling(aten.var_mean.default, aten.var_mean.dim, aten.var_mean.correction)
def _var_mean(x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    dim, settings = _spread_settings(x, *args, **kwargs)
    return aten.var.correction(x, dim, **settings), x.mean(dim, keepdim=settings["keepdim"])


def _spread_settings(
    x: Tensor,
    dim: Sequence[int] | bool | None = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: Number | None = None,
) -> tuple[list[int], dict[str, Any]]:
    """Read the arguments of any overload of ``var`` and ``std``; the first may be ``dim`` or ``unbiased``."""
    if isinstance(dim, bool):
        return _spread_settings(x, None, dim)
    axes = [d % x.ndim for d in dim] if dim else list(range(x.ndim))
    return axes, {"correction": int(unbiased) if correction is None else correction, "keepdim": keepdim}


@_spelling(aten.max.default)
def _max(x: Tensor) -> Tensor:
    return torch.amax(x, list(range(x.ndim)))


@_spelling(aten.min.default)
def _min(x: Tensor) -> Tensor:
    return torch.amin(x, list(range(x.ndim)))


@_spelling(aten.max.dim)
def _max_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return _chosen(x, x.argmax(dim, keepdim=True), dim, keepdim)


@_spelling(aten.min.dim)
def _min_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    return _chosen(x, torch.neg(x).argmax(dim, keepdim=True), dim, keepdim)


def _chosen(x: Tensor, index: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """Read the first extreme: the whole cotangent is its own, where ``amax`` shares."""
    found = x.gather(dim, index)
    return (found, index) if keepdim else (found.squeeze(dim), index.squeeze(dim))


@_spelling(aten.linalg_vector_norm.default)
def _vector_norm(
    x: Tensor,
    ord: Number = 2,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The Euclidean norm has an operator of its own; sums and maxima of absolute values are spelled out."""
    axes = [d % x.ndim for d in dim] if dim else list(range(x.ndim))
    if ord == 2:
        return torch.linalg.vector_norm(x, 2, axes, keepdim)
    if ord == 1:
        return x.abs().sum(axes, keepdim)
    if ord == math.inf:
        return x.abs().amax(axes, keepdim)
    raise UnsupportedOp(f"linalg_vector_norm of order {ord} has no vjp rule: 1, 2 and infinity have")


@_spelling(aten.linalg_norm.default)
def _linalg_norm(
    x: Tensor,
    ord: Number | None = None,
    dim: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    if ord is not None and len(dim or range(x.ndim)) != 1:
        raise UnsupportedOp("linalg_norm of matrices has no vjp rule")
    return _vector_norm(x, 2 if ord is None else ord, dim, keepdim)


@_spelling(aten.norm.ScalarOpt_dim)
def _norm(x: Tensor, p: Number | None, dim: Sequence[int], keepdim: bool = False) -> Tensor:
    return _vector_norm(x, 2 if p is None else p, dim, keepdim)


@_spelling(aten.cosine_similarity.default)
def _cosine_similarity(a: Tensor, b: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """``sum(a / max(|a|, eps) * b / max(|b|, eps))``."""
    rank = max(a.ndim, b.ndim)
    sizes = zip(*([1] * (rank - x.ndim) + list(x.shape) for x in (a, b)), strict=True)
    shape = [m if isinstance(n, int) and n == 1 else n for n, m in sizes]
    parts = [x / torch.linalg.vector_norm(x, 2, [dim], True).clamp_min(eps) for x in (a.expand(shape), b.expand(shape))]
    return (parts[0] * parts[1]).sum([dim])


# -- shape ----------------------------------------------------------------------------------------------------


@_spelling(aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.flatten.using_ints)
def _view(x: Tensor, *args: Any) -> Tensor:
    """One spelling for every change of shape; a view of what ``contiguous`` once copied is not always a view."""
    return x.reshape(*args) if args and isinstance(args[0], (list, tuple)) else x.flatten(*args)


@_spelling(aten.pad.default)
def _pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """A constant has an operator of its own, a circular border is a concatenation; the others stay as they are."""
    if mode == "constant":
        return torch.constant_pad_nd(x, pad, 0.0 if value is None else value)
    if min(pad) < 0:
        raise UnsupportedOp(f"pad with mode {mode!r} crops: {list(pad)}")
    if mode != "circular":
        return aten.pad(x, pad, mode, value)
    for axis, (before, after) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        dim = x.ndim - 1 - axis
        length = x.shape[dim]
        parts = [aten.slice(x, dim, length - before, length)] if before else []
        parts += [x, aten.slice(x, dim, 0, after)] if after else [x]
        x = torch.cat(parts, dim) if len(parts) > 1 else x
    return x


@_spelling(aten.split.Tensor)
def _split(x: Tensor, size: int, dim: int = 0) -> Sequence[Tensor]:
    """By sizes; the last part is what is left."""
    length = x.shape[dim]
    sizes = [size] * (length // size) + ([length % size] if length % size else [])
    return torch.split_with_sizes(x, sizes, dim)


@_spelling(aten.chunk.default)
def _chunk(x: Tensor, chunks: int, dim: int = 0) -> Sequence[Tensor]:
    return _split(x, -(-x.shape[dim] // chunks), dim)


@_spelling(aten.tensor_split.sections)
def _tensor_split(x: Tensor, sections: int, dim: int = 0) -> Sequence[Tensor]:
    """The first parts are one longer, where the length does not divide."""
    size, longer = divmod(x.shape[dim], sections)
    return torch.split_with_sizes(x, [size + 1] * longer + [size] * (sections - longer), dim)


@_spelling(aten.roll.default)
def _roll(x: Tensor, shifts: list[int], dims: list[int] | tuple[()] = ()) -> Tensor:
    """Without axes, of the values in row-major order."""
    return x.roll(shifts, dims) if dims else x.flatten().roll(shifts, [0]).reshape(x.shape)


@_spelling(aten.repeat.default, aten.tile.default)
def _repeat(x: Tensor, repeats: Sequence[int]) -> Tensor:
    return x.repeat([1] * (x.ndim - len(repeats)) + list(repeats))


@_spelling(aten.repeat_interleave.self_int)
def _repeat_interleave(x: Tensor, repeats: int, dim: int | None = None, *, output_size: int | None = None) -> Tensor:
    """Copies along a new axis, which is then joined with the old one."""
    if dim is None:
        x, dim = x.flatten(), 0
    dim %= x.ndim
    shape = [-1] * (x.ndim + 1)
    shape[dim + 1] = repeats
    return x.unsqueeze(dim + 1).expand(shape).flatten(dim, dim + 1)


@_spelling(aten.pixel_shuffle.default)
def _pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """``[N, C r^2, H, W] -> [N, C, H r, W r]``."""
    batch, channels, height, width = x.shape
    apart = x.reshape([batch, channels // factor**2, factor, factor, height, width]).permute([0, 1, 4, 2, 5, 3])
    return apart.reshape([batch, channels // factor**2, height * factor, width * factor])


@_spelling(aten.pixel_unshuffle.default)
def _pixel_unshuffle(x: Tensor, factor: int) -> Tensor:
    """``[N, C, H r, W r] -> [N, C r^2, H, W]``."""
    batch, channels, height, width = x.shape[0], x.shape[1], x.shape[2] // factor, x.shape[3] // factor
    apart = x.reshape([batch, channels, height, factor, width, factor]).permute([0, 1, 3, 5, 2, 4])
    return apart.reshape([batch, channels * factor**2, height, width])


@_spelling(aten.channel_shuffle.default)
def _channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel ``j`` of group ``i`` becomes channel ``i`` of group ``j``."""
    apart = x.reshape([x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]])
    return apart.transpose(1, 2).reshape(x.shape)


# -- by index, and writing into a part ------------------------------------------------------------------------


@_spelling(aten.index.Tensor)
def _index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """One tensor of whole numbers, for one axis; negative ones count from the end."""
    given = [axis for axis, index in enumerate(indices) if index is not None]
    index = indices[given[0]]
    if len(given) > 1 or index is None or index.dtype in (torch.bool, torch.uint8):
        raise UnsupportedOp("index by several tensors or by a mask has no spelling; index one axis by whole numbers")
    axis = given[0]
    flat = index.flatten()
    taken = torch.index_select(x, axis, torch.where(flat < 0, flat + x.shape[axis], flat))
    return taken if index.ndim == 1 else taken.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


@_spelling(aten.index_put.default)
def _index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """``x[mask] = number``."""
    mask = indices[0]
    if len(indices) > 1 or mask is None or mask.dtype != torch.bool or values.numel() != 1 or accumulate:
        raise UnsupportedOp("index_put writes one number where a mask holds; other forms have no spelling")
    return torch.where(mask.reshape([*mask.shape, *[1] * (x.ndim - mask.ndim)]), values.reshape(()), x)


@_spelling(aten.copy.default)
def _copy(x: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """The new value, in the old one's shape and dtype."""
    source = source if source.dtype == x.dtype else source.type_as(x)
    return source.expand(x.shape) if source.shape != x.shape else source


@_spelling(aten.zero.default)
def _zero(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


@_spelling(aten.fill.Tensor)
def _fill(x: Tensor, value: Tensor) -> Tensor:
    return _copy(x, value)


@_spelling(aten.fill.Scalar, aten.full_like.default)
def _full_like(x: Tensor, value: Number, *, dtype: torch.dtype | None = None, **kwargs: Any) -> Tensor:
    return x.new_full(x.shape, value) if dtype in (None, x.dtype) else x.new_full(x.shape, value, dtype=dtype)


@_spelling(aten.slice_scatter.default)
def _slice_scatter(
    x: Tensor, source: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """What is before, the new value, what is after; with a step, a scatter."""
    length = x.shape[dim]
    if not isinstance(length, int):
        if start in (None, 0) and step == 1 and source.shape[dim] == length:
            return source
        raise UnsupportedOp("writing into a part of the batch has no spelling: every image needs its own logits")
    first, last, _ = slice(start, end, step).indices(length)
    if step > 1:
        index = torch.arange(first, last, step, device=x.device)
        index = index.reshape([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)]).expand(source.shape)
        return x.scatter(dim, index, source)
    parts = [aten.slice(x, dim, 0, first)] if first > 0 else []
    parts += [source, aten.slice(x, dim, last, length)] if last < length else [source]
    return torch.cat(parts, dim) if len(parts) > 1 else source


@_spelling(aten.select_scatter.default)
def _select_scatter(x: Tensor, source: Tensor, dim: int, index: int) -> Tensor:
    index %= x.shape[dim]
    return _slice_scatter(x, source.unsqueeze(dim), dim, index, index + 1)
