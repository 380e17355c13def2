"""onnxruntime's own profile: which nodes of an artifact take the time."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from scripts.benchmarking.contenders import ARTIFACT, KINDS, YARDSTICK, Setting, onnxruntime_session

RUNS = 20
WARM_UP = 5


def profile(setting: Setting, folder: Path) -> dict[str, Any]:
    """Profile the forward pass and the artifact, one after the other.

    Returns:
        Contender -> its nodes, ``[{name, op, ms}]``, slowest first; ms is the median over the calls.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in (YARDSTICK, ARTIFACT):
        kind = KINDS[name]
        session = onnxruntime_session(
            setting.files[kind], setting.threads, enable_profiling=True, profile_file_prefix=str(folder / kind)
        )
        feed = {"image": setting.images} | ({} if name == YARDSTICK else {"target": setting.target})
        for _ in range(WARM_UP + RUNS):
            session.run(None, feed)
        found[name] = nodes(json.loads(Path(session.end_profiling()).read_text()))
    return {"runs": RUNS, "nodes": found}


def nodes(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make a table of a profile's events: node by node, the median over all calls but the first."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            times[name, event["args"]["op_name"]].append(event["dur"] / 1e3)
    table = [
        {"name": name, "op": op, "ms": round(statistics.median(values[WARM_UP:] or values), 4)}
        for (name, op), values in times.items()
    ]
    return sorted(table, key=lambda node: (-node["ms"], node["name"]))
