"""Attributes of PyTorch's own that are replaced while a block runs, in whichever threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Patch:
    """Replaces an attribute from the begin of the first block that needs it to the end of the last one.

    Two exports may run in two threads: were each to put back what it had found, the one might put back the other's.
    """

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        """Prepare; nothing is replaced yet.

        Args:
            owner: A module or a class.
            name: Of its attribute.
            value: What stands there meanwhile.
        """
        self._owner = owner
        self._name = name
        self._value = value
        self._original = getattr(owner, name)
        self._lock = threading.Lock()
        self._blocks = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Replace the attribute for a block."""
        with self._lock:
            self._blocks += 1
            setattr(self._owner, self._name, self._value)
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    setattr(self._owner, self._name, self._original)
