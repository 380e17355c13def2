"""Rounds in which contenders take turns, and what is made of their times."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

CALLS = 2
"""Timed calls of a contender in one round, after one that is not timed and brings its weights back into the caches."""

FEWEST = 5
"""Rounds that are run however long they take."""


@dataclass(frozen=True)
class Spread:
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise a sample; of one value all three are that value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)

    @classmethod
    def ratio(cls, above: Sequence[float], below: Sequence[float]) -> Spread:
        """Summarise the ratio of two contenders, round by round: what slows a whole round down leaves it as it is."""
        return cls.of([a / b for a, b in zip(above, below, strict=True)])


def orders(count: int) -> list[list[int]]:
    """Return the orders of rounds: after all of them, each contender followed each other one equally often.

    A Williams square (E. J. Williams, 1949): zigzag through the contenders, shifted by one each round; of an odd
    number the mirror image too. Turns in a fixed or a merely rotated order would always have the same neighbours.
    """
    zigzag = [0]
    for step in range(1, count):
        zigzag.append((zigzag[-1] + (step if step % 2 else -step)) % count)
    rows = [[(one + shift) % count for one in zigzag] for shift in range(count)]
    return rows + [row[::-1] for row in rows] if count % 2 else rows


def race(
    contenders: Mapping[str, Callable[[], object]], rounds: int, seconds: float, calls: int = CALLS, warm_up: int = 3
) -> dict[str, list[float]]:
    """Let contenders take turns.

    Args:
        contenders: Name -> one call.
        rounds: At most so many.
        seconds: No round is begun after this, once there are :data:`FEWEST`.
        calls: Timed calls of each in a round.
        warm_up: Calls of each before the first round.

    Returns:
        Name -> the median of each round's calls, in milliseconds.
    """
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for call in contenders.values():
        for _ in range(warm_up):
            call()
    if not names:
        return {}
    turns = orders(len(names))
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for number in range(rounds):
            if number >= min(FEWEST, rounds) and time.perf_counter() - start > seconds:
                break
            for index in turns[number % len(turns)]:
                call = contenders[names[index]]
                call()
                times[names[index]].append(statistics.median(timed(call) for _ in range(calls)))
            gc.collect()  # between rounds, never in a timed call
    finally:
        gc.enable()
    return times


def timed(call: Callable[[], object]) -> float:
    """Return how long a call took, in milliseconds."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3
