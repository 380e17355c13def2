"""Keep Python's collector of cycles from running where it finds nothing and takes long. Nothing here imports torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

BLOCKS = 2
"""After how many blocks of :func:`unvisited` there is a full collection before the next."""

_unvisited = 0
"""How many of them are open, one within the other."""

_ended = 0
"""How many have ended since the last such collection."""


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
    next full collection; Python counts them for none that it makes by itself, so every second block begins with one.
    Where something is frozen already, which would be thawed with the rest, nothing is done.
    """
    global _unvisited, _ended
    if not _unvisited and gc.get_freeze_count():
        yield
        return
    if not _unvisited and _ended == BLOCKS:
        gc.collect()
        _ended = 0
    gc.freeze()
    _unvisited += 1
    try:
        yield
    finally:
        _unvisited -= 1
        if not _unvisited:
            gc.unfreeze()
            _ended += 1
