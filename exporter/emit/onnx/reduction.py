"""Translations of reductions and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from exporter.emit.onnx.emitter import Emitter, Translation, Value, translates

aten = torch.ops.aten


@translates(aten.sum.dim_IntList)
def _sum(e: Emitter, x: Value, dim: Sequence[int] | None, keepdim: bool = False, **kwargs: Any) -> str:
    axes = e.constant(list(dim or range(x.ndim)))
    return e.op("ReduceSum", e.as_value(x, e.fake.dtype), axes, keepdims=int(keepdim))


@translates(aten.mean.dim)
def _mean(e: Emitter, x: Value, dim: Sequence[int] | None, keepdim: bool = False, **kwargs: Any) -> str:
    axes = sorted(d % x.ndim for d in dim or range(x.ndim))
    x = e.converted(x, e.fake.dtype)
    if keepdim and axes == list(range(2, x.ndim)):
        return e.op("GlobalAveragePool", x)
    return e.reduce("ReduceMean", x, axes, keepdim)


@translates(aten.argmax.default)
def _argmax(e: Emitter, x: Value, dim: int, keepdim: bool = False) -> str:
    """The first NaN where there is one, as in PyTorch; onnxruntime's own ArgMax looks past a NaN."""
    largest: str = e.op("ArgMax", x, axis=dim, keepdims=int(keepdim))
    if not x.dtype.is_floating_point:
        return largest
    nan = e.cast(e.op("IsNaN", x), torch.float32)
    first = e.op("ArgMax", nan, axis=dim, keepdims=int(keepdim))
    found: str = e.op("Where", e.cast(e.reduce("ReduceMax", nan, [dim % x.ndim], keepdim), torch.bool), first, largest)
    return found


@translates(aten.topk.default)
def _topk(
    e: Emitter, x: Value, k: int | torch.SymInt, dim: int = -1, largest: bool = True, sorted: bool = True
) -> list[str]:
    """Of equals the first ones, in the order of the input."""
    found: list[str] = e.op("TopK", x, e.shape([k]), outputs=2, axis=dim, largest=int(largest), sorted=int(sorted))
    return found


@translates(aten.sort.stable)
def _sort(e: Emitter, x: Value, *, stable: bool, dim: int = -1, descending: bool = False) -> list[str]:
    return _topk(e, x, x.shape[dim], dim, descending)


def _reduction(kind: str) -> Translation:
    def translation(e: Emitter, x: Value, dim: Sequence[int] | int = (), keepdim: bool = False) -> str:
        axes = [dim] if isinstance(dim, int) else list(dim) or list(range(x.ndim))
        return e.reduce(kind, x, sorted(axis % x.ndim for axis in axes), keepdim)

    return translation


translates(aten.amax.default)(_reduction("ReduceMax"))
translates(aten.amin.default)(_reduction("ReduceMin"))
translates(aten.logsumexp.default)(_reduction("ReduceLogSumExp"))


@translates(aten.linalg_vector_norm.default)
def _vector_norm(e: Emitter, x: Value, ord: float, dim: Sequence[int], keepdim: bool = False) -> str:
    return e.reduce("ReduceL2", x, sorted(axis % x.ndim for axis in dim), keepdim)


@translates(aten.var.correction)
def _var(e: Emitter, x: Value, dim: Sequence[int], correction: float = 1, keepdim: bool = False) -> str:
    axes = sorted(axis % x.ndim for axis in dim)
    count = math.prod(x.shape[axis] for axis in axes)
    centred = e.op("Sub", x, e.reduce("ReduceMean", x, axes, keepdim=True))
    total = e.reduce("ReduceSum", e.op("Mul", centred, centred), axes, keepdim)
    return e.op("Div", total, e.as_value(count - correction, x.dtype))


@translates(aten.std.correction)
def _std(e: Emitter, x: Value, dim: Sequence[int], correction: float = 1, keepdim: bool = False) -> str:
    return e.op("Sqrt", _var(e, x, dim, correction, keepdim))


@translates(aten.cumsum.default)
def _cumsum(e: Emitter, x: Value, dim: int, dtype: Any = None) -> str:
    return e.op("CumSum", e.as_value(x, e.fake.dtype), e.constant(dim % x.ndim))


@translates(aten.softmax.int, aten._softmax.default)
def _softmax(e: Emitter, x: Value, dim: int, *args: object) -> str:
    return e.op("Softmax", e.as_value(x, e.fake.dtype), axis=dim)


@translates(aten.log_softmax.int, aten._log_softmax.default)
def _log_softmax(e: Emitter, x: Value, dim: int, *args: object) -> str:
    return e.op("LogSoftmax", e.as_value(x, e.fake.dtype), axis=dim)
