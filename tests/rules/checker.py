"""One check for every rule: against live autograd, against finite differences, and to the bit in whole numbers.

A case is one line: an operator and its arguments, with ``real(*shape)`` and its like where a tensor goes. Every
argument of the case for which the table has a rule is checked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from exporter.rules import VJPS

UNIT = 2520
"""Whole-number cotangents are multiples of it, so that an average over up to ten values is a whole number too."""


@dataclass(frozen=True)
class Values:
    """Stands for a tensor argument of a case.

    Attributes:
        shape: Its shape.
        real: ``(count, generator) -> float64 [count]``, for the checks in real numbers.
        whole: ``(count, generator) -> float64 [count]`` of whole numbers (or such that the operator's derivative
            is exact), for the check to the bit.
        dtype: What they are converted to; None stands for the check's floating-point type.
    """

    shape: tuple[int, ...]
    real: Callable[[int, torch.Generator], Tensor]
    whole: Callable[[int, torch.Generator], Tensor]
    dtype: torch.dtype | None = None


def _apart(count: int, generator: torch.Generator) -> Tensor:
    """All different and none at zero, so that finite differences cross no kink of a maximum or a rectifier."""
    return (torch.randperm(count, generator=generator) + 0.5).double() * (4 / (count + count % 2)) - 2


def _small(count: int, generator: torch.Generator) -> Tensor:
    """Few different values: many ties and exact zeros."""
    return torch.randint(-2, 3, (count,), generator=generator).double()


def real(*shape: int) -> Values:
    """Return a tensor of values in (-2, 2); in whole numbers, -2 to 2."""
    return Values(shape, _apart, _small)


def positive(*shape: int) -> Values:
    """Return a tensor of values in (0.5, 2.5); in whole numbers, 1 or 4, whose square roots are whole."""
    return Values(
        shape,
        lambda count, generator: _apart(count, generator) / 2 + 1.5,
        lambda count, generator: 4.0 ** torch.randint(0, 2, (count,), generator=generator).double(),
    )


def fraction(*shape: int) -> Values:
    """Return a tensor of values in (-0.8, 0.8); in whole numbers, zeros."""
    return Values(
        shape,
        lambda count, generator: _apart(count, generator) * 0.4,
        lambda count, generator: torch.zeros(count, dtype=torch.float64),
    )


def beyond_one(*shape: int) -> Values:
    """Return a tensor of values in (1.1, 3.1); in whole numbers, 2 or 3."""
    return Values(
        shape,
        lambda count, generator: _apart(count, generator) / 2 + 2.1,
        lambda count, generator: torch.randint(2, 4, (count,), generator=generator).double(),
    )


def nonzero(*shape: int) -> Values:
    """Return a tensor of values away from 0 on both sides; in whole numbers, powers of two, which divide exactly."""

    def signs(count: int, generator: torch.Generator) -> Tensor:
        return 2.0 * torch.randint(0, 2, (count,), generator=generator).double() - 1

    return Values(
        shape,
        lambda count, generator: (_apart(count, generator) / 2 + 1.5) * signs(count, generator),
        lambda count, generator: 2.0 ** torch.randint(0, 3, (count,), generator=generator) * signs(count, generator),
    )


def mask(*shape: int) -> Values:
    """Return a tensor of booleans."""

    def coins(count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, 2, (count,), generator=generator)

    return Values(shape, coins, coins, torch.bool)


def index(length: int, *shape: int) -> Values:
    """Return a tensor of indices below a length, with repetitions."""

    def positions(count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(0, length, (count,), generator=generator)

    return Values(shape, positions, positions, torch.int64)


def distinct(length: int, *shape: int) -> Values:
    """Return a tensor of indices below a length, without repetitions along the last axis."""

    def positions(count: int, generator: torch.Generator) -> Tensor:
        order = torch.rand((*shape[:-1], length), generator=generator).argsort(-1)
        return order[..., : shape[-1]].reshape(count)

    return Values(shape, positions, positions, torch.int64)


@dataclass(frozen=True)
class Case:
    """A call of an operator.

    Attributes:
        op: The operator.
        args: Its arguments; :class:`Values`, or a list of them, where it takes tensors.
        kwargs: Its keyword arguments.
        exact: Whether whole numbers go through its derivative without rounding.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    exact: bool = True

    def positions(self) -> list[int]:
        """Return the positions of the tensor arguments that have a rule."""
        return [i for i, arg in enumerate(self.args) if _tensors(arg) and (self.op, i) in VJPS]

    def draw(self, kind: str, dtype: torch.dtype) -> tuple[Any, ...]:
        """Return the arguments with values of one kind (``real`` or ``whole``) for the tensors."""
        generator = torch.Generator().manual_seed(0)

        def value(arg: Any) -> Any:
            if isinstance(arg, Values):
                count = torch.Size(arg.shape).numel()
                return getattr(arg, kind)(count, generator).reshape(arg.shape).to(arg.dtype or dtype)
            if isinstance(arg, list):
                return [value(item) for item in arg]
            return arg

        return tuple(value(arg) for arg in self.args)


def case(op: Any, *args: Any, exact: bool = True, **kwargs: Any) -> Case:
    """Return one line of a table."""
    return Case(op, args, kwargs, exact)


def checks(cases: list[Case]) -> Any:
    """Parametrise a test with every (case, position of the argument) that a table of cases holds."""
    return pytest.mark.parametrize(
        ("case", "wrt"), [pytest.param(case, wrt, id=_id(case, wrt)) for case in cases for wrt in case.positions()]
    )


def check_vjp(case: Case, wrt: int) -> None:
    """Check the rule for one argument of one call in every way that there is."""
    check_against_autograd(case, wrt, "real", torch.float64)
    check_against_finite_differences(case, wrt)
    if case.exact:
        check_against_autograd(case, wrt, "whole", torch.float32)


def check_against_autograd(case: Case, wrt: int, kind: str, dtype: torch.dtype) -> None:
    """Compare with the operator's own derivative: to the bit in whole numbers, else to 1e-12 of the largest value."""
    args = case.draw(kind, dtype)
    leaves = _leaves(args[wrt])
    for leaf in leaves:
        leaf.requires_grad_()
    y = case.op(*args, **case.kwargs)
    outputs = _outputs(y)
    cts = [_cotangent(output, kind, seed) for seed, output in enumerate(outputs, 1)]
    expected = torch.autograd.grad(outputs, leaves, cts)
    with torch.no_grad():
        found = _leaves(VJPS[case.op, wrt](cts if isinstance(y, list) else cts[0], y, *args, **case.kwargs))
    assert len(found) == len(leaves)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        tolerance = 0 if kind == "whole" else 1e-12 * theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    assert any(theirs.any() for theirs in expected), "the case has no gradient at all: it would check nothing"


def check_against_finite_differences(case: Case, wrt: int) -> None:
    """Compare with the operator's difference quotients, whatever autograd makes of it."""
    args = case.draw("real", torch.float64)
    leaves = _leaves(args[wrt])

    def put(values: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return (*args[:wrt], list(values) if isinstance(args[wrt], list) else values[0], *args[wrt + 1 :])

    class Ruled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *values: Tensor) -> Any:
            ctx.values, ctx.y = values, case.op(*put(values), **case.kwargs)
            outputs = [output.clone() for output in _outputs(ctx.y)]
            return tuple(outputs) if isinstance(ctx.y, list) else outputs[0]

        @staticmethod
        def backward(ctx: Any, *cts: Tensor) -> Any:
            ct = list(cts) if isinstance(ctx.y, list) else cts[0]
            return tuple(_leaves(VJPS[case.op, wrt](ct, ctx.y, *put(ctx.values), **case.kwargs)))

    assert torch.autograd.gradcheck(Ruled.apply, [leaf.requires_grad_() for leaf in leaves])


def _cotangent(output: Tensor, kind: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "real":
        return torch.randn(output.shape, generator=generator, dtype=output.dtype)
    return UNIT * torch.randint(-2, 3, output.shape, generator=generator).to(output.dtype)


def _tensors(arg: Any) -> bool:
    return isinstance(arg, Values) or (isinstance(arg, list) and bool(arg) and isinstance(arg[0], Values))


def _leaves(value: Any) -> list[Tensor]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _outputs(y: Any) -> list[Tensor]:
    """Return what has a cotangent: all of a list, the first of a tuple."""
    return y if isinstance(y, list) else [y[0] if isinstance(y, tuple) else y]


def _id(case: Case, wrt: int) -> str:
    def text(arg: Any) -> Iterator[str]:
        if isinstance(arg, Values):
            yield "x".join(map(str, arg.shape)) or "scalar"
        elif isinstance(arg, list):
            yield "[" + " ".join(part for item in arg for part in text(item)) + "]"
        else:
            yield str(arg)

    given = [*(part for arg in case.args for part in text(arg)), *(f"{k}={v}" for k, v in case.kwargs.items())]
    return f"{str(case.op).removeprefix('aten.')}/{wrt}({', '.join(given)})"
