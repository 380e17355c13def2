"""Spellings of convolutions and products: padding written out, attention and einsum as matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from exporter.errors import UnsupportedOp
from exporter.rules.linear import TRANSPOSED
from exporter.sizes import is_one, known, per_axis
from exporter.spellings.indexing import diagonal
from exporter.spellings.reduction import vector_norm
from exporter.spellings.table import Number, aten, spelling
from exporter.spellings.windows import im2col


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
    axes = weight.ndim - 2
    every = zip(per_axis(dilation, axes), weight.shape[2:], strict=True)
    total = [d * (k - 1) if padding == "same" else 0 for d, k in every]
    if any(width % 2 for width in total):
        x = torch.constant_pad_nd(x, [width for n in reversed(total) for width in (0, n % 2)])
    function: Callable[..., Tensor] = torch.conv3d if axes == 3 else _of_own_kernels
    return function(x, weight, bias, stride, [n // 2 for n in total], dilation, groups)


spelling(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding)(_convolution)


@spelling(aten.conv1d.default, aten.conv2d.default)
def _of_own_kernels(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor:
    """With a kernel for each image, as many groups as images: a product of each one's windows with its kernels.

    So they are written as one convolution: images ``[1, N C, *L]``, weight ``[N C', C, *k]``, ``N`` groups.
    """
    axes = weight.ndim - 2
    if x.ndim == axes + 1:  # an image without a batch
        return _of_own_kernels(x.unsqueeze(0), weight, bias, stride, padding, dilation, groups).squeeze(0)
    function = {1: torch.conv1d, 2: torch.conv2d}[axes]
    if known(groups) is not None:
        return function(x, weight, bias, stride, padding, dilation, groups)
    settings = [per_axis(value, axes) for value in (dilation, padding, stride)]
    if axes == 1:  # in two dimensions, one high
        settings = [[neutral, *value] for value, neutral in zip(settings, (1, 0, 1), strict=True)]
    kernel, inner = list(weight.shape[2:]), weight.shape[1]
    images = x.reshape([*x.shape[:1], groups, inner, *[1] * (2 - axes), *x.shape[2:]])
    columns, size = im2col(images, [1] * (2 - axes) + kernel, *settings)
    product = torch.matmul(weight.reshape([groups, -1, inner * math.prod(kernel)]), columns)
    y = product.reshape([x.shape[0], weight.shape[0], *size[2 - axes :]])
    return y if bias is None else y + bias.reshape([-1] + [1] * axes)


@spelling(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def _conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Tensor:
    """An output padding is a number: where it varies, the largest there is, and what is too long is cut off."""
    axes = weight.ndim - 2
    settings = [per_axis(setting, axes) for setting in (output_padding, stride, dilation)]
    widest = [more if known(more) is not None else max(s, d) - 1 for more, s, d in zip(*settings, strict=True)]
    y = TRANSPOSED[axes](x, weight, bias, stride, padding, widest, groups, dilation)
    if all(known(more) is not None for more in settings[0]):
        return y
    surplus = [more - most for more, most in zip(settings[0], widest, strict=True)]
    return torch.constant_pad_nd(y, [width for end in reversed(surplus) for width in (0, end)])


@spelling(aten.linear.default)
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A weight ``[L]`` is a product with a vector."""
    if weight.ndim == 2:
        return torch.nn.functional.linear(x, weight, bias)
    product = _matmul(x, weight)
    return product if bias is None else product + bias


@spelling(aten.matmul.default)
def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """A vector is a matrix of one row on the left, of one column on the right."""
    product = torch.matmul(a.unsqueeze(0) if a.ndim == 1 else a, b.unsqueeze(1) if b.ndim == 1 else b)
    product = product.squeeze(-1) if b.ndim == 1 else product
    return product.squeeze(-1 if b.ndim == 1 else -2) if a.ndim == 1 else product


@spelling(aten.addmm.default, aten.baddbmm.default)
def _addmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """A product and a sum, but for the one form that runtimes know."""
    if a.ndim == 2 and beta == alpha == 1:
        return torch.addmm(bias, a, b)
    product = torch.matmul(a, b)
    return (bias if beta == 1 else bias * beta) + (product if alpha == 1 else product * alpha)


@spelling(aten.addbmm.default)
def _addbmm(bias: Tensor, a: Tensor, b: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """The sum of a batch of products, which is one product. a: [B, I, J]; b: [B, J, K]; returns [I, K]."""
    return _addmm(bias, a.transpose(0, 1).flatten(1), b.flatten(0, 1), beta=beta, alpha=alpha)


@spelling(aten.addmv.default)
def _addmv(bias: Tensor, a: Tensor, b: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """A vector is a matrix of one column. a: [I, J]; b: [J]; returns [I]."""
    return _addmm(bias.unsqueeze(-1), a, b.unsqueeze(1), beta=beta, alpha=alpha).squeeze(1)


@spelling(aten.mv.default, aten.dot.default, aten.vdot.default)
def _product(a: Tensor, b: Tensor) -> Tensor:
    return _matmul(a, b)


@spelling(aten.bilinear.default)
def _bilinear(a: Tensor, b: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a^T W_k b`` for each ``k``. a: [..., I]; b: [..., J]; weight: [K, I, J]; returns [..., K]."""
    halfway = torch.matmul(a, weight.permute([1, 0, 2]).flatten(1))
    product = (halfway.reshape([*a.shape[:-1], *weight.shape[::2]]) * b.unsqueeze(-2)).sum(-1)
    return product if bias is None else product + bias


@spelling(aten.cdist.default)
def _cdist(a: Tensor, b: Tensor, p: float = 2.0, compute_mode: int | None = None) -> Tensor:
    """The norms of all differences, 0 with the derivative 0 where two are equal. a: [..., I, L]; b: [..., J, L]."""
    return vector_norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, [-1])


@spelling(aten.dist.default)
def _dist(a: Tensor, b: Tensor, p: Number = 2) -> Tensor:
    return vector_norm(a - b, p)


@spelling(aten.einsum.default)
def _einsum(equation: str, operands: Sequence[Tensor], **kwargs: Any) -> Tensor:
    """Products of two operands at a time, from the left."""
    written, output = _terms(equation, operands)
    operands, terms = zip(*map(_once, operands, written), strict=True)
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
    return terms, output


def _once(x: Tensor, letters: str) -> tuple[Tensor, str]:
    """Take the diagonal of axes that have one letter: every letter is left once."""
    for letter in dict.fromkeys(letters):
        while letters.count(letter) > 1:
            first, second = letters.index(letter), letters.rindex(letter)
            x = diagonal(x, 0, first, second)
            letters = letters[:first] + letters[first + 1 : second] + letters[second + 1 :] + letter
    return x, letters


def _pair(a: Tensor, left: str, b: Tensor, right: str, kept: set[str]) -> tuple[Tensor, str]:
    """Contract two operands over the letters that nobody needs later; as one batched product of matrices."""
    a, left = _sum_out(a, left, kept | set(right))
    b, right = _sum_out(b, right, kept | set(left))
    batch = [letter for letter in left if letter in right and letter in kept]
    inner = [letter for letter in left if letter in right and letter not in kept]
    rows, columns = ([letter for letter in term if letter not in batch + inner] for term in (left, right))
    size = _sizes(zip(left + right, [*a.shape, *b.shape], strict=True))
    a, b = (
        x.expand([size[letter] for letter in term]) if _stretched(x, term, size) else x
        for x, term in ((a, left), (b, right))
    )
    shapes = [[size[letter] for letter in letters] for letters in (batch, rows, inner, columns)]
    a = a.permute([left.index(letter) for letter in batch + rows + inner])
    b = b.permute([right.index(letter) for letter in batch + inner + columns])
    a = a.reshape([*shapes[0], math.prod(shapes[1]), math.prod(shapes[2])])
    b = b.reshape([*shapes[0], math.prod(shapes[2]), math.prod(shapes[3])])
    return torch.matmul(a, b).reshape([*shapes[0], *shapes[1], *shapes[3]]), "".join(batch + rows + columns)


def _sizes(lengths: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return each letter's size: as everywhere, an axis of size 1 is stretched to another's."""
    size: dict[str, int] = {}
    for letter, length in lengths:
        if letter not in size or is_one(size[letter]):
            size[letter] = length
    return size


def _stretched(x: Tensor, letters: str, size: Mapping[str, int]) -> bool:
    return any(is_one(n) and not is_one(size[letter]) for n, letter in zip(x.shape, letters, strict=True))


def _sum_out(x: Tensor, letters: str, kept: set[str]) -> tuple[Tensor, str]:
    axes = [axis for axis, letter in enumerate(letters) if letter not in kept]
    return (x.sum(axes) if axes else x), "".join(letter for letter in letters if letter in kept)


@spelling(aten.scaled_dot_product_attention.default)
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
    if dropout:
        raise UnsupportedOp("scaled_dot_product_attention with dropout has no spelling")
    if enable_gqa:  # so many heads of queries share each head of keys and values
        key, value = (
            x.unsqueeze(-3).expand([*x.shape[:-2], query.shape[-3] // x.shape[-3], *x.shape[-2:]]).flatten(-4, -3)
            for x in (key, value)
        )
    score = torch.matmul(query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale), key.transpose(-2, -1))
    if is_causal:
        rows = torch.arange(query.shape[-2], device=query.device)[:, None]
        mask = torch.arange(key.shape[-2], device=query.device) <= rows
    if mask is not None and mask.dtype == torch.bool:
        score = score.masked_fill(mask.logical_not(), -math.inf)
    elif mask is not None:
        score = score + mask
    return torch.matmul(score.softmax(-1), value)
