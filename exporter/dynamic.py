"""Which image sizes a graph is good for: what PyTorch assumed of them while it was captured, and solved for.

A capture with a varying height and width records *guards*: conditions on the sizes under which the operators that it
saw are the ones that would run. ``x.view(-1, 256)`` after a convolution leaves ``4 * height * width == 256``, a U-Net
leaves ``height == 2 * (height // 2)``, and much of what guards say is only that a size is not 1.
"""

from __future__ import annotations

import itertools
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from sympy import Equality, Symbol, lambdify
from torch.fx.experimental.symbolic_shapes import SYMPY_INTERP
from torch.utils._sympy.printers import PythonPrinter

from exporter.errors import UnsupportedModel
from exporter.lines import of_frame
from exporter.signature import BATCH

REACH = 4096
"""Sizes up to which guards are tried."""

WIDEST = REACH // 8
"""How far apart good sizes may lie."""

NEARBY = 9
"""How many values of each size a condition is tried with."""


@dataclass(frozen=True)
class Dimension:
    """A size that may vary.

    Attributes:
        name: Of :data:`exporter.signature.SIZES`.
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
    env = next(iter(sizes.values()))[0].node.shape_env
    guards = {env.replace(guard.expr): _asked(guard) for guard in env.guards}  # sizes found equal, by one symbol
    symbols = {name: {size.node.expr for size in group} for name, group in sizes.items()}
    names = {symbol: name for name, group in symbols.items() for symbol in group}
    _check_apart(symbols, env)
    found = [
        Dimension(BATCH) if name == BATCH else _solve(name, own, guards, hints, explain, names)
        for name, own in symbols.items()
    ]
    _check_together(found, symbols, guards, hints, names)
    return tuple(found)


def _solve(
    name: str,
    symbols: Set[Any],
    guards: Mapping[Any, str],
    hints: Mapping[Any, int],
    explain: Callable[[str, int], str],
    names: Mapping[Any, str],
) -> Dimension:
    """Try a size's values one by one; from the smallest good one on they must be evenly spaced, as far as we look.

    Where more of them are good (to a stride of 4 before windows of 4, 32 to 35 are 8, but 36 is 9), those that are
    spaced evenly count, if the others are kept out by what must be equal.
    """
    sample = next(hints[symbol] for symbol in symbols)
    about = {guard: _compiled(guard) for guard in guards if symbols & guard.free_symbols}
    reach = max(REACH, 2 * sample)

    def broken(size: int) -> Iterator[Any]:
        values = {**hints, **dict.fromkeys(symbols, size)}
        return (guard for guard, holds in about.items() if not holds(values))

    def holds(size: int) -> bool:
        return next(broken(size), None) is None

    above = [size for size in range(sample, reach + 1) if holds(size)]
    step = math.gcd(*(size - sample for size in above[1:]))
    if step == 0 or len(above) != (reach - sample) // step + 1:
        good = set(above)
        out = (broken(size) for size in range(sample, reach + 1) if size not in good)
        of_shapes = all(any(isinstance(guard, Equality) for guard in found) for found in out)
        steps = (step for step in range(2, WIDEST + 1) if good.issuperset(range(sample, reach + 1, step)))
        step = next(steps, 0) if of_shapes else 0
    if step == 0:
        other = next((size for size in range(sample + 1, reach) if not holds(size)), sample + 1)
        guard = next((guard for guard in broken(other) if guards[guard]), None)
        why = explain(name, other)
        if guard is not None and not why and not isinstance(guard, Equality):
            raise UnsupportedModel(_asks(guards[guard], _named(guard, names), f"a {name} of {other}"))
        raise UnsupportedModel(fixed(name, sample, why, "" if guard is None else guards[guard]))
    smallest = sample
    while smallest > step and holds(smallest - step):
        smallest -= step
    return Dimension(name, smallest, step)


def _check_together(
    found: Sequence[Dimension],
    symbols: Mapping[str, Set[Any]],
    guards: Mapping[Any, str],
    hints: Mapping[Any, int],
    names: Mapping[Any, str],
) -> None:
    """Refuse a network that asks something of several sizes that it answers otherwise for other values of them.

    Small, as they are, large and far apart, and equal.
    """
    samples = {one.name: next(hints[symbol] for symbol in symbols[one.name]) for one in found}
    asking = {guard: _compiled(guard) for guard, asked in guards.items() if asked}
    tried = []
    for one in found:
        larger = samples[one.name] + one.multiple_of * NEARBY
        largest = REACH - (REACH - one.min) % one.multiple_of
        every = (one.min, larger, largest, *samples.values(), *(other.min for other in found))
        tried.append({size for size in every if size >= one.min and (size - one.min) % one.multiple_of == 0})
    for sizes in itertools.product(*map(sorted, tried)) if asking else ():
        at = dict(zip(samples, sizes, strict=True))
        values = {**hints, **{symbol: size for name, size in at.items() for symbol in symbols[name]}}
        for guard, holds in asking.items():
            if not holds(values):
                where = ", ".join(f"{name} {size}" for name, size in at.items())
                raise UnsupportedModel(_asks(guards[guard], _named(guard, names), where))


def _check_apart(symbols: Mapping[str, Set[Any]], env: Any) -> None:
    """Refuse sizes that a capture found to be one, or a multiple of another.

    Raises:
        UnsupportedModel: The network asks whether they are, and takes for granted that they always are.
    """
    own = [symbol for group in symbols.values() for symbol in group]
    if len(set(own)) == len(own) and all(symbol.is_Symbol for symbol in own):
        return
    ties = (guard for guard in env.guards if isinstance(guard.expr, Equality) and env.replace(guard.expr).is_Boolean)
    guard = next((guard for guard in ties if _asked(guard)), None)
    if guard is None:
        raise UnsupportedModel(f"the network takes {', '.join(symbols)} that depend on each other only; let one vary")
    raise UnsupportedModel(_asks(_asked(guard), f"{', '.join(symbols)} are to each other as here", "other sizes"))


def _named(guard: Any, names: Mapping[Any, str]) -> str:
    """Return a condition in the words of an artifact's axes."""
    return str(guard.xreplace({symbol: Symbol(name) for symbol, name in names.items()}))


def _asks(line: str, question: str, where: str) -> str:
    """Return the message about a question that a network asks of sizes."""
    return (
        f"the network asks at {line} whether {question}, and takes another way at {where}: a graph has one way. "
        "Let fewer sizes vary, or write that with torch.where."
    )


def fixed_at(env: Any, size: int) -> str:
    """Return the user's line in which a capture made a constant of a size of this value; nothing where it is unknown.

    Args:
        env: The capture's ``ShapeEnv``.
        size: The constant.
    """
    symbols = {symbol for symbol, value in env.replacements.items() if value == size}
    return next(filter(None, (_asked(guard) for guard in env.guards if guard.expr.free_symbols & symbols)), "")


def _asked(guard: Any) -> str:
    """Return the user's line that a guard comes from, or nothing."""
    frame = guard.sloc.framework_loc
    return of_frame(frame) if isinstance(frame, traceback.FrameSummary) else ""


def fixed(name: str, sample: int, why: str, asked: str = "") -> str:
    """Return the message about a size that cannot vary.

    Args:
        name: Of the size.
        sample: Its value in the sample.
        why: What happens at another value, where the network itself refuses it.
        asked: The user's line that makes a constant of it, where that is known.
    """
    if asked and not why:
        return (
            f"--dynamic {name}: the network takes a {name} of {sample} only, for Python makes a plain number of it at "
            f"{asked}, as int(), float(), range() and comparisons do. Compute with //, math.floor, math.ceil or "
            "torch.sym_int, or leave this size out."
        )
    return (
        f"--dynamic {name}: what was captured of the network is for a {name} of {sample} only{why}. A linear layer "
        "after a flatten fixes the size, and so do a kernel as large as the input and a recurrent layer; pool to a "
        "fixed size, as nn.AdaptiveAvgPool2d does, or leave this size out."
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
    about = [_compiled(other) for other in earlier if other.free_symbols & guard.free_symbols]
    holds = _compiled(guard)
    tried = ({**hints, **dict(zip(symbols, values, strict=True))} for values in itertools.product(*choices))
    return all(holds(values) or not all(other(values) for other in about) for values in tried)


@lru_cache(maxsize=1024)
def _compiled(guard: Any) -> Callable[[Mapping[Any, int]], bool]:
    """Return a condition as a function of the values of its symbols: a hundred times as fast as replacing them.

    In the words in which PyTorch itself writes its guards to run them.
    """
    symbols = list(guard.free_symbols)
    holds = lambdify(symbols, guard, modules=[SYMPY_INTERP, "math"], printer=PythonPrinter())

    def holds_at(values: Mapping[Any, int]) -> bool:
        try:
            return bool(holds(*(values[symbol] for symbol in symbols)))
        except (ArithmeticError, ValueError):  # division by zero: nothing runs at such a size
            return False

    return holds_at
