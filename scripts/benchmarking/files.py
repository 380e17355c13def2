"""The files that sessions load: PyTorch's own export of the forward pass, and the artifact; made once, then kept."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.benchmarking.machine import versions
from scripts.benchmarking.networks import network

ROOT = Path(__file__).parents[2]
CACHE = Path("artifacts/benchmark")

FORWARD = "forward"
"""What stands for PyTorch's export of the forward pass, where others name what an artifact is optimized for."""


BY_HAND = "by-hand"
"""What stands there for the graph that was written by hand."""


FACTS = "facts.json"

MEASURING = tuple(
    f"scripts/benchmarking/{name}.py"
    for name in ("contenders", "guided", "measure", "processes", "profiling", "timing", "worker")
)
"""Modules here that open sessions and time them."""


def key(kind: str) -> str:
    """Return a hash of what a file depends on beside its name: the sources it is made by, and the packages."""
    others = {FORWARD: (), BY_HAND: ("scripts/benchmarking/by_hand.py",)}
    packages = ("torch", "onnx", "onnxscript") if kind == FORWARD else ("torch", "onnx")
    return _hash(packages, (*others.get(kind, ("exporter",)), "models", "scripts/benchmarking/networks.py"))


def _hash(packages: Sequence[str], places: Sequence[str]) -> str:
    """Hash versions of packages, and the sources in files and folders."""
    digest = hashlib.sha256(json.dumps([versions().get(package) for package in packages]).encode())
    for place in places:
        root = ROOT / place
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def sources(part: str) -> str:
    """Return a hash of what a part measures and, of races and sessions, how: a record tells whether it still holds."""
    measured = key("onnxruntime") + (key(BY_HAND) if part == "by-hand" else "")
    return measured if part in ("export", "help") else measured + _hash((), MEASURING)


def path_of(spec: str, side: int, kind: str, cache: Path) -> Path:
    """Return the folder of a network's files of one kind, by what they are made from."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in spec)
    return cache / f"{name}-{side}-{kind}" / key(kind)


def _replace(folder: Path) -> None:
    """Make room for a folder: what other sources made goes, or the cache would grow with every change."""
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.parent.mkdir(parents=True)


def prepare(spec: str, side: int, kind: str, cache: Path) -> dict[str, Any]:
    """Make the files of one kind where they are not there yet; returns what is known of them."""
    known = facts(spec, side, kind, cache)
    if known:
        return known
    folder = path_of(spec, side, kind, cache)
    model, shape = network(spec, side)
    _replace(folder)
    folder.mkdir()
    if kind == FORWARD:
        export_forward(model, shape, folder / "model.onnx")
    elif kind == BY_HAND:
        from scripts.benchmarking import by_hand

        by_hand.write(model, folder / "model.onnx")
    else:
        formats = ("torchscript", "onnx") if kind == "onnxruntime" else ("onnx",)
        export_artifact(model, shape, folder / "artifact", kind, formats)
    (folder / FACTS).write_text(json.dumps({"shape": shape}))  # last: without it the files count as not made
    return {"shape": shape}


def facts(spec: str, side: int, kind: str, cache: Path) -> dict[str, Any] | None:
    """Return what is known of files that are made, else None."""
    path = path_of(spec, side, kind, cache) / FACTS
    return json.loads(path.read_text()) if path.exists() else None


def adopt(spec: str, side: int, kind: str, made: Path, cache: Path) -> None:
    """Keep what :func:`measure_export` left in a folder, as if :func:`prepare` had made it; unless that is there."""
    if facts(spec, side, kind, cache):
        return
    folder = path_of(spec, side, kind, cache)
    _replace(folder)
    shutil.copytree(made / "0", folder if kind == FORWARD else folder / "artifact")
    shutil.copy(made / FACTS, folder)


def onnx_file(spec: str, side: int, kind: str, cache: Path) -> Path:
    """Return where :func:`prepare` puts the ONNX file of a kind."""
    folder = path_of(spec, side, kind, cache)
    return folder / "model.onnx" if kind in (FORWARD, BY_HAND) else folder / "artifact" / "model.onnx"


def torchscript_file(spec: str, side: int, cache: Path) -> Path:
    """Return where :func:`prepare` puts the TorchScript file."""
    return path_of(spec, side, "onnxruntime", cache) / "artifact" / "model.pt"


def export_forward(model: Any, shape: tuple[int, ...], path: Path) -> None:
    """Export the forward pass as PyTorch does it, with the artifact's dynamic batch and weights in the one file."""
    import torch

    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.onnx's own deprecations
        torch.onnx.export(
            model,
            (torch.zeros(2, *shape),),
            path,
            input_names=["image"],
            output_names=["logits"],
            dynamo=True,
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )


def export_artifact(model: Any, shape: tuple[int, ...], folder: Path, kind: str, formats: tuple[str, ...]) -> Any:
    """Export and prove an artifact; returns the stages and what they took."""
    import exporter
    from exporter.stages import Stages

    stages = Stages()
    exporter.export(model, shape, folder, formats=formats, optimize_for=kind, stages=stages)
    return stages


def measure_export(spec: str, side: int, folder: Path, forward: bool, turns: int) -> dict[str, Any]:
    """Time exports in this process: the first, once everything is imported, and the next ones."""
    import onnxscript  # noqa: F401  torch.onnx imports it at its first call
    import torch
    import torch.export._trace  # torch.export imports it at its first call, and hundreds of modules with it
    import torch.onnx._internal.exporter._core

    import exporter.pipeline  # noqa: F401

    model, shape = network(spec, side)
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "seconds": [], "stages": []}
    for turn in range(turns):
        target = folder / str(turn)
        start = time.perf_counter()
        if forward:
            target.mkdir(parents=True)
            export_forward(model, shape, target / "model.onnx")
        else:
            stages = export_artifact(model, shape, target, "onnxruntime", ("torchscript", "onnx"))
            found["stages"].append({stage.name: round(stage.seconds, 3) for stage in stages.done})
        found["seconds"].append(round(time.perf_counter() - start, 3))
    (folder / FACTS).write_text(json.dumps({"shape": shape}))
    found["bytes"] = {path.name: path.stat().st_size for path in sorted(target.iterdir())}
    return found
