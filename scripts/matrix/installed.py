"""Versions of onnxruntime beside the one that is installed, and the worker that runs one in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.matrix.trials import NotRun

OLDEST = "1.15.0"
"""The oldest onnxruntime on PyPI for Python 3.11."""

VERSIONS = (OLDEST, "1.16.0", "1.17.0", "1.18.0", "1.19.0", "1.20.0", "1.21.0", "1.22.0", "1.23.0")
"""The first of each line of releases up to the one that knows the last opset which an export writes."""


NEWEST_NUMPY_1 = "1.18.0"
"""The last of ``VERSIONS`` whose wheels were built for numpy 1."""


WORKER = Path(__file__).with_name("worker.py")


class Installed:
    """Versions of onnxruntime, each in a folder of its own, installed when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        """Install below a folder."""
        self._folder = folder

    def __call__(self, wanted: str) -> Path:
        """Return the folder with a version and a numpy that goes with it."""
        place = self._folder / f"onnxruntime-{wanted}"
        if not place.exists():
            install(wanted, place)
        return place


def install(wanted: str, place: Path) -> None:
    """Install a version of onnxruntime into a folder, with nothing but the numpy that it needs."""
    old = release(wanted) <= release(NEWEST_NUMPY_1)
    packages = [f"onnxruntime=={wanted}", "numpy<2" if old else "numpy"]
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*command, "--no-deps", "--target", str(place), *packages], check=True)


def release(wanted: str) -> tuple[int, ...]:
    """Return a version as numbers."""
    return tuple(map(int, wanted.split(".")))


def work(job: Mapping[str, Any], packages: Path | None = None) -> dict[str, Any]:
    """Have the worker do a job, in a process whose packages come from a folder first."""
    environment = {**os.environ, **({"PYTHONPATH": str(packages)} if packages else {})}
    command = [sys.executable, str(WORKER)]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise NotRun(done.stderr.strip().splitlines()[-1])
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
