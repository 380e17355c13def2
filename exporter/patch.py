"""Attributes of PyTorch's own that are replaced while a block runs, for all threads or for those in a block."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
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


class PatchesHere:
    """Replaces attributes for blocks of a thread; what stands there asks :meth:`here` whether it is called in one.

    An attribute that this PyTorch does not have stays away: such patches spare time, or find more.
    """

    def __init__(self, places: Iterable[tuple[Any, str, Any]]) -> None:
        """Prepare (owner, name, value), each as for :class:`Patch`; nothing is replaced yet."""
        self._patches = [Patch(*place) for place in places if hasattr(place[0], place[1])]
        self._thread = threading.local()

    def here(self) -> bool:
        """Tell whether this thread is in a block."""
        return getattr(self._thread, "blocks", 0) > 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Replace the attributes for a block."""
        self._thread.blocks = getattr(self._thread, "blocks", 0) + 1
        try:
            with ExitStack() as stack:
                for patch in self._patches:
                    stack.enter_context(patch())
                yield
        finally:
            self._thread.blocks -= 1
