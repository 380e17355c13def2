"""Checkpoints: in a forward pass alone ``torch.utils.checkpoint`` calls a function, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch.utils import checkpoint


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Let checkpointed parts of a network run as any other: torch.export sees through neither kind of checkpoint."""

    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)

    def twice(*args: Any, **kwargs: Any) -> Iterator[None]:
        yield

    with (
        mock.patch.object(checkpoint.CheckpointFunction, "apply", apply),
        mock.patch.object(checkpoint, "_checkpoint_without_reentrant_generator", twice),
    ):
        yield
