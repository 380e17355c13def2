"""Calls made in other words while a network is captured: torch.export would lose them, or make a size a constant."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from math import inf, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules import transformer
from torch.overrides import TorchFunctionMode

from exporter.errors import UnsupportedModel
from exporter.layout import unasked
from exporter.lines import bracketed, running
from exporter.patch import Patch
from exporter.sizes import is_one, known, per_axis
from exporter.spellings.sampling import affine_grid


def _is_causal(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:
    """Tell whether an encoder was told that its mask is causal; PyTorch compares the mask, which a capture cannot.

    A mask that is not said to be is used as it is, with the same result.
    """
    return is_causal is True


UNCOMPARED = Patch(transformer, "_detect_is_causal_mask", _is_causal)
"""Keeps ``nn.TransformerEncoder`` and ``nn.TransformerDecoder`` from looking into masks while a block runs."""


class Rewritten(TorchFunctionMode):
    """Makes such calls as :data:`_REWRITINGS` says, and leaves the others alone."""

    def __init__(self, but: Container[Any] = ()) -> None:
        """Make calls of all functions so, but of these."""
        super().__init__()
        self._but = but

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Make a call."""
        kwargs = kwargs or {}
        rewriting = _REWRITINGS.get(func) if func not in self._but else None
        result = rewriting(*args, **kwargs) if rewriting else NotImplemented
        return func(*args, **kwargs) if result is NotImplemented else result


def _dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, train: bool = True
) -> Tensor:
    """Return the input itself where nothing is dropped, as PyTorch does.

    torch.export takes the result for a copy: what is then written into one of the two would be missing in the other.
    """
    return NotImplemented if p > 0 and training and train else input


def _linspace(
    start: float | Tensor,
    end: float | Tensor,
    steps: int,
    *,
    dtype: torch.dtype | None = None,
    device: Any = None,
    **rest: Any,
) -> Tensor:
    """Count from both ends to the middle, as PyTorch's kernel does, where there are as many steps as a size says.

    torch.export knows no such number of steps but the sample's. The kernel rounds once, after the sum, which in
    float32 float64 does too.
    """
    dtype = dtype or torch.get_default_dtype()
    fits = dtype.is_floating_point and not isinstance(start, Tensor) and not isinstance(end, Tensor)
    if not isinstance(steps, torch.SymInt) or not fits or rest.get("out") is not None:
        return NotImplemented
    index = torch.arange(steps, device=device)
    one = index.new_ones((), dtype=dtype)
    step = (one * end - one * start) / torch.sym_max(steps - 1, 1)
    first, last, step = (value.double() for value in (one * start, one * end, step))
    up, down = first + index * step, last - (steps - 1 - index) * step
    return torch.where(index < torch.sym_max(steps // 2, 1), up, down).to(dtype)


def _affine_grid(theta: Tensor, size: Sequence[int], align_corners: bool | None = None) -> Tensor:
    """Write the positions out where a size may vary: PyTorch's own way counts with linspace."""
    varies = any(isinstance(length, torch.SymInt) for length in size[2:])
    return affine_grid(theta, size, bool(align_corners)) if varies else NotImplemented


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:
    """Write the distances out where it varies how many there are: beyond 25 rows PyTorch computes them otherwise."""
    varies = any(isinstance(x.shape[-2], torch.SymInt) for x in (x1, x2))
    return torch.linalg.vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1) if varies else NotImplemented


def _average(
    axes: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Take the mean along an axis that a window is as long as, where that varies: to torch.export it is a constant."""
    window = per_axis(kernel_size, axes)
    whole = _whole(input, window, padding)
    if not whole or divisor_override:
        return NotImplemented
    mean = input.mean(whole, keepdim=True)
    settings = window, per_axis(stride or window, axes)
    kernel, step = ([1 if axis in whole else size for axis, size in _counted(each)] for each in settings)
    rest = (kernel, step, per_axis(padding, axes), ceil_mode, count_include_pad)
    return mean if len(whole) == axes else _AVERAGES[axes](mean, *rest)


def _maximum(
    axes: int,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """Take the maximum in the same way."""
    window = per_axis(kernel_size, axes)
    whole = _whole(input, window, padding)
    settings = window, per_axis(stride or window, axes), per_axis(dilation, axes)
    others = [value for each in settings for axis, value in _counted(each) if axis not in whole]
    if not whole or not all(map(is_one, others)) or return_indices:
        return NotImplemented
    return _along(whole, input)


def _adaptive_maximum(axes: int, input: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    """Take the maximum along one axis, where others keep a size that varies."""
    kept = per_axis(output_size, axes)
    whole = [axis for axis, size in _counted(kept) if is_one(size)]
    varies = any(isinstance(size, torch.SymInt) for size in input.shape[-axes:])
    if not varies or len(whole) != 1 or kept.count(None) != axes - 1 or return_indices:
        return NotImplemented
    return _along(whole, input)


def _along(whole: list[int], input: Tensor) -> Tensor:
    """Return the first of the largest values along some image axes, in the order in which they lie in memory."""
    kept = [axis for axis in range(-input.ndim, 0) if axis not in whole]
    largest = input.permute([*kept, *whole]).flatten(len(kept)).max(-1).values
    for axis in whole:
        largest = largest.unsqueeze(axis + input.ndim)
    return largest


def _maximum_of_signal(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """Take the maxima of a signal as of an image one pixel high: PyTorch's own pool makes a constant of the length."""
    whole = _maximum(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    if whole is not NotImplemented or not isinstance(input.shape[-1], torch.SymInt) or return_indices:
        return whole
    settings = kernel_size, stride or kernel_size, padding, dilation
    (kernel,), (step,), (border,), (apart,) = (per_axis(setting, 1) for setting in settings)
    image = input.unsqueeze(-2)
    return F.max_pool2d(image, (1, kernel), (1, step), (0, border), (1, apart), ceil_mode).squeeze(-2)


def _power_average(
    axes: int, input: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Tensor:
    """Write ``(n s)^(1/p)``, ``s`` the mean of ``x^p`` over a window of ``n``, with the derivative 0 where ``s`` is 0.

    PyTorch's own, ``sign(s) relu(|s|)`` for ``s``, has a relu for that, which no method should change: live autograd
    does not see it, inside of a call, and in a graph of operators it would be a rectifier.
    """
    if abs(norm_type) == inf:
        return NotImplemented
    window = per_axis(kernel_size, axes)
    mean = _POWER_AVERAGES[axes](input.pow(norm_type), window, stride, 0, ceil_mode)
    return torch.where(mean == 0, 0.0, mean).mul(prod(window)).pow(1.0 / norm_type)


def _packed(*args: Any, **kwargs: Any) -> Tensor:
    raise UnsupportedModel(
        f"pack_padded_sequence{bracketed(running())} leaves out what is beyond each length, and how much that is no "
        "graph knows beforehand: give padded sequences to the layer whole, without packing"
    )


_POWER_AVERAGES: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
"""Number of axes -> the pool that takes the mean."""


_AVERAGES: dict[int, Callable[..., Tensor]] = {2: F.avg_pool2d, 3: F.avg_pool3d}
"""Number of axes -> the pool of which some may be whole."""


def _counted(each: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Return each axis's number, counted from the last as -1, and its setting."""
    return zip(range(-len(each), 0), each, strict=True)


def _whole(x: Tensor, window: Sequence[Any], padding: Any) -> list[int]:
    """Return the axes that a window is as long as at any size, one that varies, and around which nothing is put."""
    settings = zip(_counted(window), per_axis(padding, len(window)), strict=True)
    return [
        axis
        for (axis, size), border in settings
        if isinstance(size, torch.SymInt) and border == 0 and known(size - x.shape[axis]) == 0
    ]


_REWRITINGS: dict[Any, Callable[..., Tensor]] = {
    Tensor.contiguous: unasked(Tensor.contiguous),  # but where it matters: see functional.writes_into_views
    F.dropout: _dropout,
    torch.dropout: _dropout,
    torch._pack_padded_sequence: _packed,
    torch.cdist: _cdist,
    torch.linspace: _linspace,
    F.affine_grid: _affine_grid,
    torch.affine_grid_generator: _affine_grid,
    **{pool: partial(_average, axes) for axes, pool in enumerate((torch.avg_pool1d, F.avg_pool2d, F.avg_pool3d), 1)},
    **{pool: partial(_power_average, axes) for axes, pool in enumerate((F.lp_pool1d, F.lp_pool2d, F.lp_pool3d), 1)},
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), _maximum_of_signal),
    **{
        pool: partial(_adaptive_maximum, axes)
        for axes, pool in ((2, F.adaptive_max_pool2d), (3, F.adaptive_max_pool3d))
    },
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), partial(_maximum, 2)),
    **dict.fromkeys((F.max_pool3d, torch.max_pool3d), partial(_maximum, 3)),
}
"""Function of PyTorch -> what makes a call of it, or returns ``NotImplemented`` where it may be made as it is."""
