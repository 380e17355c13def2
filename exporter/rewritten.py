"""Calls made in other words while a network is captured: torch.export would lose them, or make a size a constant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from exporter.sizes import known
from exporter.spellings.sampling import affine_grid


class Rewritten(TorchFunctionMode):
    """Makes such calls as :data:`_REWRITINGS` says, and leaves the others alone."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Make a call."""
        kwargs = kwargs or {}
        rewriting = _REWRITINGS.get(func)
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
    """Take the mean where the window is the whole image, whose size varies: to torch.export a window is a constant."""
    if not _is_whole(axes, input, kernel_size, padding) or divisor_override:
        return NotImplemented
    return input.mean(list(range(-axes, 0)), keepdim=True)


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
    if not _is_whole(axes, input, kernel_size, padding) or dilation not in (1, (1,) * axes) or return_indices:
        return NotImplemented
    return _GLOBAL_MAXIMUM[axes](input, 1)


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
    kernel, step, border, apart = (
        value if isinstance(value, int) else value[0]
        for value in (kernel_size, stride or kernel_size, padding, dilation)
    )
    image = input.unsqueeze(-2)
    return F.max_pool2d(image, (1, kernel), (1, step), (0, border), (1, apart), ceil_mode).squeeze(-2)


_GLOBAL_MAXIMUM: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_max_pool1d,
    2: F.adaptive_max_pool2d,
    3: F.adaptive_max_pool3d,
}
"""Number of axes -> the pool whose windows are as large as it takes."""


def _is_whole(axes: int, x: Tensor, window: Any, padding: Any) -> bool:
    """Tell whether a window is as large as the image, at any size that it may have, and nothing is put around it."""
    sizes = window if isinstance(window, Sequence) and len(window) == axes else ()
    if not any(isinstance(size, torch.SymInt) for size in sizes) or padding not in (0, (0,) * axes):
        return False
    return all(known(size - length) == 0 for size, length in zip(sizes, x.shape[-axes:], strict=True))


_REWRITINGS: dict[Any, Callable[..., Tensor]] = {
    F.dropout: _dropout,
    torch.dropout: _dropout,
    torch.cdist: _cdist,
    torch.linspace: _linspace,
    F.affine_grid: _affine_grid,
    torch.affine_grid_generator: _affine_grid,
    **{pool: partial(_average, axes) for axes, pool in enumerate((torch.avg_pool1d, F.avg_pool2d, F.avg_pool3d), 1)},
    **dict.fromkeys((F.max_pool1d, torch.max_pool1d), _maximum_of_signal),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), partial(_maximum, 2)),
    **dict.fromkeys((F.max_pool3d, torch.max_pool3d), partial(_maximum, 3)),
}
"""Function of PyTorch -> what makes a call of it, or returns ``NotImplemented`` where it may be made as it is."""
