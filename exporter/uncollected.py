"""Keep Python's collector of cycles from running where it finds nothing and takes long. Nothing here imports torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_unvisited = 0
"""How many blocks of :func:`unvisited` are open."""


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

    Cycles among those are found once the block is over. Where something is frozen already, which would be thawed with
    the rest, nothing is done.
    """
    global _unvisited
    if gc.get_freeze_count() and not _unvisited:
        yield
        return
    gc.freeze()
    _unvisited += 1
    try:
        yield
    finally:
        _unvisited -= 1
        if not _unvisited:
            gc.unfreeze()
