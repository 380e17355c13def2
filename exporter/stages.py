"""What each stage of an export costs, in time and memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stage:
    """What one stage of an export cost.

    Attributes:
        name: ``capture``, ``differentiate``, ``lower``, ``emit torchscript``, ``emit onnx``, ``verify`` or ``write``.
        seconds: Wall time.
        peak_mib: The process's largest resident memory so far, in MiB.
    """

    name: str
    seconds: float
    peak_mib: float


@dataclass
class Stages:
    """Times the stages of an export, and tells a listener when each begins.

    Attributes:
        listener: Called with a stage's name as it begins.
        done: The stages so far.
    """

    listener: Callable[[str], None] = lambda name: None
    done: list[Stage] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block."""
        self.listener(name)
        start = time.perf_counter()
        yield
        self.done.append(Stage(name, time.perf_counter() - start, _peak_mib()))


def _peak_mib() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
