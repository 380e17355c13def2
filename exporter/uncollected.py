"""Keep Python's collector of cycles from running where it finds nothing and takes long. Nothing here imports torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

WAITING = 64 * 2**20
"""How many bytes blocks of :func:`unvisited` may leave in cycles before the next one begins with a full collection."""

LEAST = 4 * 2**20
"""What a block counts for whatever it leaves: the smallest network's export leaves 2 MB, and PyTorch's part grows."""

_unvisited = 0
"""How many of them are open, one within the other."""

_left = 0
"""What those that have ended since the last such collection may have left, in bytes."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Stop the collector for a block, or as a decorator for a function.

    Imports and traces make many objects that stay, and each full collection walks all of PyTorch's too: a quarter of
    the time that a trace takes.
    """
    ran = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if ran and _unvisited:
            gc.freeze()  # what was made meanwhile would be walked three times before it counts as old
        if ran:
            gc.enable()


@contextmanager
def unvisited() -> Iterator[None]:
    """Let the collector run in a block, or a function, but pass by what there was before and what stays of a trace.

    An export walks all of PyTorch's objects once otherwise: 0.2 s of 5. Cycles among what is passed by are found by the
    next full collection; Python counts them for none that it makes by itself, so a block begins with one where those
    before it may have left much. Where something is frozen already, which would be thawed with the rest, nothing is
    done.
    """
    global _unvisited, _left
    if not _unvisited and gc.get_freeze_count():
        yield
        return
    if not _unvisited and _left >= WAITING:
        gc.collect()
        _left = 0
    gc.freeze()
    _unvisited += 1
    try:
        yield
    finally:
        _unvisited -= 1
        if not _unvisited:
            gc.unfreeze()
            _left += LEAST


def leaves(size: int) -> None:
    """Say that cycles of this block may hold so many bytes of tensors, which are no objects that Python counts."""
    global _left
    _left += size
