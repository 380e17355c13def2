"""Which image sizes a graph is good for: what PyTorch assumed of them while it was captured, and solved for.

A capture with a varying height and width records *guards*: conditions on the sizes under which the operators that it
saw are the ones that would run. ``x.view(-1, 256)`` after a convolution leaves ``4 * height * width == 256``, a U-Net
leaves ``height == 2 * (height // 2)``, and much of what guards say is only that a size is not 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from sympy import lambdify
from torch.fx.experimental.symbolic_shapes import SYMPY_INTERP
from torch.utils._sympy.printers import PythonPrinter

from exporter.errors import UnsupportedModel
from exporter.signature import BATCH

REACH = 1024
"""Sizes up to which guards are tried."""

NEARBY = 9
"""How many values of each size a condition is tried with."""


@dataclass(frozen=True)
class Dimension:
    """A size that may vary.

    Attributes:
        name: Of :data:`exporter.signature.AXES`.
        min: The smallest value.
        multiple_of: Values are ``min`` plus a multiple of this.
    """

    name: str
    min: int = 1
    multiple_of: int = 1


def dimensions(
    sizes: Mapping[str, Sequence[torch.SymInt]], explain: Callable[[str, int], str] = lambda name, other: ""
) -> tuple[Dimension, ...]:
    """Solve the guards of a capture for each varying size, the others held at the sample's.

    Args:
        sizes: Name -> the size, in each input that has it.
        explain: Says why the network does not take another size: ``(name, size) -> text``.

    Raises:
        UnsupportedModel: A size cannot vary.
    """
    hints = {size.node.expr: size.node.hint for group in sizes.values() for size in group}
    return tuple(
        Dimension(BATCH) if name == BATCH else _solve(name, group, hints, explain) for name, group in sizes.items()
    )


def _solve(
    name: str, group: Sequence[torch.SymInt], hints: Mapping[Any, int], explain: Callable[[str, int], str]
) -> Dimension:
    """Try a size's values one by one; from the smallest good one on they must be evenly spaced, as far as we look."""
    symbols = {size.node.expr for size in group}
    sample = next(hints[symbol] for symbol in symbols)
    env = group[0].node.shape_env
    guards = [env.replace(guard.expr) for guard in env.guards]  # sizes that were found equal, by one symbol
    about = [guard for guard in guards if symbols & guard.free_symbols]
    reach = max(REACH, 2 * sample)

    def holds(size: int) -> bool:
        values = {**hints, **dict.fromkeys(symbols, size)}
        return all(_true(guard, values) for guard in about)

    above = [size for size in range(sample, reach + 1) if holds(size)]
    step = math.gcd(*(size - sample for size in above[1:]))
    if step == 0 or len(above) != (reach - sample) // step + 1:
        other = next((size for size in range(sample + 1, reach) if not holds(size)), sample + 1)
        raise UnsupportedModel(fixed(name, sample, explain(name, other)))
    smallest = sample
    while smallest > step and holds(smallest - step):
        smallest -= step
    return Dimension(name, smallest, step)


def fixed(name: str, sample: int, why: str) -> str:
    """Return the message about a size that cannot vary."""
    return (
        f"--dynamic {name}: the network takes a {name} of {sample} only{why}. A linear layer "
        "after a flatten fixes the size, and so does a kernel as large as the image; pool to a fixed size, as "
        "nn.AdaptiveAvgPool2d does, or leave this size out."
    )


def implied(guard: Any, earlier: Sequence[Any], hints: Mapping[Any, int]) -> bool:
    """Tell whether a condition on sizes follows from earlier ones, as far as it can be tried.

    Args:
        guard: The condition, a formula of symbols.
        earlier: The conditions that hold.
        hints: The sample's value of each symbol.
    """
    symbols = sorted(guard.free_symbols, key=str)
    choices = [[hints[symbol] + more for more in range(NEARBY)] for symbol in symbols]
    about = [other for other in earlier if other.free_symbols & guard.free_symbols]
    tried = ({**hints, **dict(zip(symbols, values, strict=True))} for values in itertools.product(*choices))
    return all(_true(guard, values) for values in tried if all(_true(other, values) for other in about))


def _true(guard: Any, values: Mapping[Any, int]) -> bool:
    """Tell whether a condition holds for some values of its symbols."""
    symbols, holds = _compiled(guard)
    return bool(holds(*(values[symbol] for symbol in symbols)))


@lru_cache(maxsize=1024)
def _compiled(guard: Any) -> tuple[list[Any], Callable[..., bool]]:
    """Return the symbols of a condition, and a function of their values: a hundred times as fast as replacing them.

    In the words in which PyTorch itself writes its guards to run them.
    """
    symbols = list(guard.free_symbols)
    return symbols, lambdify(symbols, guard, modules=[SYMPY_INTERP, "math"], printer=PythonPrinter())
