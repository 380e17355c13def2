"""Run calls side by side: on several threads, each with its share of PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")

MOST = 4
"""How many calls run at the same time at most: each has its own tensors in memory."""


class Step(Generic[T]):
    """A call whose result later ones wait for; among calls side by side it stands before them."""

    def __init__(self, call: Callable[[], T]) -> None:
        """Wrap a call, which is not made yet."""
        self._call: Callable[[], T] | None = call
        self._made: Future[T] = Future()

    def __call__(self) -> None:
        """Make the call, once, and let go of it: it may be a method of what holds this."""
        call, self._call = self._call, None
        assert call is not None
        try:
            self._made.set_result(call())
        except BaseException as error:
            self._made.set_exception(error)
            raise

    def result(self) -> T:
        """Wait for the call, and return or raise what it did."""
        return self._made.result()


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """Return what each call returns, in order.

    Two operators on one thread each take less time than one after the other on two: few operators use a second thread
    well, and where the processor has other work the threads of an operator wait for each other.

    Raises:
        Exception: The first call's, in their order, that raised.
    """
    threads = torch.get_num_threads()
    workers = min(threads, MOST, len(calls))
    if workers < 2:
        return [call() for call in calls]
    try:
        with ThreadPoolExecutor(workers, "saliport", torch.set_num_threads, (threads // workers,)) as pool:
            waiting = [pool.submit(call) for call in calls]
            try:
                return [one.result() for one in waiting]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)
