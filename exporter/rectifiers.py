"""Which calls are rectifiers, however they are spelled, and where a rectifier lets its input through."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from exporter.program import Program

aten = torch.ops.aten
inf = math.inf


def _clamp(low: float | None = None, high: float | None = None) -> tuple[float, float]:
    return -inf if low is None else low, inf if high is None else high


RANGES: dict[torch._ops.OpOverload, Callable[..., tuple[float, float]]] = {
    aten.relu.default: lambda: (0.0, inf),
    aten.relu6.default: lambda: (0.0, 6.0),
    aten.hardtanh.default: lambda low=-1.0, high=1.0: (low, high),
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clip.default: _clamp,
    aten.threshold.default: lambda threshold, value: (0.0 if threshold == value == 0 else -inf, inf),
}
"""Operator -> the range ``(low, high)`` that it clips its input to, from its arguments after the input."""


def rectifier_ceiling(op: torch._ops.OpOverload, *args: float, **kwargs: float) -> float | None:
    """Return where a rectifier saturates (infinity for a ReLU, 6 for a ReLU6), or None for any other operator.

    Args:
        op: The operator.
        args: Its arguments after the input.
        kwargs: Its keyword arguments.
    """
    clip = RANGES.get(op)
    if clip is None:
        return None
    low, high = clip(*args, **{{"min": "low", "max": "high"}.get(key, key): value for key, value in kwargs.items()})
    return high if low == 0 and high > 0 else None


ACTIVATIONS = {
    aten.celu.default,
    aten.elu.default,
    aten.gelu.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.hardtanh.default,
    aten.leaky_relu.default,
    aten.log_sigmoid.default,
    aten.mish.default,
    aten.prelu.default,
    aten.selu.default,
    aten.sigmoid.default,
    aten.silu.default,
    aten.softplus.default,
    aten.tanh.default,
    aten.threshold.default,
}
"""Activations that are no rectifiers, or not with every setting: every method takes their derivative."""


def activations(program: Program) -> dict[str, dict[str, int]]:
    """Count a captured program's activations.

    Returns:
        ``rectifiers``: those that a method's rule applies to, and ``activations``: those that have their derivative
        under every method; operator -> how often it is called.
    """
    found: dict[str, dict[str, int]] = {"rectifiers": {}, "activations": {}}
    for node in program.graph.nodes:
        if node.op != "call_function" or not _is_real(node.meta.get("val")):
            continue
        clip = RANGES.get(node.target)
        kind = None
        if clip and rectifier_ceiling(node.target, *node.args[1:], **node.kwargs) is not None:
            kind = "rectifiers"
        elif node.target in ACTIVATIONS:
            kind = "activations"
        if kind:
            name = node.target.overloadpacket.__name__
            found[kind][name] = found[kind].get(name, 0) + 1
    return found


def _is_real(value: object) -> bool:
    """Tell whether a value is a tensor of floating point: what is clamped may be an index."""
    return isinstance(value, Tensor) and value.is_floating_point()


def active(y: Tensor, ceiling: float) -> Tensor:
    """Return where ``0 < x < ceiling``, read off the rectifier's output: there and only there ``y`` is too.

    Both comparisons are strict. From the output, because the next layer keeps it in memory anyway.
    """
    return y > 0 if ceiling == inf else (y > 0) & (y < ceiling)
