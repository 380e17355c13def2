"""Checkpoints: in a forward pass alone ``torch.utils.checkpoint`` calls a function, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils import checkpoint

from exporter.patch import Patch


def _apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
    return function(*args)


def _around(*args: Any, **kwargs: Any) -> Iterator[None]:
    """Do nothing before a function, and nothing after it."""
    yield


_REENTRANT = Patch(checkpoint.CheckpointFunction, "apply", _apply)
_OTHERS = Patch(checkpoint, "_checkpoint_without_reentrant_generator", _around)


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Let checkpointed parts of a network run as any other: torch.export sees through neither kind of checkpoint."""
    with _REENTRANT(), _OTHERS():
        yield
