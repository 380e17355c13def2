"""Keep Python's collector of cycles from running where it finds nothing and takes long. Nothing here imports torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


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
        if ran:
            gc.enable()
