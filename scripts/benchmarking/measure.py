"""From a case to its record: make the files, run the processes, gather what they say."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.benchmarking import files, processes
from scripts.benchmarking.contenders import ARTIFACT, EVERYONE, KINDS, TAKING_PART, YARDSTICK
from scripts.benchmarking.plan import Case

STEADY = 10
"""Calls in a session's process; the last half of them count as steady."""


@dataclass(frozen=True)
class Effort:
    """How much to measure.

    Attributes:
        rounds: Of a race, at most.
        seconds: After which a race begins no new round.
        repeats: Processes for each session, each export and the help.
        turns: Exports in one process, one after the other.
        cache: Where files are kept.
    """

    rounds: int = 30
    seconds: float = 120.0
    repeats: int = 3
    turns: int = 2
    cache: Path = files.CACHE


def measure(case: Case, effort: Effort) -> dict[str, Any]:
    """Measure one case; ``{"missing": why}`` where it cannot be.

    Raises:
        processes.Failed: A process broke.
    """
    missing = absent(case.model)
    if missing:
        return {"missing": missing}
    if case.part == "help":
        return _help(effort)
    if case.part == "export":
        return _export(case, effort)
    if case.part == "session":
        return _session(case, effort)
    if case.part == "profile":
        with _folder() as folder:
            return _run("profile", case, effort, (YARDSTICK, ARTIFACT), folder=str(folder))
    return _race(case, effort)


def _race(case: Case, effort: Effort) -> dict[str, Any]:
    """Run the contenders of a part against each other."""
    names = TAKING_PART[case.part]
    if case.part == "grad-cam":
        missing = EVERYONE[names[-1]].absent()
        if missing:  # the others were measured elsewhere already
            return {"missing": missing}
    return _run("race", case, effort, names, rounds=effort.rounds, seconds=effort.seconds)


def _run(do: str, case: Case, effort: Effort, names: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """Make what contenders load, then run a task on them."""
    kinds = dict.fromkeys(KINDS[name] for name in names if name in KINDS)
    if _without("openvino"):
        kinds.pop("openvino", None)
    made = _prepare(case, list(kinds) or [files.FORWARD], effort.cache)  # the shape comes with any of them
    return processes.run(
        do,
        threads=case.threads,
        model=case.model,
        shape=made["shape"],
        batch=case.batch,
        device=case.device,
        tf32=case.part != "cuda-float32",
        contenders=names,
        missing={name: made["missing"][kind] for name, kind in KINDS.items() if kind in made["missing"]},
        files=paths(case, effort.cache),
        **more,
    )


def _prepare(case: Case, kinds: list[str], cache: Path) -> dict[str, Any]:
    """Make files in a process of their own, unless they are there."""
    known = [files.facts(case.model, case.side, kind, cache) for kind in kinds]
    if all(known):
        return {**known[0], "missing": {}}  # type: ignore[dict-item]
    return processes.run("prepare", model=case.model, side=case.side, kinds=kinds, cache=str(cache))


def paths(case: Case, cache: Path) -> dict[str, str]:
    """Return where the files of a case are, or would be."""
    found = {kind: str(files.onnx_file(case.model, case.side, kind, cache)) for kind in sorted(set(KINDS.values()))}
    return {**found, "torchscript": str(files.torchscript_file(case.model, case.side, cache))}


def _session(case: Case, effort: Effort) -> dict[str, Any]:
    """Load and call each contender alone, in turns, each time in a fresh process."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(effort.repeats):
        for name in TAKING_PART["session"]:
            runs.setdefault(name, []).append(_run("session", case, effort, (name,), calls=STEADY))
    rows = {}
    for name, found in runs.items():
        missing = next((one["missing"] for one in found if one.get("missing")), "")
        rows[name] = {"missing": missing} if missing else {"missing": "", "runs": found}
    return {"contenders": rows}


def _export(case: Case, effort: Effort) -> dict[str, Any]:
    """Export in fresh processes: PyTorch's forward pass and the artifact in turns."""
    runs: dict[str, list[dict[str, Any]]] = {files.FORWARD: [], "artifact": []}
    for _ in range(effort.repeats):
        for kind, found in runs.items():
            with _folder() as folder:
                task = {"model": case.model, "side": case.side, "kind": kind, "turns": effort.turns}
                found.append(processes.run("export", folder=str(folder), **task))
                files.adopt(case.model, case.side, "onnxruntime" if kind == "artifact" else kind, folder, effort.cache)
    return runs


def _help(effort: Effort) -> dict[str, Any]:
    """Time ``saliport --help``, after one call that fills the disk's caches."""
    command = Path(sys.executable).with_name("saliport")
    arguments = [str(command), "--help"]
    if not command.exists():
        arguments = [sys.executable, "-c", "from exporter.cli import main; main()", "--help"]
    seconds = []
    for _ in range(1 + 5 * effort.repeats):
        start = time.perf_counter()
        subprocess.run(arguments, check=True, capture_output=True)
        seconds.append(round(time.perf_counter() - start, 4))
    return {"seconds": seconds[1:], "command": "saliport" if command.exists() else "exporter.cli"}


def absent(spec: str) -> str:
    """Say which library a SPEC needs that cannot be used here, or nothing."""
    from exporter.errors import UsageError
    from exporter.sources import library

    name, _, network = spec.partition(":")
    if name not in library.LIBRARIES or not network:
        return ""
    try:
        library.load(name)
    except UsageError as error:
        return _without(name) or str(error)
    return ""


def _without(module: str) -> str:
    """Say that a module is not installed, or nothing."""
    from importlib.util import find_spec

    return "" if find_spec(module) else f"{module} is not installed here"


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def steady(calls: list[float]) -> float:
    """Return what a call takes once it is warm."""
    return statistics.median(calls[len(calls) // 2 :])
