"""Start the processes that measure, one at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")


class Failed(Exception):
    """A measurement broke; the message is the last of what it printed."""


def run(do: str, *, threads: int = 0, **task: Any) -> dict[str, Any]:
    """Do one task in a fresh process.

    Args:
        do: A function of the worker's.
        threads: How many cores the process may use, the last ones of those allowed, pinned; 0: all, not pinned.
        task: What the function wants, as JSON.

    Raises:
        Failed: It did not end well.
    """
    environment = dict(os.environ)
    if threads:
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    if do == "prepare":  # it is not timed, and on busy cores waiting threads that spin take many times as long
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    with tempfile.TemporaryDirectory() as folder:
        given, result = Path(folder) / "task.json", Path(folder) / "result.json"
        given.write_text(json.dumps({"do": do, "threads": threads, "cores": cores(threads), **task}))
        command = [sys.executable, str(WORKER), str(given), str(result)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
            raise Failed(lines[-1] if lines else f"the process ended with status {done.returncode}")
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def cores(threads: int) -> list[int]:
    """Return the cores for a number of threads: the last ones, for the first has the interrupts to serve."""
    if not threads or not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))[-threads:]


def available() -> int:
    """Return how many cores there are for a measurement."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
