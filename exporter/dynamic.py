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
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from sympy import Equality, Ge, Gt, Integer, Le, Lt, Symbol, lambdify
from torch.fx.experimental.symbolic_shapes import SYMPY_INTERP
from torch.utils._sympy.printers import PythonPrinter

from exporter.errors import UnsupportedModel
from exporter.lines import of_frame
from exporter.signature import BATCH, Dimension

REACH = 4096
"""Sizes up to which guards are tried."""

LONGEST = 4 * REACH
"""The longest table of which the end is looked for."""

WIDEST = REACH // 8
"""How far apart good sizes may lie."""

_INEQUALITIES = (Ge, Gt, Le, Lt)

NEARBY = 9
"""How many values of each size a condition is tried with."""


class Refusal(NamedTuple):
    """What a network makes of a size that it does not take.

    Attributes:
        text: What it raises, at which size and line.
        advice: What to do, where that is known.
    """

    text: str
    advice: str = ""


Explain = Callable[[str, int], Refusal | None]
"""Runs the network at another value of a size, ``(name, size)``: None where it takes it."""


def dimensions(
    sizes: Mapping[str, Sequence[torch.SymInt]], explain: Explain = lambda name, other: None
) -> tuple[Dimension, ...]:
    """Solve the guards of a capture for each varying size, the others held at the sample's.

    Args:
        sizes: Name -> the size, in each input that has it.
        explain: Says why the network does not take another size.

    Raises:
        UnsupportedModel: A size cannot vary.
    """
    hints = {size.node.expr: size.node.hint for group in sizes.values() for size in group}
    env = next(iter(sizes.values()))[0].node.shape_env
    guards: dict[Any, str] = {}  # -> the user's line that it comes from, or nothing
    for guard in env.guards:
        asked = env.replace(guard.expr)  # sizes found equal, by one symbol
        guards[asked] = guards.get(asked) or _asked(guard)
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
    explain: Explain,
    names: Mapping[Any, str],
) -> Dimension:
    """Try a size's values one by one; from the smallest good one on they must be evenly spaced, as far as we look.

    Where more of them are good (to a stride of 4 before windows of 4, 32 to 35 are 8, but 36 is 9), those that are
    spaced evenly count, if the others are kept out by what must be equal. They may end at a largest one, if the network
    itself runs no further: one that adds a part of a table of positions is good for as many as the table has.
    """
    sample = next(hints[symbol] for symbol in symbols)
    about = {guard: _compiled(guard) for guard in guards if symbols & guard.free_symbols}
    limits = (guard for guard in about if isinstance(guard, _INEQUALITIES))
    tables = (int(number) for guard in limits for number in guard.atoms(Integer) if number <= LONGEST)
    # After strides an input is longer than its table.
    reach = max(REACH, 2 * sample, *(4 * number for number in tables))

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
    largest = None
    if step == 0:
        step, largest = _bounded([size for size in range(1, reach + 1) if holds(size)], sample, reach)
    beyond = largest is not None and not explain(name, largest + step)
    if step == 0 or beyond:
        other = next((size for size in range(sample + 1, reach) if not holds(size)), sample + 1)
        guard = next((guard for guard in broken(other) if guards[guard]), None)
        line = "" if guard is None else guards[guard]
        if guard is not None and not isinstance(guard, Equality) and not explain(name, other):
            raise UnsupportedModel(_asks(named(guard, names), f"a {name} of {other}", line))
        if largest is not None and beyond and not line:
            raise UnsupportedModel(_asks(f"the {name} is at most {largest}", f"a {name} of {largest + step}"))
        raise UnsupportedModel(fixed(name, sample, other, explain, line))
    smallest = sample
    while smallest > step and holds(smallest - step):
        smallest -= step
    while smallest < sample and explain(name, smallest):  # a capture takes for granted that no size is 1
        smallest += step
    return Dimension(name, smallest, step, largest)


def _bounded(good: Sequence[int], sample: int, reach: int) -> tuple[int, int | None]:
    """Return how far apart a size's good values are, 0 if they are not evenly spaced, and the largest if there is one.

    Args:
        good: All that are, in order, the sample's among them.
        sample: The sample's; from it on they must be evenly spaced.
        reach: How far was looked: values that go that far have no largest.
    """
    around = good[max(good.index(sample) - 1, 0) :]
    steps = {after - before for before, after in itertools.pairwise(around)}
    if len(steps) != 1:
        return 0, None
    step = steps.pop()
    return step, good[-1] if good[-1] + step <= reach else None


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
    bounded = any(one.max is not None for one in found)
    asking = {
        guard: _compiled(guard)
        for guard, line in guards.items()
        if line or (bounded and isinstance(guard, _INEQUALITIES))
    }
    tried = []
    for one in found:
        larger = samples[one.name] + one.multiple_of * NEARBY
        largest = REACH - (REACH - one.min) % one.multiple_of if one.max is None else one.max
        every = (one.min, larger, largest, *samples.values(), *(other.min for other in found))
        tried.append({size for size in every if one.allows(size)})
    for sizes in itertools.product(*map(sorted, tried)) if asking else ():
        at = dict(zip(samples, sizes, strict=True))
        values = {**hints, **{symbol: size for name, size in at.items() for symbol in symbols[name]}}
        for guard, holds in asking.items():
            if not holds(values):
                where = ", ".join(f"{name} {size}" for name, size in at.items())
                raise UnsupportedModel(_asks(named(guard, names), where, guards[guard]))


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
    raise UnsupportedModel(_asks(f"{', '.join(symbols)} are to each other as here", "other sizes", _asked(guard)))


def named(guard: Any, names: Mapping[Any, str]) -> str:
    """Return a condition in the words of an artifact's axes."""
    return str(guard.xreplace({symbol: Symbol(name) for symbol, name in names.items()}))


def _asks(question: str, where: str, line: str = "") -> str:
    """Return the message about a question that a network asks of sizes, in a line of the user's where it is known."""
    at = f" at {line}" if line else ""
    return (
        f"the network asks{at} whether {question}, and takes another way at {where}: a graph has one way. "
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


def fixed(name: str, sample: int, other: int, explain: Explain, asked: str = "") -> str:
    """Return the message about a size that cannot vary.

    Args:
        name: Of the size.
        sample: Its value in the sample.
        other: A value that it cannot have.
        explain: Says what the network itself makes of other values.
        asked: The user's line that makes a constant of it, where that is known.
    """
    why = explain(name, other)
    if asked and not why:
        return (
            f"--dynamic {name}: the network takes a {name} of {sample} only, for Python makes a plain number of it at "
            f"{asked}, as int(), float(), range() and comparisons do. Compute with //, math.floor, math.ceil or "
            "torch.sym_int, or leave this size out."
        )
    advice = why.advice if why else ""
    if not advice and why and sample > 1 and not explain(name, sample - 1):
        advice = f"At {sample - 1} it runs: where {sample} is the largest {name}, give a smaller sample"
    if not advice:
        last = "A length is the last size; the T of a sequence [N, T, F] is called steps. " if name == "length" else ""
        advice = (
            f"{last}A linear layer after a flatten fixes the size, and so do a kernel as large as the input and a "
            "recurrent layer; pool to a fixed size, as nn.AdaptiveAvgPool2d does"
        )
    raises = f"; {why.text}" if why else ""
    return (
        f"--dynamic {name}: what was captured of the network is for a {name} of {sample} only{raises}. {advice}, or "
        "leave this size out."
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
