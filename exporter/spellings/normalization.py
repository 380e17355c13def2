"""Spellings of normalisation: statistics of the input as means, running ones as constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from exporter.errors import UnsupportedOp
from exporter.precision import default_epsilon
from exporter.spellings.table import aten, spelling


@spelling(aten._native_batch_norm_legit_no_training.default)
def _batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, momentum: float, eps: float
) -> tuple[Tensor, None, None]:
    """The normalisation alone; the saved statistics serve a training step only."""
    return torch.batch_norm(x, weight, bias, mean, var, False, momentum, eps, False), None, None


@spelling(aten._native_batch_norm_legit.no_stats)
def _batch_norm_of_one(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float
) -> tuple[Tensor, None, None]:
    """Of a batch of one, as weight standardisation has it: each channel by its own statistics."""
    if not isinstance(x.shape[0], int) or x.shape[0] != 1:
        raise UnsupportedOp("batch norm without running statistics mixes the images of a batch")
    return _group_norm(x, x.shape[1], weight, bias, eps), None, None


@spelling(aten.group_norm.default)
def _group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = False,
) -> Tensor:
    """With the statistics, which the vjp needs; of a copy where an image is spread out, as a slice of channels is."""
    positions = math.prod(x.shape[2:])
    return torch.native_group_norm(x.contiguous(), weight, bias, x.shape[0], x.shape[1], positions, groups, eps)[0]


@spelling(aten.instance_norm.default)
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


@spelling(aten.layer_norm.default)
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


@spelling(aten.rms_norm.default)
def _rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """``x / sqrt(mean(x^2) + eps)``."""
    square = torch.pow(x, 2).mean(list(range(-len(shape), 0)), keepdim=True)
    normal = x * torch.rsqrt(square + (default_epsilon(x.dtype) if eps is None else eps))
    return normal if weight is None else normal * weight
