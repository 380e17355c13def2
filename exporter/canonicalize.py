"""Canonicalise: spell every operator in the one way that the rules and the emitters know.

Each entry is a function of plain torch operators with the signature of the operator that it replaces
and the same value; nothing here changes what the network computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from exporter.errors import UnsupportedOp
from exporter.program import Program, interpret, place_of, retrace

aten = torch.ops.aten

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


@_spelling(
    aten.alias.default,
    aten.clone.default,
    aten.contiguous.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.lift_fresh_copy.default,
)
def _identity(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """In eval mode these return their input."""
    return x


@_spelling(aten._native_batch_norm_legit_no_training.default)
def _batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float
) -> tuple[Tensor, None, None]:
    """The normalisation alone; the saved statistics serve a training step only."""
    return torch.batch_norm(x, weight, bias, mean, var, False, momentum, eps, False), None, None


@_spelling(aten.max_pool2d.default)
def _max_pool2d(x: Tensor, *args: Any) -> Tensor:
    """With the argmax, which the vjp needs."""
    return aten.max_pool2d_with_indices(x, *args)[0]


@_spelling(aten.adaptive_avg_pool2d.default)
def _adaptive_avg_pool2d(x: Tensor, size: Sequence[int]) -> Tensor:
    """A mean, a pool with a fixed kernel, or, where windows differ in size, averaging matrices.

    Window ``i`` of ``n`` covers ``[floor(i * L / n), ceil((i + 1) * L / n))`` of an axis of length ``L``.
    """
    height, width = x.shape[-2:]
    if size[0] == 1 and size[1] == 1:
        return x.mean((-2, -1), keepdim=True)
    if (height, width) == tuple(size):
        return x
    if height % size[0] == 0 and width % size[1] == 0:
        window = [height // size[0], width // size[1]]
        return aten.avg_pool2d(x, window, window)
    return _averaging_matrix(x, height, size[0]) @ x @ _averaging_matrix(x, width, size[1]).transpose(0, 1)


def _averaging_matrix(x: Tensor, length: int, count: int) -> Tensor:
    """Return ``[count, length]``: row ``i`` holds the weights of window ``i`` of an adaptive average pool."""
    if not (isinstance(length, int) and isinstance(count, int)):
        raise UnsupportedOp("adaptive_avg_pool2d to a size that does not divide the image's needs a fixed image size")
    position = torch.arange(length, device=x.device)[None, :]
    window = torch.arange(count, device=x.device)[:, None]
    inside = (position * count < (window + 1) * length) & ((position + 1) * count > window * length)
    members = inside * x.new_ones(())  # of x's dtype, whatever it is when the program runs
    return members / members.sum(1, keepdim=True)


@_spelling(aten.adaptive_max_pool2d.default)
def _adaptive_max_pool2d(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A pool with a fixed kernel, where the sizes divide."""
    height, width = x.shape[-2:]
    if height % size[0] or width % size[1]:
        raise UnsupportedOp(f"adaptive_max_pool2d from {height}x{width} to {size[0]}x{size[1]}: sizes must divide")
    window = [height // size[0], width // size[1]]
    return aten.max_pool2d_with_indices(x, window, window)


@_spelling(aten.pad.default)
def _pad(x: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """Padding with a constant has an operator of its own; the other modes stay as they are."""
    if mode != "constant":
        return aten.pad(x, pad, mode, value)
    return torch.constant_pad_nd(x, pad, 0.0 if value is None else value)


@_spelling(aten.matmul.default)
def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """A vector is a matrix of one row on the left, of one column on the right."""
    product = torch.matmul(a.unsqueeze(0) if a.ndim == 1 else a, b.unsqueeze(1) if b.ndim == 1 else b)
    product = product.squeeze(-1) if b.ndim == 1 else product
    return product.squeeze(-1 if b.ndim == 1 else -2) if a.ndim == 1 else product


@_spelling(aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.flatten.using_ints)
def _view(x: Tensor, *args: Any) -> Tensor:
    """One spelling for every change of shape; a view of what ``contiguous`` once copied is not always a view."""
    return x.reshape(*args) if isinstance(args[0], (list, tuple)) else x.flatten(*args)
