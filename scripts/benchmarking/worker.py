"""One measurement in a process of its own: ``python worker.py TASK RESULT``, both JSON files.

A process is told its cores before it imports anything: no library can use more threads than it is given.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from scripts.benchmarking.records import NOT_MADE

FIRST = 3
"""Calls of a contender before it counts as one that works: some compile at the second."""


def prepare(task: dict[str, Any]) -> dict[str, Any]:
    """Make files that sessions load; of those that cannot be made, say why."""
    from scripts.benchmarking import files, networks

    made: dict[str, Any] = {"missing": {}}
    for kind in task["kinds"]:
        try:
            made |= files.prepare(task["model"], task["side"], kind, Path(task["cache"]))
        except Exception as error:  # one that fails does not take the others with it
            made["missing"][kind] = f"{NOT_MADE}: {_reason(error)}"
    if "shape" not in made:
        made["shape"] = networks.network(task["model"], task["side"])[1]
    return made


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


def race(task: dict[str, Any]) -> dict[str, Any]:
    """Let contenders take turns, after each has shown how near its map is to live autograd's."""
    from scripts.benchmarking import timing
    from scripts.benchmarking.contenders import EVERYONE, YARDSTICK, Unavailable, difference, quiet

    setting = _setting(task)
    rows: dict[str, dict[str, Any]] = {}
    calls: dict[str, Callable[[], Any]] = {}
    with quiet():
        expected = None
        for name in task["contenders"]:
            contender = EVERYONE[name]
            missing = task["missing"].get(name) or contender.absent()
            rows[name] = {"missing": missing}
            if missing:
                continue
            if "torch" in contender.needs:
                _set_torch(setting)
            try:
                call = contender.open(setting)
                for _ in range(FIRST):
                    attribution = call()[1]
            except Unavailable as error:
                rows[name]["missing"] = str(error)
                continue
            except Exception as error:  # one that breaks on a network or a device does not stop the others
                rows[name]["missing"] = f"it failed: {_reason(error)}"
                continue
            calls[name] = call
            if attribution is not None:
                expected = _expected(setting) if expected is None else expected
                rows[name]["error"] = difference(_array(attribution), expected)
        for name, times in timing.race(calls, task["rounds"], task["seconds"]).items():
            rows[name]["round_ms"] = [round(one, 4) for one in times]
    found = {"yardstick": YARDSTICK, "calls": timing.CALLS, "contenders": rows}
    if task["device"] == "cuda":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def _expected(setting: Any) -> Any:
    """Return what live autograd says, the judge."""
    import torch

    from exporter import reference
    from scripts.benchmarking.networks import network

    model = network(setting.model, setting.shape[-1])[0]
    images, target = torch.from_numpy(setting.images), torch.from_numpy(setting.target)
    return reference.live(model, images, target, "guided", count=False)[1][0].numpy()


def session(task: dict[str, Any]) -> dict[str, Any]:
    """Load one contender, call it, and see how far the process's memory has grown since its imports."""
    from scripts.benchmarking.contenders import EVERYONE, Unavailable, quiet
    from scripts.benchmarking.machine import status_kib
    from scripts.benchmarking.timing import timed

    contender = EVERYONE[task["contenders"][0]]
    with quiet():
        missing = task["missing"].get(contender.name) or contender.absent()
        if missing:
            return {"missing": missing}
        setting = _setting(task)
        if "torch" in contender.needs:
            _set_torch(setting)
        assert setting.images.any()  # made before memory is counted: they are no part of a session
        before = status_kib(("VmHWM", "VmRSS"))
        start = time.perf_counter()
        try:
            call = contender.open(setting)
        except Unavailable as error:
            return {"missing": str(error)}
        load = (time.perf_counter() - start) * 1e3
        calls = [timed(call) for _ in range(task["calls"])]
        after = status_kib(("VmHWM", "VmRSS"))
    return {
        "load_ms": round(load, 3),
        "call_ms": [round(one, 3) for one in calls],
        "imports_mib": round(before["VmHWM"] / 1024, 1),
        "peak_mib": round((after["VmHWM"] - before["VmHWM"]) / 1024, 1),
        "resident_mib": round((after["VmRSS"] - before["VmRSS"]) / 1024, 1),
    }


def export(task: dict[str, Any]) -> dict[str, Any]:
    """Time an export."""
    from scripts.benchmarking import files

    forward = task["kind"] == files.FORWARD
    return files.measure_export(task["model"], task["side"], Path(task["folder"]), forward, task["turns"])


def profile(task: dict[str, Any]) -> dict[str, Any]:
    """Let onnxruntime profile the forward pass and the artifact."""
    from scripts.benchmarking import profiling

    setting = _setting(task)
    return profiling.profile(setting, Path(task["folder"]))


def _setting(task: dict[str, Any]) -> Any:
    from scripts.benchmarking.contenders import Setting

    return Setting(
        task["model"],
        tuple(task["shape"]),
        task["batch"],
        task["threads"],
        task["device"],
        {name: Path(path) for name, path in task["files"].items()},
        task["tf32"],
    )


def _set_torch(setting: Any) -> None:
    """Give torch its threads, and on a GPU what onnxruntime has by default: each convolution's fastest algorithm."""
    import torch

    if setting.threads:
        torch.set_num_threads(setting.threads)
    if setting.device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = setting.tf32


def _array(found: Any) -> Any:
    """Return as numpy has it what may be a tensor, or a value of onnxruntime's, on a GPU."""
    found = found.cpu() if hasattr(found, "cpu") else found
    return found.numpy() if hasattr(found, "numpy") else found


KINDS = {one.__name__: one for one in (prepare, race, session, export, profile)}


def main() -> None:
    """Do a task."""
    given, result = map(Path, sys.argv[1:])
    task = json.loads(given.read_text())
    if task["cores"]:
        os.sched_setaffinity(0, task["cores"])
    result.write_text(json.dumps(KINDS[task["do"]](task)))


if __name__ == "__main__":
    main()
